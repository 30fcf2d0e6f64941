"""From the query service's answers to messages. Pure."""

from __future__ import annotations

from google.protobuf import duration_pb2

from services.query.application.query import Answer, Degradation, DegradationReason, Freshness, Hit, LegScore, Mode, Timings
from shared.gen.knowledgebeast.common.v1 import types_pb2
from shared.gen.knowledgebeast.query.v1 import query_pb2 as pb
from shared.rpc.convert import struct_from_metadata, timestamp

_MODES = {Mode.HYBRID: pb.SEARCH_MODE_HYBRID, Mode.VECTOR: pb.SEARCH_MODE_VECTOR, Mode.KEYWORD: pb.SEARCH_MODE_KEYWORD}
_REASONS = {
    DegradationReason.VECTOR_STORE_UNAVAILABLE: pb.Degradation.REASON_VECTOR_STORE_UNAVAILABLE,
    DegradationReason.VECTOR_LEG_MISSING: pb.Degradation.REASON_VECTOR_LEG_MISSING,
    DegradationReason.EMBEDDING_UNAVAILABLE: pb.Degradation.REASON_EMBEDDING_UNAVAILABLE,
    DegradationReason.REPLICA_STALE: pb.Degradation.REASON_REPLICA_STALE,
    DegradationReason.VECTORS_STALE: pb.Degradation.REASON_VECTORS_STALE,
}


def response(answer: Answer) -> pb.SearchResponse:
    """The answer of a search."""
    return pb.SearchResponse(
        hits=[_hit(hit) for hit in answer.hits],
        mode=_MODES[answer.mode],
        degraded_mode=bool(answer.degradations),
        degradations=[_degradation(degradation) for degradation in answer.degradations],
        freshness=_freshness(answer.freshness),
        timings=_timings(answer.timings),
    )


def _hit(hit: Hit) -> pb.Hit:
    chunk = hit.chunk
    return pb.Hit(
        document_id=hit.document_id,
        chunk=types_pb2.Chunk(id=chunk.id, ordinal=chunk.ordinal, text=chunk.text, start_offset=chunk.start, end_offset=chunk.end),
        title=hit.title,
        metadata=struct_from_metadata(hit.metadata),
        score=hit.score,
        vector=_leg(hit.vector),
        keyword=_leg(hit.keyword),
    )


def _leg(score: LegScore | None) -> pb.LegScore | None:
    return None if score is None else pb.LegScore(rank=score.rank, score=score.score)


def _degradation(degradation: Degradation) -> pb.Degradation:
    return pb.Degradation(
        reason=_REASONS[degradation.reason], component=degradation.component, message=degradation.message, since=timestamp(degradation.since)
    )


def _freshness(freshness: Freshness) -> pb.Freshness:
    return pb.Freshness(
        epoch=freshness.epoch,
        sequence=freshness.sequence,
        vector_sequence=freshness.vector_sequence,
        head_sequence=freshness.head,
        contact_time=None if freshness.contact_time is None else timestamp(freshness.contact_time),
    )


def _timings(timings: Timings) -> pb.Timings:
    return pb.Timings(
        total=_duration(timings.total),
        wait=_duration(timings.wait),
        embed=_duration(timings.embed),
        vector=_duration(timings.vector),
        keyword=_duration(timings.keyword),
        assemble=_duration(timings.assemble),
    )


def _duration(seconds: float | None) -> duration_pb2.Duration | None:
    if seconds is None:
        return None
    whole = int(seconds)
    return duration_pb2.Duration(seconds=whole, nanos=int((seconds - whole) * 1e9))

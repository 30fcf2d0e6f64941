"""From the query service's answers to messages. Pure."""

from __future__ import annotations

from datetime import datetime

from google.protobuf import duration_pb2, timestamp_pb2

from shared.domain import Chunk
from shared.gen.knowledgebeast.common.v1 import types_pb2
from shared.gen.knowledgebeast.query.v1 import query_pb2 as pb
from shared.rpc.convert import struct_from_metadata, timestamp
from shared.search import (
    Degradation,
    DegradationReason,
    Explanation,
    Freshness,
    GroupedChunk,
    Hit,
    LegContribution,
    LegScore,
    SearchAnswer,
    SearchMode,
    Snippet,
    Timings,
)

_MODES = {SearchMode.HYBRID: pb.SEARCH_MODE_HYBRID, SearchMode.VECTOR: pb.SEARCH_MODE_VECTOR, SearchMode.KEYWORD: pb.SEARCH_MODE_KEYWORD}
_REASONS = {
    DegradationReason.VECTOR_STORE_UNAVAILABLE: pb.Degradation.REASON_VECTOR_STORE_UNAVAILABLE,
    DegradationReason.VECTOR_LEG_MISSING: pb.Degradation.REASON_VECTOR_LEG_MISSING,
    DegradationReason.EMBEDDING_UNAVAILABLE: pb.Degradation.REASON_EMBEDDING_UNAVAILABLE,
    DegradationReason.REPLICA_STALE: pb.Degradation.REASON_REPLICA_STALE,
    DegradationReason.VECTORS_STALE: pb.Degradation.REASON_VECTORS_STALE,
    DegradationReason.RERANKING_SKIPPED: pb.Degradation.REASON_RERANKING_SKIPPED,
    DegradationReason.DIVERSITY_SKIPPED: pb.Degradation.REASON_DIVERSITY_SKIPPED,
    DegradationReason.FILTER_INCOMPLETE: pb.Degradation.REASON_FILTER_INCOMPLETE,
    DegradationReason.LAST_GOOD_ANSWER: pb.Degradation.REASON_LAST_GOOD_ANSWER,
}


def response(answer: SearchAnswer) -> pb.SearchResponse:
    """The answer of a search."""
    return pb.SearchResponse(
        hits=map(_hit, answer.hits),
        mode=_MODES[answer.mode],
        degraded_mode=answer.degraded,
        degradations=map(_degradation, answer.degradations),
        freshness=_freshness(answer.freshness),
        timings=_timings(answer.timings),
        next_page_token=answer.next_page_token,
        cached=answer.cached,
        served_from_cache=answer.served_from_cache,
        found_time=_time(answer.found_time),
    )


def similar_response(answer: SearchAnswer) -> pb.FindSimilarResponse:
    """The answer of FindSimilar."""
    return pb.FindSimilarResponse(
        hits=map(_hit, answer.hits),
        degraded_mode=answer.degraded,
        degradations=map(_degradation, answer.degradations),
        freshness=_freshness(answer.freshness),
        timings=_timings(answer.timings),
        served_from_cache=answer.served_from_cache,
        found_time=_time(answer.found_time),
    )


def _chunk(chunk: Chunk) -> types_pb2.Chunk:
    return types_pb2.Chunk(id=chunk.id, ordinal=chunk.ordinal, text=chunk.text, start_offset=chunk.start, end_offset=chunk.end)


def _hit(hit: Hit) -> pb.Hit:
    return pb.Hit(
        document_id=hit.document_id,
        chunk=_chunk(hit.chunk),
        title=hit.title,
        metadata=struct_from_metadata(hit.metadata),
        score=hit.score,
        vector=_leg(hit.vector),
        keyword=_leg(hit.keyword),
        more_chunks=map(_grouped, hit.more_chunks),
        snippets=map(_snippet, hit.snippets),
        explanation=None if hit.explanation is None else _explanation(hit.explanation),
        reranked=hit.reranked,
    )


def _leg(score: LegScore | None) -> pb.LegScore | None:
    return None if score is None else pb.LegScore(rank=score.rank, score=score.score)


def _grouped(member: GroupedChunk) -> pb.GroupedChunk:
    return pb.GroupedChunk(chunk=_chunk(member.chunk), score=member.score, vector=_leg(member.vector), keyword=_leg(member.keyword))


def _snippet(snippet: Snippet) -> pb.Snippet:
    matches = [pb.TextRange(start_offset=match.start, end_offset=match.end) for match in snippet.matches]
    return pb.Snippet(text=snippet.text, start_offset=snippet.start, end_offset=snippet.end, matches=matches)


def _explanation(explanation: Explanation) -> pb.Explanation:
    diversity, reranking = explanation.diversity, explanation.reranking
    return pb.Explanation(
        vector=_contribution(explanation.vector),
        keyword=_contribution(explanation.keyword),
        fused_score=explanation.fused_score,
        formula=explanation.formula,
        diversity=None
        if diversity is None
        else pb.DiversityStep(
            relevance=diversity.relevance, similarity=diversity.similarity, value=diversity.value, rank_before=diversity.rank_before
        ),
        reranking=None if reranking is None else pb.RerankingStep(score=reranking.score, rank_before=reranking.rank_before),
    )


def _contribution(leg: LegContribution | None) -> pb.LegContribution | None:
    if leg is None:
        return None
    return pb.LegContribution(rank=leg.rank, score=leg.score, normalized_score=leg.normalized_score, weight=leg.weight, contribution=leg.contribution)


def _degradation(degradation: Degradation) -> pb.Degradation:
    return pb.Degradation(
        reason=_REASONS[degradation.reason], component=degradation.component, message=degradation.message, since=_time(degradation.since)
    )


def _freshness(freshness: Freshness) -> pb.Freshness:
    return pb.Freshness(
        epoch=freshness.epoch,
        sequence=freshness.sequence,
        vector_sequence=freshness.vector_sequence,
        head_sequence=freshness.head,
        contact_time=_time(freshness.contact_time),
    )


def _timings(timings: Timings) -> pb.Timings:
    return pb.Timings(
        total=_duration(timings.total),
        wait=_duration(timings.wait),
        embed=_duration(timings.embed),
        vector=_duration(timings.vector),
        keyword=_duration(timings.keyword),
        assemble=_duration(timings.assemble),
        rerank=_duration(timings.rerank),
    )


def _time(time: datetime | None) -> timestamp_pb2.Timestamp | None:
    return None if time is None else timestamp(time)


def _duration(seconds: float | None) -> duration_pb2.Duration | None:
    if seconds is None:
        return None
    whole = int(seconds)
    return duration_pb2.Duration(seconds=whole, nanos=int((seconds - whole) * 1e9))

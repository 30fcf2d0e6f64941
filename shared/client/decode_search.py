"""From messages to answers. Pure. What a newer service says beyond what is known here is kept as UNKNOWN, never refused."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from google.protobuf import duration_pb2

from shared.domain import DocumentId, SequenceNumber, VectorSequence
from shared.gen.knowledgebeast.query.v1 import query_pb2
from shared.rpc import resources
from shared.rpc.convert import metadata_from_struct, time_of
from shared.search import (
    Degradation,
    DegradationReason,
    DiversityStep,
    Explanation,
    Freshness,
    GroupedChunk,
    Hit,
    LegContribution,
    LegScore,
    RerankingStep,
    SearchAnswer,
    SearchMode,
    Snippet,
    TextRange,
    Timings,
)

_MODES: dict[int, SearchMode] = {
    query_pb2.SEARCH_MODE_HYBRID: SearchMode.HYBRID,
    query_pb2.SEARCH_MODE_VECTOR: SearchMode.VECTOR,
    query_pb2.SEARCH_MODE_KEYWORD: SearchMode.KEYWORD,
}
_REASONS: dict[int, DegradationReason] = {
    query_pb2.Degradation.REASON_VECTOR_STORE_UNAVAILABLE: DegradationReason.VECTOR_STORE_UNAVAILABLE,
    query_pb2.Degradation.REASON_VECTOR_LEG_MISSING: DegradationReason.VECTOR_LEG_MISSING,
    query_pb2.Degradation.REASON_EMBEDDING_UNAVAILABLE: DegradationReason.EMBEDDING_UNAVAILABLE,
    query_pb2.Degradation.REASON_REPLICA_STALE: DegradationReason.REPLICA_STALE,
    query_pb2.Degradation.REASON_VECTORS_STALE: DegradationReason.VECTORS_STALE,
    query_pb2.Degradation.REASON_RERANKING_SKIPPED: DegradationReason.RERANKING_SKIPPED,
    query_pb2.Degradation.REASON_DIVERSITY_SKIPPED: DegradationReason.DIVERSITY_SKIPPED,
    query_pb2.Degradation.REASON_FILTER_INCOMPLETE: DegradationReason.FILTER_INCOMPLETE,
    query_pb2.Degradation.REASON_LAST_GOOD_ANSWER: DegradationReason.LAST_GOOD_ANSWER,
}
# A service that calls an answer degraded and gives no reason.
_UNEXPLAINED = Degradation(DegradationReason.UNKNOWN, "", "", None)


def _leg(message: query_pb2.Hit | query_pb2.GroupedChunk, leg: str) -> LegScore | None:
    if not message.HasField(leg):  # type: ignore[arg-type] # the stubs want a literal; both messages have both legs
        return None
    score: query_pb2.LegScore = getattr(message, leg)
    return LegScore(score.rank, score.score)


def _grouped(message: query_pb2.GroupedChunk) -> GroupedChunk:
    return GroupedChunk(resources.chunk(message.chunk), message.score, _leg(message, "vector"), _leg(message, "keyword"))


def _snippet(message: query_pb2.Snippet) -> Snippet:
    matches = tuple(TextRange(match.start_offset, match.end_offset) for match in message.matches)
    return Snippet(message.text, message.start_offset, message.end_offset, matches)


def _contribution(message: query_pb2.LegContribution) -> LegContribution:
    return LegContribution(message.rank, message.score, message.normalized_score, message.weight, message.contribution)


def _explanation(message: query_pb2.Explanation) -> Explanation:
    diverse, reranked = message.diversity, message.reranking
    return Explanation(
        vector=_contribution(message.vector) if message.HasField("vector") else None,
        keyword=_contribution(message.keyword) if message.HasField("keyword") else None,
        fused_score=message.fused_score,
        formula=message.formula,
        diversity=DiversityStep(diverse.relevance, diverse.similarity, diverse.value, diverse.rank_before) if message.HasField("diversity") else None,
        reranking=RerankingStep(reranked.score, reranked.rank_before) if message.HasField("reranking") else None,
    )


def _hit(message: query_pb2.Hit) -> Hit:
    return Hit(
        document_id=DocumentId(message.document_id),
        title=message.title,
        metadata=metadata_from_struct(message.metadata),
        chunk=resources.chunk(message.chunk),
        score=message.score,
        vector=_leg(message, "vector"),
        keyword=_leg(message, "keyword"),
        more_chunks=tuple(map(_grouped, message.more_chunks)),
        snippets=tuple(map(_snippet, message.snippets)),
        explanation=_explanation(message.explanation) if message.HasField("explanation") else None,
        reranked=message.reranked,
    )


def _degradation(message: query_pb2.Degradation) -> Degradation:
    reason = _REASONS.get(message.reason, DegradationReason.UNKNOWN)
    return Degradation(reason, message.component, message.message, time_of(message.since) if message.HasField("since") else None)


def _degradations(degraded: bool, messages: Iterable[query_pb2.Degradation]) -> tuple[Degradation, ...]:
    found = tuple(map(_degradation, messages))
    return found if found or not degraded else (_UNEXPLAINED,)


def _freshness(message: query_pb2.Freshness) -> Freshness:
    return Freshness(
        epoch=message.epoch,
        sequence=SequenceNumber(message.sequence),
        vector_sequence=VectorSequence(message.vector_sequence),
        head=SequenceNumber(message.head_sequence),
        contact_time=time_of(message.contact_time) if message.HasField("contact_time") else None,
    )


def _found_time(message: query_pb2.SearchResponse | query_pb2.FindSimilarResponse) -> datetime | None:
    return time_of(message.found_time) if message.HasField("found_time") else None


def _seconds(message: duration_pb2.Duration) -> float:
    return message.seconds + message.nanos / 1e9


def _timings(message: query_pb2.Timings) -> Timings:
    return Timings(
        total=_seconds(message.total),
        wait=_seconds(message.wait) if message.HasField("wait") else None,
        embed=_seconds(message.embed) if message.HasField("embed") else None,
        vector=_seconds(message.vector) if message.HasField("vector") else None,
        keyword=_seconds(message.keyword) if message.HasField("keyword") else None,
        assemble=_seconds(message.assemble) if message.HasField("assemble") else None,
        rerank=_seconds(message.rerank) if message.HasField("rerank") else None,
    )


def search_answer(message: query_pb2.SearchResponse) -> SearchAnswer:
    """The answer to a search."""
    return SearchAnswer(
        hits=tuple(map(_hit, message.hits)),
        mode=_MODES.get(message.mode, SearchMode.HYBRID),
        degradations=_degradations(message.degraded_mode, message.degradations),
        freshness=_freshness(message.freshness),
        timings=_timings(message.timings),
        next_page_token=message.next_page_token,
        cached=message.cached,
        served_from_cache=message.served_from_cache,
        found_time=_found_time(message),
    )


def similar_answer(message: query_pb2.FindSimilarResponse) -> SearchAnswer:
    """The documents that are like a document, as the answer to a search by meaning; it is always one page."""
    return SearchAnswer(
        hits=tuple(map(_hit, message.hits)),
        mode=SearchMode.VECTOR,
        degradations=_degradations(message.degraded_mode, message.degradations),
        freshness=_freshness(message.freshness),
        timings=_timings(message.timings),
        served_from_cache=message.served_from_cache,
        found_time=_found_time(message),
    )

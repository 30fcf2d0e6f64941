"""From searches to messages. Pure. The services check what is allowed, so that their rules stand in one place."""

from __future__ import annotations

from shared.client import encode
from shared.client.types import SearchQuery
from shared.filters import Filter
from shared.gen.knowledgebeast.query.v1 import query_pb2
from shared.search import Diversity, FusionMethod, Grouping, Reranking, SearchMode, Snippets

_MODES = {
    SearchMode.HYBRID: query_pb2.SEARCH_MODE_HYBRID,
    SearchMode.VECTOR: query_pb2.SEARCH_MODE_VECTOR,
    SearchMode.KEYWORD: query_pb2.SEARCH_MODE_KEYWORD,
}
_FUSIONS = {FusionMethod.RRF: query_pb2.FUSION_METHOD_RRF, FusionMethod.WEIGHTED: query_pb2.FUSION_METHOD_WEIGHTED}


def _consistency(token: str | None) -> query_pb2.Consistency | None:
    return None if token is None else query_pb2.Consistency(at_least_as_fresh=token)


def _grouping(value: Grouping | None) -> query_pb2.Grouping | None:
    return None if value is None else query_pb2.Grouping(more_chunks=value.more_chunks)


def _diversity(value: Diversity | None) -> query_pb2.Diversity | None:
    # The field is called `lambda`, a keyword of Python.
    return None if value is None else query_pb2.Diversity(**{"lambda": value.lambda_})


def _snippets(value: Snippets | None) -> query_pb2.Snippets | None:
    return None if value is None else query_pb2.Snippets(max_characters=value.max_characters, max_snippets=value.max_snippets)


def _reranking(value: Reranking | None) -> query_pb2.Reranking | None:
    return None if value is None else query_pb2.Reranking(candidates=value.candidates)


def search(project_id: str, query: SearchQuery) -> query_pb2.SearchRequest:
    """A search as a message; what is None is left to the service."""
    return query_pb2.SearchRequest(
        project_id=project_id,
        query=query.query,
        mode=query_pb2.SEARCH_MODE_UNSPECIFIED if query.mode is None else _MODES[query.mode],
        top_k=query.top_k,
        fusion=query_pb2.FUSION_METHOD_UNSPECIFIED if query.fusion is None else _FUSIONS[query.fusion],
        alpha=query.alpha,
        filter=encode.filter_message(query.filter),
        consistency=_consistency(query.at_least_as_fresh),
        allow_degraded=query.allow_degraded,
        rrf_k=query.rrf_k,
        candidates=query.candidates,
        min_vector_score=query.min_vector_score,
        min_keyword_score=query.min_keyword_score,
        grouping=_grouping(query.grouping),
        diversity=_diversity(query.diversity),
        snippets=_snippets(query.snippets),
        explain=query.explain,
        reranking=_reranking(query.reranking),
        page_token=query.page_token,
    )


def find_similar(
    project_id: str,
    document_id: str,
    *,
    top_k: int | None,
    condition: Filter | None,
    at_least_as_fresh: str | None,
    allow_degraded: bool | None,
    min_score: float | None,
    more_chunks: int | None,
) -> query_pb2.FindSimilarRequest:
    """A search for similar documents as a message; what is None is left to the service."""
    return query_pb2.FindSimilarRequest(
        project_id=project_id,
        document_id=document_id,
        top_k=top_k,
        filter=encode.filter_message(condition),
        consistency=_consistency(at_least_as_fresh),
        allow_degraded=allow_degraded,
        min_score=min_score,
        more_chunks=more_chunks,
    )

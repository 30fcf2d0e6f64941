"""Checks of what clients send to the query service, with the limits that the protos state. Pure."""

from __future__ import annotations

import math

from services.query.application.query import DEFAULT_FUSION, DEFAULT_RRF_K, MIN_CANDIDATES, Query, SimilarQuery
from shared import consistency
from shared.domain import Cursor, DocumentId, ProjectId
from shared.errors import FieldViolation, InvalidArgumentError
from shared.filters import Filter
from shared.gen.knowledgebeast.common.v1 import filter_pb2
from shared.gen.knowledgebeast.query.v1 import query_pb2 as pb
from shared.rpc.convert_filter import filter_from_proto
from shared.search import Diversity, FusionMethod, Grouping, Reranking, SearchMode, Snippets

MAX_SEARCHES = 100
_MAX_QUERY = 4_000
_MAX_TOP_K = 1_000
_DEFAULT_TOP_K = 10
_MAX_CANDIDATES = 1_000
_MAX_RRF_K = 10_000
_MAX_MORE_CHUNKS = 100
_MAX_RERANKED = 200
_MAX_DOCUMENT_ID_BYTES = 256

_MODES = {
    pb.SEARCH_MODE_UNSPECIFIED: SearchMode.HYBRID,
    pb.SEARCH_MODE_HYBRID: SearchMode.HYBRID,
    pb.SEARCH_MODE_VECTOR: SearchMode.VECTOR,
    pb.SEARCH_MODE_KEYWORD: SearchMode.KEYWORD,
}
_FUSIONS = {
    pb.FUSION_METHOD_UNSPECIFIED: DEFAULT_FUSION,
    pb.FUSION_METHOD_RRF: FusionMethod.RRF,
    pb.FUSION_METHOD_WEIGHTED: FusionMethod.WEIGHTED,
}


class _Checks:
    """Collects what is wrong with a request, so that a client learns all of it at once."""

    def __init__(self) -> None:
        self.violations: list[FieldViolation] = []

    def require(self, holds: bool, field: str, description: str) -> None:
        if not holds:
            self.violations.append(FieldViolation(field, description))

    def within(self, value: int, low: int, high: int, field: str) -> int:
        self.require(low <= value <= high, field, f"must be {low:,} to {high:,}; this is {value:,}")
        return value

    def number(self, value: float, low: float, high: float, field: str, meaning: str) -> float:
        self.require(math.isfinite(value) and low <= value <= high, field, f"must be {meaning}; this is {value:g}")
        return value

    def filter(self, message: filter_pb2.Filter) -> Filter | None:
        if not message.WhichOneof("condition"):
            return None
        try:
            return filter_from_proto(message)
        except InvalidArgumentError as error:
            self.violations.extend(error.violations)
            return None

    def fresh_as(self, project_id: str, message: pb.Consistency) -> Cursor | None:
        if not message.at_least_as_fresh:
            return None
        try:
            return consistency.decode(message.at_least_as_fresh, ProjectId(project_id))
        except InvalidArgumentError as error:
            self.violations.extend(error.violations)
            return None

    def cosine(self, value: float, field: str) -> float:
        return self.number(value, -1, 1, field, "a cosine, -1 to 1")

    def raise_found(self) -> None:
        if self.violations:
            message = "; ".join(f"{each.field}: {each.description}" for each in self.violations[:5])
            raise InvalidArgumentError(message, tuple(self.violations))


def project_id(value: str) -> ProjectId:
    """The project of a request that has nothing else to check. Raises InvalidArgumentError."""
    if not value:
        raise InvalidArgumentError.of("project_id", "must not be empty")
    return ProjectId(value)


def query(request: pb.SearchRequest) -> Query:
    """The search that is asked for, with its defaults. Raises InvalidArgumentError with everything that is wrong."""
    checks = _Checks()
    text = request.query.strip()
    checks.require(bool(request.project_id), "project_id", "must not be empty")
    checks.require(bool(text), "query", "must not be empty")
    checks.require(len(request.query) <= _MAX_QUERY, "query", f"must have at most {_MAX_QUERY:,} characters; this has {len(request.query):,}")
    checks.require(request.mode in _MODES, "mode", "is not a SearchMode")
    checks.require(request.fusion in _FUSIONS, "fusion", "is not a FusionMethod")
    found = Query(
        project_id=ProjectId(request.project_id),
        text=text,
        mode=_MODES.get(request.mode, SearchMode.HYBRID),
        top_k=_top_k(request, checks),
        fusion=_FUSIONS.get(request.fusion, DEFAULT_FUSION),
        alpha=_weight(checks.number(request.alpha, 0, 1, "alpha", "0 (keyword alone) to 1 (vector alone)")) if request.HasField("alpha") else None,
        rrf_k=checks.within(request.rrf_k, 1, _MAX_RRF_K, "rrf_k") if request.HasField("rrf_k") else DEFAULT_RRF_K,
        candidates=checks.within(request.candidates, MIN_CANDIDATES, _MAX_CANDIDATES, "candidates")
        if request.HasField("candidates")
        else MIN_CANDIDATES,
        min_vector_score=checks.cosine(request.min_vector_score, "min_vector_score") if request.HasField("min_vector_score") else None,
        min_keyword_score=checks.number(request.min_keyword_score, 0, math.inf, "min_keyword_score", "0 or more")
        if request.HasField("min_keyword_score")
        else None,
        filter=checks.filter(request.filter),
        grouping=_grouping(request.grouping, checks) if request.HasField("grouping") else None,
        diversity=_diversity(request.diversity, checks) if request.HasField("diversity") else None,
        snippets=_snippets(request.snippets, checks) if request.HasField("snippets") else None,
        explain=request.explain,
        reranking=_reranking(request.reranking, checks) if request.HasField("reranking") else None,
        page_token=request.page_token,
        fresh_as=checks.fresh_as(request.project_id, request.consistency),
        allow_degraded=request.allow_degraded if request.HasField("allow_degraded") else True,
    )
    checks.raise_found()
    return found


def similar(request: pb.FindSimilarRequest) -> SimilarQuery:
    """What is asked for, with its defaults. Raises InvalidArgumentError with everything that is wrong."""
    checks = _Checks()
    checks.require(bool(request.project_id), "project_id", "must not be empty")
    checks.require(bool(request.document_id), "document_id", "must not be empty")
    size = len(request.document_id.encode())
    checks.require(size <= _MAX_DOCUMENT_ID_BYTES, "document_id", f"must have at most {_MAX_DOCUMENT_ID_BYTES} bytes of UTF-8; this has {size}")
    found = SimilarQuery(
        project_id=ProjectId(request.project_id),
        document_id=DocumentId(request.document_id),
        top_k=_top_k(request, checks),
        more_chunks=checks.within(request.more_chunks, 0, _MAX_MORE_CHUNKS, "more_chunks") if request.HasField("more_chunks") else 0,
        min_score=checks.cosine(request.min_score, "min_score") if request.HasField("min_score") else None,
        filter=checks.filter(request.filter),
        fresh_as=checks.fresh_as(request.project_id, request.consistency),
        allow_degraded=request.allow_degraded if request.HasField("allow_degraded") else True,
    )
    checks.raise_found()
    return found


def _top_k(request: pb.SearchRequest | pb.FindSimilarRequest, checks: _Checks) -> int:
    return checks.within(request.top_k, 1, _MAX_TOP_K, "top_k") if request.HasField("top_k") else _DEFAULT_TOP_K


def _grouping(message: pb.Grouping, checks: _Checks) -> Grouping:
    return (
        Grouping(checks.within(message.more_chunks, 0, _MAX_MORE_CHUNKS, "grouping.more_chunks")) if message.HasField("more_chunks") else Grouping()
    )


def _diversity(message: pb.Diversity, checks: _Checks) -> Diversity:
    if not message.HasField("lambda"):
        return Diversity()
    return Diversity(_weight(checks.number(getattr(message, "lambda"), 0, 1, "diversity.lambda", "0 (diversity alone) to 1 (relevance alone)")))


def _weight(value: float) -> float:
    """A single-precision number without the digits that come of its conversion: 0.3 and not 0.30000001192092896."""
    return round(value, 6) if math.isfinite(value) else value


def _snippets(message: pb.Snippets, checks: _Checks) -> Snippets:
    default = Snippets()
    return Snippets(
        max_characters=checks.within(message.max_characters, 20, 2_000, "snippets.max_characters")
        if message.HasField("max_characters")
        else default.max_characters,
        max_snippets=checks.within(message.max_snippets, 1, 5, "snippets.max_snippets") if message.HasField("max_snippets") else default.max_snippets,
    )


def _reranking(message: pb.Reranking, checks: _Checks) -> Reranking:
    if not message.HasField("candidates"):
        return Reranking()
    return Reranking(checks.within(message.candidates, 1, _MAX_RERANKED, "reranking.candidates"))


def searches(request: pb.BatchSearchRequest) -> None:
    """Raises InvalidArgumentError unless the batch has 1 to 100 searches."""
    if not 1 <= len(request.searches) <= MAX_SEARCHES:
        raise InvalidArgumentError.of("searches", f"must have 1 to {MAX_SEARCHES} searches; this has {len(request.searches)}")

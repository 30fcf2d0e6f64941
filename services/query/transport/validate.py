"""Checks of what clients send to the query service, with the limits that the protos state. Pure."""

from __future__ import annotations

import math

from services.query.application.query import Fusion, Mode, Query
from shared import consistency
from shared.domain import Cursor, ProjectId
from shared.errors import FieldViolation, InvalidArgumentError
from shared.filters import Filter
from shared.gen.knowledgebeast.query.v1 import query_pb2 as pb
from shared.rpc.convert_filter import filter_from_proto

MAX_SEARCHES = 100
_MAX_QUERY = 4_000
_MAX_TOP_K = 1_000
_DEFAULT_TOP_K = 10
_DEFAULT_ALPHA = 0.5

_MODES = {
    pb.SEARCH_MODE_UNSPECIFIED: Mode.HYBRID,
    pb.SEARCH_MODE_HYBRID: Mode.HYBRID,
    pb.SEARCH_MODE_VECTOR: Mode.VECTOR,
    pb.SEARCH_MODE_KEYWORD: Mode.KEYWORD,
}
_FUSIONS = {
    pb.FUSION_METHOD_UNSPECIFIED: Fusion.RRF,
    pb.FUSION_METHOD_RRF: Fusion.RRF,
    pb.FUSION_METHOD_WEIGHTED: Fusion.WEIGHTED,
}


class _Checks:
    """Collects what is wrong with a request, so that a client learns all of it at once."""

    def __init__(self) -> None:
        self.violations: list[FieldViolation] = []

    def require(self, holds: bool, field: str, description: str) -> None:
        if not holds:
            self.violations.append(FieldViolation(field, description))

    def filter(self, request: pb.SearchRequest) -> Filter | None:
        if not request.filter.WhichOneof("condition"):
            return None
        try:
            return filter_from_proto(request.filter)
        except InvalidArgumentError as error:
            self.violations.extend(error.violations)
            return None

    def fresh_as(self, request: pb.SearchRequest) -> Cursor | None:
        if not request.consistency.at_least_as_fresh:
            return None
        try:
            return consistency.decode(request.consistency.at_least_as_fresh, ProjectId(request.project_id))
        except InvalidArgumentError as error:
            self.violations.extend(error.violations)
            return None


def query(request: pb.SearchRequest) -> Query:
    """The search that is asked for, with its defaults. Raises InvalidArgumentError with everything that is wrong."""
    checks = _Checks()
    top_k = request.top_k if request.HasField("top_k") else _DEFAULT_TOP_K
    alpha = request.alpha if request.HasField("alpha") else _DEFAULT_ALPHA
    checks.require(bool(request.project_id), "project_id", "must not be empty")
    checks.require(bool(request.query.strip()), "query", "must not be empty")
    checks.require(len(request.query) <= _MAX_QUERY, "query", f"must have at most {_MAX_QUERY:,} characters; this has {len(request.query):,}")
    checks.require(1 <= top_k <= _MAX_TOP_K, "top_k", f"must be 1 to {_MAX_TOP_K:,}; this is {top_k:,}")
    checks.require(math.isfinite(alpha) and 0 <= alpha <= 1, "alpha", f"must be 0 (keyword alone) to 1 (vector alone); this is {alpha:g}")
    checks.require(request.mode in _MODES, "mode", "is not a SearchMode")
    checks.require(request.fusion in _FUSIONS, "fusion", "is not a FusionMethod")
    condition = checks.filter(request)
    fresh_as = checks.fresh_as(request)
    if checks.violations:
        message = "; ".join(f"{each.field}: {each.description}" for each in checks.violations[:5])
        raise InvalidArgumentError(message, tuple(checks.violations))
    return Query(
        project_id=ProjectId(request.project_id),
        text=request.query,
        mode=_MODES[request.mode],
        top_k=top_k,
        fusion=_FUSIONS[request.fusion],
        alpha=alpha,
        filter=condition,
        fresh_as=fresh_as,
        allow_degraded=request.allow_degraded if request.HasField("allow_degraded") else True,
    )


def searches(request: pb.BatchSearchRequest) -> None:
    """Raises InvalidArgumentError unless the batch has 1 to 100 searches."""
    if not 1 <= len(request.searches) <= MAX_SEARCHES:
        raise InvalidArgumentError.of("searches", f"must have 1 to {MAX_SEARCHES} searches; this has {len(request.searches)}")

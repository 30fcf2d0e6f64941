"""QueryService."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass

from services.query.application.query import Query
from services.query.application.search import Search
from services.query.application.similar import FindSimilar
from services.query.transport import convert, validate
from shared.errors import InvalidArgumentError, KnowledgeBeastError
from shared.gen.knowledgebeast.query.v1 import query_pb2 as pb
from shared.gen.knowledgebeast.query.v1 import query_pb2_grpc
from shared.observability.logging import get_logger
from shared.resilience.deadline import Deadline
from shared.rpc import request_id
from shared.rpc.access_log import bind_project
from shared.rpc.call import Context
from shared.rpc.status import item_error

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class TimeLimits:
    """Seconds: for a client that sets no deadline, for any request at most, and kept back to send the answer in."""

    default: float
    cap: float
    margin: float


class QueryServicer(query_pb2_grpc.QueryServiceServicer):
    """Searches documents."""

    def __init__(self, search: Search, find_similar: FindSimilar, limits: TimeLimits) -> None:
        self._search = search
        self._find_similar = find_similar
        self._limits = limits

    def _deadline(self, context: Context) -> Deadline:
        return Deadline.from_grpc(context, default=self._limits.default, cap=self._limits.cap, margin=self._limits.margin)

    async def Search(self, request: pb.SearchRequest, context: Context) -> pb.SearchResponse:
        """See the proto."""
        bind_project(request.project_id)
        query = validate.query(request)
        return convert.response(await self._search.run(query, self._deadline(context)))

    async def FindSimilar(self, request: pb.FindSimilarRequest, context: Context) -> pb.FindSimilarResponse:
        """See the proto."""
        bind_project(request.project_id)
        query = validate.similar(request)
        return convert.similar_response(await self._find_similar.run(query, self._deadline(context)))

    async def BatchSearch(self, request: pb.BatchSearchRequest, context: Context) -> AsyncIterator[pb.BatchSearchResponse]:
        """See the proto."""
        if len(named := {search.project_id for search in request.searches}) == 1:
            bind_project(named.pop())
        validate.searches(request)
        deadline = self._deadline(context)
        positions: list[int] = []
        queries: list[Query] = []
        for index, search in enumerate(request.searches):
            try:
                queries.append(validate.query(search))
            except InvalidArgumentError as error:
                yield _failed(index, error)
            else:
                positions.append(index)
        async with aclosing(self._search.run_batch(queries, deadline)) as outcomes:
            async for position, outcome in outcomes:
                index = positions[position]
                if isinstance(outcome, Exception):
                    if not isinstance(outcome, KnowledgeBeastError):
                        _log.error("a search of a batch failed", index=index, exc_info=outcome)
                    yield _failed(index, outcome)
                else:
                    yield pb.BatchSearchResponse(index=index, response=convert.response(outcome))


def _failed(index: int, error: Exception) -> pb.BatchSearchResponse:
    return pb.BatchSearchResponse(index=index, error=item_error(error, request_id.current()))

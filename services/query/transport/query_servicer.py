"""QueryService."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

from services.query.application.search import Search
from services.query.transport import convert, validate
from shared.errors import KnowledgeBeastError
from shared.gen.knowledgebeast.query.v1 import query_pb2 as pb
from shared.gen.knowledgebeast.query.v1 import query_pb2_grpc
from shared.observability.logging import get_logger
from shared.resilience.deadline import Deadline
from shared.rpc import request_id
from shared.rpc.access_log import bind_project
from shared.rpc.call import Context
from shared.rpc.status import item_error

# Searches of one batch that run at a time: more would only wait for the same cores.
_BATCH_CONCURRENCY = 8

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class TimeLimits:
    """Seconds: for a client that sets no deadline, for any request at most, and kept back to send the answer in."""

    default: float
    cap: float
    margin: float


class QueryServicer(query_pb2_grpc.QueryServiceServicer):
    """Searches documents."""

    def __init__(self, search: Search, limits: TimeLimits) -> None:
        self._search = search
        self._limits = limits

    def _deadline(self, context: Context) -> Deadline:
        return Deadline.from_grpc(context, default=self._limits.default, cap=self._limits.cap, margin=self._limits.margin)

    async def Search(self, request: pb.SearchRequest, context: Context) -> pb.SearchResponse:
        """See the proto."""
        query = validate.query(request)
        bind_project(query.project_id)
        return convert.response(await self._search.run(query, self._deadline(context)))

    async def BatchSearch(self, request: pb.BatchSearchRequest, context: Context) -> AsyncIterator[pb.BatchSearchResponse]:
        """See the proto."""
        validate.searches(request)
        deadline = self._deadline(context)
        gate = asyncio.Semaphore(_BATCH_CONCURRENCY)

        async def answer(index: int, search: pb.SearchRequest) -> pb.BatchSearchResponse:
            async with gate:
                try:
                    return pb.BatchSearchResponse(index=index, response=convert.response(await self._search.run(validate.query(search), deadline)))
                except Exception as error:  # noqa: BLE001 - one search's failure, of whatever kind, is its own
                    if not isinstance(error, KnowledgeBeastError):
                        _log.exception("a search of a batch failed", index=index)
                    return pb.BatchSearchResponse(index=index, error=item_error(error, request_id.current()))

        tasks = [asyncio.create_task(answer(index, search)) for index, search in enumerate(request.searches)]
        try:
            for next_done in asyncio.as_completed(tasks):
                yield await next_done
        finally:
            for task in tasks:
                task.cancel()

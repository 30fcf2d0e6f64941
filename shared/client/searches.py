"""Calls to QueryService."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from shared.client import decode, encode
from shared.client.endpoint import Endpoint
from shared.client.types import BatchSearchResult, SearchQuery, SearchResult
from shared.gen.knowledgebeast.query.v1 import query_pb2, query_pb2_grpc


class SearchCalls:
    """Searches. `timeout` is in seconds; None takes the client's."""

    _query: Endpoint

    async def search(self, project_id: str, query: str | SearchQuery, *, timeout: float | None = None) -> SearchResult:
        """Answers one search; a plain text is a search with the service's defaults.

        Raises NotFoundError if the query service does not know the project, and UnavailableError if the answer would be degraded and the query
        does not allow that.
        """
        wanted = SearchQuery(query) if isinstance(query, str) else query
        response = await self._query.call(self._searches.Search, encode.search(project_id, wanted), timeout)
        return decode.search_result(response)

    async def batch_search(
        self, project_id: str, queries: Sequence[SearchQuery], *, timeout: float | None = None
    ) -> AsyncIterator[BatchSearchResult]:
        """Answers 1 to 100 searches, each as soon as it is ready, in any order; `timeout` is for all of them."""
        request = query_pb2.BatchSearchRequest(searches=[encode.search(project_id, query) for query in queries])
        async for response in self._query.stream(self._searches.BatchSearch, request, timeout):
            if response.HasField("error"):
                yield BatchSearchResult(response.index, error=decode.item_error(response.error))
            else:
                yield BatchSearchResult(response.index, decode.search_result(response.response))

    @property
    def _searches(self) -> query_pb2_grpc.QueryServiceAsyncStub:
        return query_pb2_grpc.QueryServiceStub(self._query.channel)

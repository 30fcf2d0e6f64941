"""Calls to QueryService."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

from shared.client import decode, decode_search, encode_search
from shared.client.endpoint import Endpoint
from shared.client.types import BatchSearchResult, SearchQuery
from shared.filters import Filter
from shared.gen.knowledgebeast.query.v1 import query_pb2, query_pb2_grpc
from shared.search import SearchAnswer


class SearchCalls:
    """Searches. `timeout` is in seconds; None takes the client's."""

    _query: Endpoint

    async def search(self, project_id: str, query: str | SearchQuery, *, timeout: float | None = None) -> SearchAnswer:
        """Answers one search; a plain text is a search with the service's defaults.

        Raises NotFoundError if the query service does not know the project, UnavailableError if the answer would be degraded and the query
        does not allow that, and ConflictError (reason PAGE_TOKEN_STALE) if the page cannot be given any more: ask for the first one again.
        """
        wanted = SearchQuery(query) if isinstance(query, str) else query
        response = await self._query.call(self._searches.Search, encode_search.search(project_id, wanted), timeout)
        return decode_search.search_answer(response)

    async def pages(
        self, project_id: str, query: str | SearchQuery, *, limit: int | None = None, timeout: float | None = None
    ) -> AsyncIterator[SearchAnswer]:
        """Answers page after page, from the query's own page token to the last page; no hit is repeated or skipped.

        No further page is asked for once `limit` hits or more have come. `timeout` is for each page. Raises what `search` does; ConflictError
        after some pages means that the project has changed in a way that another page would contradict.
        """
        wanted, count = SearchQuery(query) if isinstance(query, str) else query, 0
        while True:
            answer = await self.search(project_id, wanted, timeout=timeout)
            yield answer
            count += len(answer.hits)
            if not answer.next_page_token or (limit is not None and count >= limit):
                return
            wanted = replace(wanted, page_token=answer.next_page_token)

    async def batch_search(
        self, project_id: str, queries: Sequence[SearchQuery], *, timeout: float | None = None
    ) -> AsyncIterator[BatchSearchResult]:
        """Answers 1 to 100 searches, each as soon as it is ready, in any order; `timeout` is for all of them."""
        request = query_pb2.BatchSearchRequest(searches=[encode_search.search(project_id, query) for query in queries])
        async for response in self._query.stream(self._searches.BatchSearch, request, timeout):
            if response.HasField("error"):
                yield BatchSearchResult(response.index, error=decode.item_error(response.error))
            else:
                yield BatchSearchResult(response.index, decode_search.search_answer(response.response))

    async def find_similar(  # noqa: PLR0913 - one a field
        self,
        project_id: str,
        document_id: str,
        *,
        top_k: int | None = None,
        filter: Filter | None = None,  # noqa: A002 - the API's own word
        at_least_as_fresh: str | None = None,
        allow_degraded: bool | None = None,
        min_score: float | None = None,
        more_chunks: int | None = None,
        timeout: float | None = None,
    ) -> SearchAnswer:
        """Finds documents that are like a document by meaning, one hit a document, the document itself left out.

        `min_score` is a cosine similarity; `more_chunks` further chunks come with a document's best one. What is None is left to the service.
        Raises NotFoundError if the query service does not know the project or the document, UnavailableError as `search` does.
        """
        request = encode_search.find_similar(
            project_id,
            document_id,
            top_k=top_k,
            condition=filter,
            at_least_as_fresh=at_least_as_fresh,
            allow_degraded=allow_degraded,
            min_score=min_score,
            more_chunks=more_chunks,
        )
        return decode_search.similar_answer(await self._query.call(self._searches.FindSimilar, request, timeout))

    @property
    def _searches(self) -> query_pb2_grpc.QueryServiceAsyncStub:
        return query_pb2_grpc.QueryServiceStub(self._query.channel)

"""The client of both services."""

from __future__ import annotations

from typing import Literal, Self

from shared.client import decode
from shared.client.documents import DocumentCalls
from shared.client.endpoint import Endpoint
from shared.client.logging import LoggingCalls
from shared.client.maintenance import MaintenanceCalls
from shared.client.projects import ProjectCalls
from shared.client.searches import SearchCalls
from shared.client.types import ServiceState
from shared.client.verification import ReplicaCalls
from shared.gen.knowledgebeast.ops.v1 import status_pb2, status_pb2_grpc


class KnowledgeBeast(ProjectCalls, DocumentCalls, SearchCalls, ReplicaCalls, MaintenanceCalls, LoggingCalls):
    """Both services behind one object; an asyncio context manager, used within one event loop.

    Nothing is contacted before the first call, so a service may be down that is not called. Every call raises errors of `shared.errors`:
    UnavailableError with component `indexer` or `query` when nothing answers at the address, DeadlineExceededError when it takes too long.

    Args:
        indexer: `host:port` of the indexer.
        query: `host:port` of the query service.
        timeout: Seconds that a call may take unless the call says otherwise.
    """

    def __init__(self, indexer: str = "127.0.0.1:50051", query: str = "127.0.0.1:50052", *, timeout: float = 10.0) -> None:
        self._addresses = (indexer, query)
        self._timeout = timeout

    async def __aenter__(self) -> Self:
        indexer, query = self._addresses
        self._indexer = Endpoint("indexer", indexer, self._timeout)
        self._query = Endpoint("query", query, self._timeout)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._indexer.close()
        await self._query.close()

    async def status(self, service: Literal["indexer", "query"], *, timeout: float | None = None) -> ServiceState:
        """What the service knows of its own state, from its last background checks."""
        endpoint = self._indexer if service == "indexer" else self._query
        stub = status_pb2_grpc.StatusServiceStub(endpoint.channel)
        response = await endpoint.call(stub.GetStatus, status_pb2.GetStatusRequest(), timeout)
        return decode.service_state(response)

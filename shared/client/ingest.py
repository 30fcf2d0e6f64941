"""The client's side of IndexerService.IngestDocuments: batches out, results in, a bounded number of batches on the way."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Sequence
from dataclasses import dataclass

import grpc
import grpc.aio

from shared.client import decode, encode
from shared.client.endpoint import Endpoint
from shared.client.types import IngestResult
from shared.domain import DocumentInput
from shared.errors import DeadlineExceededError, KnowledgeBeastError, UnavailableError
from shared.gen.knowledgebeast.indexer.v1 import indexer_pb2, indexer_pb2_grpc, project_pb2, project_pb2_grpc

_LOST_STATUS = "Internal error from Core"  # the words of grpc.aio


class _Window:
    """Which batches are sent and not yet acknowledged in full; at most `size` of them.

    Results are counted by document, because a service may answer a batch in several messages or several batches in one.
    """

    def __init__(self, size: int) -> None:
        self._room = asyncio.Semaphore(size)
        self._missing: deque[int] = deque()  # documents without a result, a number for each batch on the way
        self._closed = False
        self.waiting_since: float | None = None

    def close(self) -> None:
        """The stream is over: whoever waits for room is let go."""
        self._closed = True
        self._room.release()

    async def enter(self, documents: int) -> bool:
        """Waits for room, then counts a batch as on the way; False when the stream is over."""
        await self._room.acquire()
        if self._closed:
            return False
        if not self._missing:
            self.waiting_since = asyncio.get_running_loop().time()
        self._missing.append(documents)
        return True

    def acknowledge(self, results: int) -> None:
        """Counts results; a batch without missing ones makes room for another."""
        while results and self._missing:
            done = min(results, self._missing[0])
            results -= done
            self._missing[0] -= done
            if self._missing[0] == 0:
                self._missing.popleft()
                self._room.release()
        self.waiting_since = asyncio.get_running_loop().time() if self._missing else None


@dataclass(frozen=True, slots=True)
class IngestLimits:
    """Bounds of a stream.

    Attributes:
        max_unacknowledged: Batches on the way at the same time.
        patience: Seconds without a result, while batches are on the way, after which the stream is given up.
        timeout: Seconds for the whole stream. Long, because a stream that makes no progress is ended by its patience.
    """

    max_unacknowledged: int = 4
    patience: float = 60.0
    timeout: float = 24 * 3600.0


class IngestStream:
    """One stream of batches.

    Args:
        endpoint: The indexer.
        project_id: Where the documents go.
        batches: What to write, 1 to 1,000 documents a batch; an empty one is left out.
        limits: Bounds of the stream.
    """

    def __init__(self, endpoint: Endpoint, project_id: str, batches: AsyncIterable[Sequence[DocumentInput]], limits: IngestLimits) -> None:
        self._endpoint = endpoint
        self._project_id = project_id
        self._batches = batches
        self._limits = limits
        self._window = _Window(limits.max_unacknowledged)
        self._source_error: Exception | None = None

    async def results(self) -> AsyncIterator[IngestResult]:
        """Results in the order of the documents. A caller that stops reading stops the sending once the window is full.

        Raises what the source of the batches raised, the service's error, UnavailableError, or DeadlineExceededError.
        """
        stub = indexer_pb2_grpc.IndexerServiceStub(self._endpoint.channel)
        call = stub.IngestDocuments(self._requests(), timeout=self._limits.timeout)
        responses = aiter(call)
        try:
            while (response := await self._next(responses)) is not None:
                self._window.acknowledge(len(response.results))
                yield IngestResult(tuple(map(decode.document_result, response.results)), response.consistency_token)
        except grpc.aio.AioRpcError as error:
            if self._source_error is not None:
                raise self._source_error from None
            raise await self._reason(error) from error
        finally:
            self._window.close()  # or the sending side, which gRPC does not cancel, would wait for room for ever
            call.cancel()  # changes nothing after the end of the call
        if self._source_error is not None:
            raise self._source_error

    async def _reason(self, error: grpc.aio.AioRpcError) -> KnowledgeBeastError:
        """Why the stream broke.

        When a service ends a stream while a message is being sent, grpc.aio may replace the status that came by an INTERNAL of its own. Whatever
        ended the stream then lasts, as a rule (no such project, service down), and a small call is told the same.
        """
        if error.code() is not grpc.StatusCode.INTERNAL or error.details() != _LOST_STATUS:
            return self._endpoint.translate(error, self._limits.timeout)
        stub = project_pb2_grpc.ProjectServiceStub(self._endpoint.channel)
        try:
            await self._endpoint.call(stub.GetProject, project_pb2.GetProjectRequest(project_id=self._project_id))
        except KnowledgeBeastError as cause:
            return cause
        service, address = self._endpoint.service, self._endpoint.address
        return UnavailableError(f"the {service} at {address} has ended the stream", component=service)

    async def _requests(self) -> AsyncIterator[indexer_pb2.IngestDocumentsRequest]:
        project_id = self._project_id
        try:
            async for batch in self._batches:
                if not batch:
                    continue
                request = indexer_pb2.IngestDocumentsRequest(project_id=project_id, documents=encode.documents(batch))
                if not await self._window.enter(len(batch)):
                    return
                yield request
        except Exception as error:  # noqa: BLE001 - kept for the reader of the results, who raises it; gRPC would turn it into a bare cancellation
            # The stream ends here in order, so what was sent before is still acknowledged and reported.
            self._source_error = error

    async def _next(self, responses: AsyncIterator[indexer_pb2.IngestDocumentsResponse]) -> indexer_pb2.IngestDocumentsResponse | None:
        """The next message, None at the end of the stream."""
        pull = asyncio.ensure_future(anext(responses, None))
        try:
            while not pull.done():
                since, now = self._window.waiting_since, asyncio.get_running_loop().time()
                if since is not None and now - since >= self._limits.patience:
                    service, address = self._endpoint.service, self._endpoint.address
                    raise DeadlineExceededError(f"the {service} at {address} has acknowledged nothing for {self._limits.patience:g} s")
                await asyncio.wait((pull,), timeout=self._limits.patience if since is None else since + self._limits.patience - now)
            return await pull
        finally:
            pull.cancel()

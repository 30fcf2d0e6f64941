"""Which IngestDocuments streams hold a place, on a real server with a real catalog."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
import pytest_asyncio

from services.indexer.application.documents import Documents
from services.indexer.application.ingest import Ingest
from services.indexer.application.signals import Signals
from services.indexer.catalog.sqlite import SqliteCatalog
from services.indexer.limits import limits
from services.indexer.transport.indexer_servicer import IndexerServicer
from shared.gen.knowledgebeast.indexer.v1 import indexer_pb2, indexer_pb2_grpc
from shared.observability import metrics
from shared.rpc import chain
from shared.rpc.channel import create_channel
from shared.rpc.server import bind, create_server, serving
from tests.fakes.embedder import FakeTokenizer
from tests.integration.test_catalog import PROJECT, create
from tests.waiting import eventually

METHOD = "knowledgebeast.indexer.v1.IndexerService/IngestDocuments"
MESSAGE_BYTES = 1024 * 1024


class SlowDisk:
    """Has room for everything, and takes its time to say so until it may."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.go.set()
        self.asked = 0

    async def require_room(self) -> None:
        """See Disk."""
        self.asked += 1
        await self.go.wait()


@dataclass
class Running:
    """A server that works on one stream at a time, and a client of it."""

    stub: Any
    disk: SlowDisk

    def open(self) -> Any:  # noqa: ANN401 - gRPC's call object
        """A stream on which nothing has been sent."""
        return self.stub.IngestDocuments(timeout=20)


async def send(stream: Any, document_id: str) -> None:  # noqa: ANN401 - gRPC's call object
    """Sends a batch."""
    await stream.write(indexer_pb2.IngestDocumentsRequest(project_id=PROJECT, documents=[indexer_pb2.DocumentInput(id=document_id, text="x")]))


async def written(stream: Any) -> str:  # noqa: ANN401 - gRPC's call object
    """The document that a stream says it has written next."""
    response = await stream.read()
    return str(response.results[0].document_id)


async def let_in(running: Running, number: int) -> Any:  # noqa: ANN401 - gRPC's call object
    """A stream on which nothing has been sent, as soon as the server has let in so many."""
    stream = running.open()
    await stream.wait_for_connection()
    service, name = METHOD.split("/")

    async def admitted() -> float | None:
        return metrics.REGISTRY.get_sample_value("kb_requests_in_flight", {"grpc_service": service, "grpc_method": name})

    await eventually(admitted, lambda count: count == number, seconds=10)
    return stream


@pytest_asyncio.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    """With the service's own limit, but for how many."""
    catalog, disk, signals = SqliteCatalog.open(tmp_path), SlowDisk(), Signals()
    await create(catalog)
    one = replace(limits()[METHOD], concurrency=1, queue=0)
    server = create_server(interceptors=chain.interceptors(limits={METHOD: one}), max_message_bytes=MESSAGE_BYTES)
    servicer = IndexerServicer(Ingest(catalog, FakeTokenizer(), disk, signals), Documents(catalog, signals))
    indexer_pb2_grpc.add_IndexerServiceServicer_to_server(servicer, server)
    port = bind(server, "127.0.0.1", 0)
    async with serving(server, grace=0), create_channel(f"127.0.0.1:{port}", max_message_bytes=MESSAGE_BYTES) as channel:
        yield Running(indexer_pb2_grpc.IndexerServiceStub(channel), disk)
    await catalog.close()


async def test_a_stream_whose_client_sends_nothing_keeps_nobody_out(running: Running) -> None:
    """Neither before its first batch nor after one that was answered; and it goes on when there is something again."""
    silent, first, second = [await let_in(running, number) for number in (1, 2, 3)]
    for number in range(3):
        for name, stream in (("first", first), ("second", second)):
            await send(stream, f"{name}{number}")
            assert await written(stream) == f"{name}{number}"
    await send(silent, "at last")
    assert await written(silent) == "at last"
    for stream in (silent, first, second):
        await stream.done_writing()
        assert await stream.read() is grpc.aio.EOF


async def test_a_stream_that_is_worked_on_holds_its_place(running: Running) -> None:
    """Though its client has nothing more to send meanwhile."""
    running.disk.go.clear()
    busy = await let_in(running, 1)
    await send(busy, "one")

    async def asked() -> int:
        return running.disk.asked

    await eventually(asked, lambda count: count == 1)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        other = running.open()
        await send(other, "two")
        await written(other)
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    running.disk.go.set()
    assert await written(busy) == "one"
    another = running.open()
    await send(another, "three")
    assert await written(another) == "three"

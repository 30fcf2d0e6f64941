"""GetDigest over gRPC: what it tells, and what it refuses."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import pytest

from services.indexer.application.digest import Digests
from services.indexer.application.feed import ChangeFeed
from services.indexer.application.followers import Followers
from services.indexer.application.signals import Signals
from services.indexer.catalog.sqlite import SqliteCatalog
from services.indexer.transport.feed_servicer import ChangeFeedServicer
from services.query.feed_client import GrpcFeed
from shared.client.endpoint import Endpoint
from shared.digest import SequenceRange, document_digest
from shared.domain import ChunkId, DocumentId, ProjectId, SequenceNumber, TraceContext
from shared.errors import InvalidArgumentError, NotFoundError, UnavailableError
from shared.gen.knowledgebeast.indexer.v1 import change_feed_pb2 as pb
from shared.gen.knowledgebeast.indexer.v1 import change_feed_pb2_grpc
from shared.resilience.deadline import Deadline
from shared.rpc import chain, server
from shared.rpc.channel import create_channel
from tests.integration.test_catalog import PROJECT, create, embed_everything, prepared, write


@asynccontextmanager
async def serving(folder: Path) -> AsyncIterator[tuple[SqliteCatalog, Endpoint]]:
    """The change feed service over an empty catalog, with the interceptors that the service has."""
    catalog = SqliteCatalog.open(folder)
    running = server.create_server(interceptors=chain.interceptors(), max_message_bytes=16 * 1024 * 1024)
    servicer = ChangeFeedServicer(ChangeFeed(catalog, Signals(), heartbeat_seconds=1), Digests(catalog), Followers())
    change_feed_pb2_grpc.add_ChangeFeedServiceServicer_to_server(servicer, running)
    port = server.bind(running, "127.0.0.1", 0, setting="port")
    await running.start()
    endpoint = Endpoint("indexer", f"127.0.0.1:{port}", 10.0)
    try:
        yield catalog, endpoint
    finally:
        await endpoint.close()
        await running.stop(None)
        await catalog.close()


async def test_a_digest_tells_what_there_is(tmp_path: Path) -> None:
    """Parts, documents and the chunks whose vectors are not sent; deleted documents do not count."""
    async with serving(tmp_path) as (catalog, endpoint):
        key = await create(catalog)
        await write(catalog, key, prepared("a", "one", "two"), prepared("b", "three"), prepared("c", "four"))
        await catalog.delete_documents(key, [(DocumentId("b"), None)], TraceContext())
        await embed_everything(catalog)
        await write(catalog, key, prepared("d", "five"))
        feed = GrpcFeed(endpoint.channel, "test")
        whole = SequenceRange(SequenceNumber(0), SequenceNumber(5))
        told = await feed.digest(PROJECT, whole, 2, named=True, deadline=Deadline.after(10))
        expected = [
            document_digest(DocumentId("a"), 1, ["a#one", "a#two"]),
            document_digest(DocumentId("c"), 3, ["c#four"]),
            document_digest(DocumentId("d"), 5, ["d#five"]),
        ]
        assert list(told.documents) == expected
        assert [(part.range.start, part.range.end, part.document_count, part.chunk_count) for part in told.parts] == [(0, 3, 2, 3), (3, 5, 1, 1)]
        assert sum(part.checksum for part in told.parts) % 2**64 == sum(document.checksum for document in expected) % 2**64
        assert (told.epoch, told.head, told.embedded) == ((await catalog.position(key)).epoch, 5, 4)
        assert list((await feed.unsent(PROJECT, Deadline.after(10))).unsent) == [ChunkId("d#five")]
        with pytest.raises(NotFoundError):
            await feed.digest(ProjectId("nothing"), whole, 1, named=False, deadline=Deadline.after(10))
    async with aclosing(Nobody()) as nobody, asyncio.timeout(30):
        with pytest.raises(UnavailableError):
            await GrpcFeed(nobody.channel, "test").digest(PROJECT, whole, 1, named=False, deadline=Deadline.after(10))


class Nobody:
    """A channel to a port on which nobody listens."""

    def __init__(self) -> None:
        self._socket = socket.socket()
        self._socket.bind(("127.0.0.1", 0))
        self.channel = create_channel(f"127.0.0.1:{self._socket.getsockname()[1]}", max_message_bytes=1_000)

    async def aclose(self) -> None:
        """Ends both."""
        await self.channel.close()
        self._socket.close()


def covering(start: int, end: int) -> pb.SequenceRange:
    """`(start, end]`."""
    return pb.SequenceRange(from_sequence=start, to_sequence=end)


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (pb.GetDigestRequest(), "project_id"),
        (pb.GetDigestRequest(project_id=PROJECT, parts=1_001), "parts"),
        (pb.GetDigestRequest(project_id=PROJECT, parts=-1), "parts"),
        (pb.GetDigestRequest(project_id=PROJECT, range=covering(-1, 3)), "range"),
        (pb.GetDigestRequest(project_id=PROJECT, range=covering(3, 2)), "range"),
        (pb.GetDigestRequest(project_id=PROJECT, include_documents=True), "range"),
        (pb.GetDigestRequest(project_id=PROJECT, include_documents=True, range=covering(0, 10_001)), "range"),
    ],
)
async def test_what_is_out_of_bounds_is_refused(tmp_path: Path, request_: pb.GetDigestRequest, field: str) -> None:
    """INVALID_ARGUMENT with the field."""
    async with serving(tmp_path) as (catalog, endpoint):
        await create(catalog)
        with pytest.raises(InvalidArgumentError) as refused:
            await endpoint.call(change_feed_pb2_grpc.ChangeFeedServiceStub(endpoint.channel).GetDigest, request_)
        assert [violation.field for violation in refused.value.violations] == [field]

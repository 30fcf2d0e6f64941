"""A consumer of the change feed that does not read: the indexer neither piles up what it would send nor keeps writers waiting."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil

from services.indexer.application.digest import Digests
from services.indexer.application.feed import ChangeFeed
from services.indexer.application.followers import Followers
from services.indexer.application.signals import Signals
from services.indexer.catalog.sqlite import SqliteCatalog
from services.indexer.records import ProjectKey
from services.indexer.transport.feed_servicer import ChangeFeedServicer
from shared.domain import DocumentBatch, SequenceNumber
from shared.gen.knowledgebeast.indexer.v1 import change_feed_pb2 as pb
from shared.gen.knowledgebeast.indexer.v1 import change_feed_pb2_grpc
from shared.rpc import chain, server
from shared.rpc.channel import create_channel
from tests.integration.test_catalog import PROJECT, create, prepared, write

MEGABYTE = 1_000_000
MESSAGE_BYTES = 16 * 1024 * 1024
DOCUMENTS = 100
# Batches end with the document that brings them to 2 MB: 50 of them.
BATCHES = DOCUMENTS // 2


class CountingCatalog(SqliteCatalog):
    """Counts the batches that the feed has asked for."""

    batches = 0

    async def document_batch(self, key: ProjectKey, after: SequenceNumber, limit: int, floor: SequenceNumber) -> DocumentBatch | None:
        """See FeedCatalog."""
        self.batches += 1
        return await super().document_batch(key, after, limit, floor)


@asynccontextmanager
async def serving(folder: Path) -> AsyncIterator[tuple[CountingCatalog, ProjectKey, change_feed_pb2_grpc.ChangeFeedServiceAsyncStub]]:
    """An indexer's feed over a catalog of 100 MB, with the interceptors that the service has, and a client's stub."""
    opened = CountingCatalog.open(folder)
    assert isinstance(opened, CountingCatalog)
    key = await create(opened)
    for number in range(DOCUMENTS):
        await write(opened, key, prepared(f"d{number}", chr(ord("a") + number % 26) * MEGABYTE))
    running = server.create_server(interceptors=chain.interceptors(), max_message_bytes=MESSAGE_BYTES)
    change_feed_pb2_grpc.add_ChangeFeedServiceServicer_to_server(
        ChangeFeedServicer(ChangeFeed(opened, Signals(), heartbeat_seconds=0.5), Digests(opened), Followers()), running
    )
    port = server.bind(running, "127.0.0.1", 0, setting="port")
    await running.start()
    channel = create_channel(f"127.0.0.1:{port}", max_message_bytes=MESSAGE_BYTES)
    try:
        yield opened, key, change_feed_pb2_grpc.ChangeFeedServiceStub(channel)
    finally:
        await channel.close()
        await running.stop(None)
        await opened.close()


async def test_a_consumer_that_does_not_read_holds_the_feed_and_nobody_else(tmp_path: Path) -> None:
    """What is made for it stays within a few messages, writes go on, and when it reads on, it gets everything."""
    async with serving(tmp_path) as (catalog, key, stub), asyncio.timeout(60):
        process = psutil.Process()
        before = process.memory_info().rss
        request = pb.WatchChangesRequest(project=pb.ProjectScope(project_id=PROJECT), consumer="slow")
        stream = stub.WatchChanges(request)
        assert (await anext(aiter(stream))).WhichOneof("event") == "reset"
        for number in range(100):
            await write(catalog, key, prepared(f"new{number}", f"text {number}"))
        held_at = catalog.batches
        assert held_at <= BATCHES // 5
        assert process.memory_info().rss - before < 50 * MEGABYTE

        seen: set[str] = set()
        async for message in stream:
            seen.update(change.upserted.id for change in message.documents.changes)
            if message.documents.range.to_sequence == message.documents.range.head_sequence > 0:
                break
        stream.cancel()
        assert seen == {f"d{number}" for number in range(DOCUMENTS)} | {f"new{number}" for number in range(100)}
        assert catalog.batches >= BATCHES

"""The change feed over a real catalog: what a consumer is sent, joined together, is the catalog."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.indexer.application.feed import ChangeFeed
from services.indexer.application.signals import Signals
from services.indexer.catalog.sqlite import SqliteCatalog
from services.indexer.records import ProjectKey
from services.indexer.transport import convert
from shared.domain import (
    Cursor,
    DocumentBatch,
    DocumentId,
    FeedEvent,
    FeedStream,
    Heartbeat,
    ProjectBatch,
    Range,
    Reset,
    ResetReason,
    SequenceNumber,
    TraceContext,
    VectorBatch,
)
from shared.errors import NotFoundError, UnavailableError
from tests.integration.test_catalog import PROJECT, create, embed_everything, prepared, write


@asynccontextmanager
async def opened() -> AsyncIterator[tuple[SqliteCatalog, ChangeFeed, Signals]]:
    """An empty catalog and its feed."""
    with tempfile.TemporaryDirectory() as folder:
        catalog, signals = SqliteCatalog.open(Path(folder)), Signals()
        try:
            yield catalog, ChangeFeed(catalog, signals, heartbeat_seconds=0.02), signals
        finally:
            await catalog.close()


class Consumer:
    """Keeps a copy as the protocol tells it to, and refuses ranges that do not join."""

    def __init__(self) -> None:
        self.documents: dict[str, tuple[str, ...]] = {}
        self.vectors: dict[str, list[float]] = {}
        self.cursors: dict[str, Cursor | None] = {"documents": None, "vectors": None}
        self.resets: list[Reset] = []

    def apply(self, event: FeedEvent) -> None:
        """Takes one event."""
        match event:
            case Reset(_, stream, epoch):
                self.resets.append(event)
                if stream is FeedStream.DOCUMENTS:
                    self.documents.clear()
                    self.cursors["documents"] = Cursor(epoch, SequenceNumber(0))
                self.vectors.clear()
                self.cursors["vectors"] = Cursor(epoch, SequenceNumber(0))
            case DocumentBatch(covered, changes):
                self._join("documents", covered)
                for change in changes:
                    assert covered.start < change.sequence <= covered.end
                    if change.document is None:
                        self.documents.pop(change.document_id, None)
                    else:
                        self.documents[change.document_id] = tuple(chunk.text for chunk in change.document.chunks)
            case VectorBatch(covered, chunk_ids, vectors):
                self._join("vectors", covered)
                self.vectors.update(zip(chunk_ids, vectors.tolist(), strict=True))

    def _join(self, stream: str, covered: Range) -> None:
        cursor = self.cursors[stream]
        assert cursor == Cursor(covered.epoch, covered.start), "a gap between ranges"
        assert covered.end >= covered.start
        self.cursors[stream] = Cursor(covered.epoch, covered.end)

    async def follow(self, feed: ChangeFeed, *, events: int | None = None) -> None:
        """Applies so many events, or everything up to the first heartbeat."""
        stream = feed.watch_project(PROJECT, self.cursors["documents"], self.cursors["vectors"], include_vectors=True)
        taken = 0
        async with asyncio.timeout(20), aclosing(stream):
            async for event in stream:
                if isinstance(event, Heartbeat) and events is None and self._caught_up(event):
                    return
                self.apply(event)
                taken += 1
                if events is not None and taken >= events:
                    return

    def _caught_up(self, event: Heartbeat) -> bool:
        documents, vectors = self.cursors["documents"], self.cursors["vectors"]
        return bool(documents and vectors and documents.sequence == vectors.sequence == event.head)


IDS = st.sampled_from(["a", "b", "c", "d"])
OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), IDS, st.lists(st.sampled_from(["one", "two", "three", "four"]), min_size=1, max_size=3, unique=True)),
        st.tuples(st.just("delete"), IDS, st.just([])),
        st.tuples(st.just("embed"), st.just(""), st.just([])),
        st.tuples(st.just("follow"), st.sampled_from(["1", "2", "9"]), st.just([])),
    ),
    max_size=25,
)


@given(operations=OPERATIONS)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_consumer_that_is_cut_off_anywhere_ends_with_the_catalogs_state(operations: list[tuple[str, str, list[str]]]) -> None:
    """Whatever is written between reconnects, the joined ranges give every live document and vector, and nothing else."""

    async def scenario() -> None:
        async with opened() as (catalog, feed, _):
            key = await create(catalog)
            model: dict[str, tuple[str, ...]] = {}
            consumer = Consumer()
            for kind, argument, texts in operations:
                match kind:
                    case "write":
                        await write(catalog, key, prepared(argument, *texts))
                        model[argument] = tuple(texts)
                    case "delete":
                        await catalog.delete_documents(key, [(DocumentId(argument), None)], TraceContext())
                        model.pop(argument, None)
                    case "embed":
                        await embed_everything(catalog)
                    case "follow":
                        begun = any(cursor and cursor.sequence for cursor in consumer.cursors.values())
                        resets = len(consumer.resets)
                        await consumer.follow(feed, events=int(argument))
                        assert not begun or all(reset.stream is FeedStream.VECTORS for reset in consumer.resets[resets:]), "no reset at a reconnect"
            await embed_everything(catalog)
            await consumer.follow(feed)

            assert consumer.documents == model
            live = {f"{document}#{text}" for document, texts in model.items() for text in texts}
            assert live <= consumer.vectors.keys()
            assert all(consumer.vectors[chunk_id][0] == len(chunk_id.split("#")[1]) for chunk_id in live)
            assert {reset.reason for reset in consumer.resets} == {ResetReason.NO_CURSOR}

    asyncio.run(scenario())


async def resets_for(feed: ChangeFeed, documents: Cursor | None, vectors: Cursor | None = None) -> list[tuple[FeedStream, ResetReason]]:
    """The resets that a consumer with these cursors is sent before anything else."""
    found = []
    async with aclosing(feed.watch_project(PROJECT, documents, vectors or documents, include_vectors=True)) as stream:
        async for event in stream:
            if not isinstance(event, Reset):
                break
            found.append((event.stream, event.reason))
    return found


async def test_a_cursor_that_cannot_be_continued_is_reset_with_the_reason() -> None:
    """No cursor, another epoch, ahead of the head and below the floor are each told; a good cursor is not reset."""
    async with opened() as (catalog, feed, _):
        key = await create(catalog)
        await write(catalog, key, prepared("a", "one"), prepared("b", "two"), prepared("c", "three"))
        await catalog.delete_documents(key, [(DocumentId("a"), None), (DocumentId("b"), None)], TraceContext())
        await embed_everything(catalog)
        (project,) = await catalog.projects_to_project()
        await catalog.advance(project, SequenceNumber(5))
        await catalog.compact(tombstones_older_than=-1, requests_older_than=0)
        epoch = (await catalog.position(key)).epoch

        assert await resets_for(feed, None) == [(FeedStream.DOCUMENTS, ResetReason.NO_CURSOR)]
        assert await resets_for(feed, Cursor(epoch, SequenceNumber(0))) == [(FeedStream.DOCUMENTS, ResetReason.NO_CURSOR)], (
            "it may hold a first batch"
        )
        assert await resets_for(feed, Cursor("other", SequenceNumber(5))) == [(FeedStream.DOCUMENTS, ResetReason.EPOCH_CHANGED)]
        assert await resets_for(feed, Cursor(epoch, SequenceNumber(6))) == [(FeedStream.DOCUMENTS, ResetReason.AHEAD_OF_HEAD)]
        assert await resets_for(feed, Cursor(epoch, SequenceNumber(3))) == [(FeedStream.DOCUMENTS, ResetReason.COMPACTED)]
        assert await resets_for(feed, Cursor(epoch, SequenceNumber(5))) == []
        assert await resets_for(feed, Cursor(epoch, SequenceNumber(5)), Cursor("other", SequenceNumber(5))) == [
            (FeedStream.VECTORS, ResetReason.EPOCH_CHANGED)
        ]


async def test_a_watcher_hears_of_a_change_when_it_is_committed_and_of_the_end_of_its_project() -> None:
    """A waiting feed sends a new document without waiting for a heartbeat, and NOT_FOUND when the project is deleted."""
    async with opened() as (catalog, _, signals):
        feed = ChangeFeed(catalog, signals, heartbeat_seconds=30)
        key = await create(catalog)
        async with asyncio.timeout(10), aclosing(feed.watch_project(PROJECT, None, None, include_vectors=False)) as stream:
            seen = [await anext(stream), await anext(stream)]
            assert [type(event) for event in seen] == [Reset, Heartbeat]
            upcoming = asyncio.ensure_future(anext(stream))
            await write(catalog, key, prepared("a", "one"))
            signals.notify(key)
            event = await upcoming
            assert isinstance(event, DocumentBatch)
            assert [change.document_id for change in event.changes] == ["a"]

            await catalog.delete_project(PROJECT, etag="")
            signals.notify(key)
            with pytest.raises(NotFoundError):
                await anext(stream)


async def test_stopping_ends_every_feed() -> None:
    """At shutdown a waiting consumer is told to come back."""
    async with opened() as (catalog, _, signals):
        feed = ChangeFeed(catalog, signals, heartbeat_seconds=30)
        await create(catalog)
        async with asyncio.timeout(10), aclosing(feed.watch_project(PROJECT, None, None, include_vectors=False)) as stream:
            await anext(stream)
            await anext(stream)
            upcoming = asyncio.ensure_future(anext(stream))
            feed.stop()
            with pytest.raises(UnavailableError, match="watch again"):
                await upcoming


async def test_stopping_ends_a_feed_in_the_middle_of_a_first_copy() -> None:
    """Not only one that waits: the batch that is under way is the last, however much there is to send, so that a shutdown does not wait for it."""
    async with opened() as (catalog, feed, _):
        key = await create(catalog)
        await write(catalog, key, *(prepared(f"d{number}", "text") for number in range(500)))
        ranges: list[Range] = []
        with pytest.raises(UnavailableError) as ended:
            async with asyncio.timeout(5), aclosing(feed.watch_project(PROJECT, None, None, include_vectors=False)) as events:
                async for event in events:
                    if isinstance(event, DocumentBatch):
                        ranges.append(event.range)
                        feed.stop()
        assert ended.value.reason == "SHUTTING_DOWN"
        assert [(covered.start, covered.head) for covered in ranges] == [(0, 500)]
        assert ranges[0].end < 500


async def test_the_project_list_is_a_feed_too() -> None:
    """It tells of creation, change and end, in order, and continues at a cursor."""
    async with opened() as (catalog, feed, _):
        await create(catalog, "a")
        await create(catalog, "b")
        async with aclosing(feed.watch_project_list(None)) as stream:
            reset, batch = await anext(stream), await anext(stream)
        assert isinstance(reset, Reset)
        assert isinstance(batch, ProjectBatch)
        assert [change.project_id for change in batch.changes] == ["a", "b"]

        await catalog.update_project(batch.changes[0].project_id, etag="", display_name="A", description=None, labels=None)
        await catalog.delete_project(batch.changes[1].project_id, etag="")
        async with aclosing(feed.watch_project_list(Cursor(batch.range.epoch, batch.range.end))) as stream:
            later = await anext(stream)
        assert isinstance(later, ProjectBatch)
        assert [(change.project_id, change.project and change.project.display_name) for change in later.changes] == [("a", "A"), ("b", None)]


async def test_vectors_of_a_large_document_come_in_parts_that_join() -> None:
    """More vectors than a message holds are sent in several batches; the cursor moves with the last one."""
    async with opened() as (catalog, feed, _):
        key: ProjectKey = await create(catalog)
        await write(catalog, key, prepared("large", *[f"chunk{number}" for number in range(2_300)]))
        await embed_everything(catalog)
        consumer = Consumer()
        await consumer.follow(feed)

        assert len(consumer.vectors) == 2_300


async def test_messages_stay_below_the_limit_whatever_the_documents_are_made_of() -> None:
    """Long metadata is much longer on the wire than in the catalog: batches end before a message gets too large to be sent."""
    async with opened() as (catalog, feed, _):
        key = await create(catalog)
        numbers = tuple(number % 10 for number in range(16_000))
        for start in range(0, 120, 20):
            documents = [prepared(f"d{number}", "text") for number in range(start, start + 20)]
            await write(catalog, key, *[replace(one, input=replace(one.input, metadata={"numbers": numbers})) for one in documents])
        seen, largest = 0, 0
        async with aclosing(feed.watch_project(PROJECT, None, None, include_vectors=False)) as stream:
            async for event in stream:
                largest = max(largest, convert.feed_event(event).ByteSize())
                if isinstance(event, DocumentBatch):
                    seen += len(event.changes)
                    if event.range.end == event.range.head:
                        break
        assert seen == 120
        assert largest < 16 * 1024 * 1024


async def test_a_consumer_that_falls_behind_the_compaction_while_connected_is_reset() -> None:
    """Its stream was open before the tombstones went: it is told to start again, and ends with the catalog's state."""
    async with opened() as (catalog, feed, _):
        key = await create(catalog)
        await write(catalog, key, *[prepared(f"d{number}", "x") for number in range(250)])
        consumer = Consumer()
        async with aclosing(feed.watch_project(PROJECT, None, None, include_vectors=False)) as stream:
            while consumer.cursors["documents"] is None or consumer.cursors["documents"].sequence == 0:
                consumer.apply(await anext(stream))
            assert len(consumer.documents) == 200
            await catalog.delete_documents(key, [(DocumentId("d7"), None)], TraceContext())
            await embed_everything(catalog)
            (project,) = await catalog.projects_to_project()
            await catalog.advance(project, SequenceNumber(251))
            await catalog.compact(tombstones_older_than=-1, requests_older_than=0)
            async with asyncio.timeout(10):
                while "d249" not in consumer.documents:
                    consumer.apply(await anext(stream))
        assert [reset.reason for reset in consumer.resets] == [ResetReason.NO_CURSOR, ResetReason.COMPACTED]
        assert consumer.documents.keys() == {f"d{number}" for number in range(250) if number != 7}

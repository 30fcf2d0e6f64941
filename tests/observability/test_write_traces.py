"""What the trace of a write is told of its documents, and when it is told nothing: the rules, with a real catalog and a real replica."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from opentelemetry.sdk.trace import ReadableSpan

from services.indexer.application.collection_writer import CollectionWriter
from services.indexer.application.journey import Journey
from services.indexer.application.projector import Projector
from services.indexer.application.signals import Signals
from services.indexer.application.vectoriser import Vectoriser
from services.indexer.catalog.sqlite import SqliteCatalog
from services.query.replica import Replica
from shared.domain import (
    Cursor,
    DocumentBatch,
    FeedEvent,
    FeedStream,
    Heartbeat,
    ProjectBatch,
    ProjectChange,
    ProjectId,
    Reset,
    ResetReason,
    SequenceNumber,
    TraceContext,
    VectorSequence,
)
from shared.errors import VectorStoreUnavailableError
from shared.resilience.pace import Pace
from tests.fakes.embedder import FakeEmbedder, FakeTokenizer
from tests.fakes.feed import make_batch, make_document, make_project, make_range, make_vectors
from tests.fakes.vector_store import FakeVectorStore
from tests.fixtures.spans import Recorder
from tests.integration.test_catalog import PROJECT, create, prepared
from tests.integration.test_follower import following, until
from tests.integration.test_projection import RoomyDisk

SEARCHABLE, BY_MEANING = "document.searchable", "document.searchable_by_meaning"


def a_request(flags: str = "01") -> TraceContext:
    """The trace context of one more request."""
    return TraceContext(f"00-{uuid.uuid4().hex}-{uuid.uuid4().hex[:16]}-{flags}")


def told(recorded: Recorder, request: TraceContext, name: str) -> list[ReadableSpan]:
    """The spans of a name in the trace of a request, children of its span."""
    _, trace_id, span_id, _ = request.traceparent.split("-")
    wanted = int(trace_id, 16), int(span_id, 16)
    return [
        span
        for span in recorded.get_finished_spans()
        if span.name == name and span.parent is not None and (span.parent.trace_id, span.parent.span_id) == wanted
    ]


def waits(span: ReadableSpan) -> float:
    """Seconds that a span says were waited."""
    return sum(value for name, value in (span.attributes or {}).items() if name.startswith("kb.wait.") and isinstance(value, float))


def length(span: ReadableSpan) -> float:
    """Seconds."""
    return ((span.end_time or 0) - (span.start_time or 0)) / 1e9


class Indexer:
    """A catalog and the work behind it, a step at a time."""

    def __init__(self, catalog: SqliteCatalog, chunks_a_second: float = 1e9) -> None:
        self.ahead = 0.0  # seconds that have passed besides those of the test
        self.catalog, self.store, signals, journey = catalog, FakeVectorStore(), Signals(), Journey(clock=lambda: time.time() + self.ahead)
        writer = CollectionWriter(catalog, self.store, signals, Pace(chunks_a_second), timeout=1.0)
        self.vectoriser = Vectoriser(catalog, FakeEmbedder("model", 8), FakeTokenizer(), RoomyDisk(), signals, journey=journey)
        self.projector = Projector(catalog, self.store, writer, signals, write_timeout=1.0, journey=journey)

    async def write(self, request: TraceContext, *names: str) -> None:
        """One write of documents by a request."""
        key, _ = await self.catalog.find_project(PROJECT)
        await self.catalog.upsert_documents(PROJECT, key, [prepared(name, f"text of {name}") for name in names], request, None)

    async def settle(self) -> None:
        """Works until there is nothing to do."""
        while await self.vectoriser.step() or await self.projector.step():
            pass


@pytest.fixture
async def indexer(tmp_path: Path) -> AsyncIterator[Indexer]:
    """An indexer with one empty project."""
    catalog = SqliteCatalog.open(tmp_path)
    await create(catalog)
    yield Indexer(catalog)
    await catalog.close()


async def test_a_write_that_waits_for_chromadb_says_so(indexer: Indexer, recorded: Recorder) -> None:
    """Of an outage its span has the time, as waiting for ChromaDB, and how often it was tried again; all waits come to its length."""
    request = a_request()
    await indexer.write(request, "a")
    await indexer.vectoriser.step()
    indexer.store.fail()
    for _ in range(3):
        with pytest.raises(VectorStoreUnavailableError):
            await indexer.projector.step()
        indexer.ahead += 10
    indexer.store.heal()
    await indexer.settle()
    (span,) = told(recorded, request, BY_MEANING)
    attributes = dict(span.attributes or {})
    assert attributes["kb.retries"] == 3
    assert 30 <= float(str(attributes["kb.wait.chromadb_seconds"])) <= length(span)
    assert waits(span) == pytest.approx(length(span), abs=0.001)
    # The next one is none of that outage's.
    after = a_request()
    await indexer.write(after, "b")
    await indexer.settle()
    (span,) = told(recorded, after, BY_MEANING)
    assert (span.attributes or {})["kb.retries"] == 0
    assert waits(span) == pytest.approx(length(span), abs=0.001)


async def test_a_write_that_waits_for_the_pace_says_so(indexer: Indexer, recorded: Recorder) -> None:
    """Of the time in which ChromaDB is left to searches, the second of two writes has what it waited."""
    paced, request = Indexer(indexer.catalog, chunks_a_second=5), a_request()
    await paced.write(a_request(), "a")
    await paced.settle()
    await paced.write(request, "b")
    await paced.settle()
    (span,) = told(recorded, request, BY_MEANING)
    attributes = dict(span.attributes or {})
    assert 0.1 < float(str(attributes["kb.wait.pace_seconds"])) <= 0.2
    assert waits(span) == pytest.approx(length(span), abs=0.001)


async def test_a_batch_tells_sixteen_writes_at_most_and_none_that_is_not_recorded(indexer: Indexer, recorded: Recorder) -> None:
    """Whatever a batch holds, its links and what it tells are bounded; a write whose trace is not recorded costs nothing."""
    requests = [a_request("03") for _ in range(40)]
    for number, request in enumerate(requests):
        await indexer.write(request, f"d{number}")
        await indexer.write(a_request("02"), f"e{number}")
    await indexer.settle()
    assert [len(told(recorded, request, BY_MEANING)) for request in requests] == [1] * 16 + [0] * 24
    assert [len(told(recorded, request, "document.embedded")) for request in requests] == [1] * 16 + [0] * 24
    names = [span.name for span in recorded.get_finished_spans()]
    assert names.count(BY_MEANING) == names.count("document.embedded") == 16
    (batch,) = (span for span in recorded.get_finished_spans() if span.name == "projection.write")
    assert len(batch.links) == 16


async def test_a_collection_that_is_written_again_tells_no_write_twice(indexer: Indexer, recorded: Recorder) -> None:
    """What ChromaDB had is not told again when it has lost it; what was still waiting is told, once, when the new collection has it."""
    before, waiting = a_request(), a_request()
    await indexer.write(before, "a")
    await indexer.settle()
    indexer.store.collections.clear()
    await indexer.write(waiting, "b")
    await indexer.settle()
    assert [len(told(recorded, request, BY_MEANING)) for request in (before, waiting)] == [1, 1]
    assert {key for chunks in indexer.store.collections.values() for key in chunks} == {"a#text of a", "b#text of b"}


class Script:
    """A feed of one project that sends what it is told to."""

    def __init__(self) -> None:
        self.events: asyncio.Queue[FeedEvent] = asyncio.Queue()

    async def watch_project_list(self, cursor: Cursor | None) -> AsyncGenerator[FeedEvent, None]:
        """See Feed."""
        yield Reset(ResetReason.NO_CURSOR, FeedStream.PROJECTS, "list")
        project = make_project("p", head=2)
        yield ProjectBatch(make_range(0, 1, epoch="list"), [ProjectChange(SequenceNumber(1), project.id, project)])
        await asyncio.Event().wait()

    async def watch_project(
        self, project_id: ProjectId, documents: Cursor | None, vectors: Cursor | None, *, include_vectors: bool
    ) -> AsyncGenerator[FeedEvent, None]:
        """See Feed."""
        while True:
            yield await self.events.get()

    def send(self, start: int, head: int, *changes: tuple[str, TraceContext, datetime]) -> None:
        """Documents behind `start`, each of a request and committed at a time, and then their vectors."""
        documents = [make_document(name, f"text of {name}") for name, _, _ in changes]
        batch = make_batch(start, *documents, head=head)
        stated = [replace(change, trace=trace, commit_time=at) for change, (_, trace, at) in zip(batch.changes, changes, strict=True)]
        self.events.put_nowait(DocumentBatch(batch.range, stated))
        self.events.put_nowait(make_vectors(start, start + len(changes), *(chunk for document in documents for chunk in document.chunks)))

    def reset(self) -> None:
        """The copy is to be made again."""
        self.events.put_nowait(Reset(ResetReason.COMPACTED, FeedStream.DOCUMENTS, "e1"))


async def test_a_replica_tells_what_is_news_to_it_and_no_copy(tmp_path: Path, recorded: Recorder) -> None:
    """A first copy tells only what was committed since the replica began to follow, one that is made again only what was committed since that."""
    long_ago = datetime(2001, 1, 1, tzinfo=UTC)
    old, first, live, during = a_request(), a_request(), a_request(), a_request()
    script, replica = Script(), Replica.open(tmp_path / "replica", vectors_max=1_000)

    def position() -> int:
        here = replica.projects()
        return int(here[0].vectors_cursor.sequence) if here and here[0].vectors_cursor else 0

    async with following(script, replica, name="tests"):
        script.reset()
        early = datetime.now(UTC)
        script.send(0, 2, ("a", old, long_ago), ("b", first, early))
        await until(lambda: position() == 2)
        later = datetime.now(UTC)
        script.send(2, 3, ("c", live, later))
        await until(lambda: position() == 3)
        script.reset()
        await until(lambda: position() == 0)
        committed = datetime.now(UTC)
        script.send(0, 4, ("a", old, long_ago), ("b", first, early), ("c", live, later), ("d", during, committed))
        await until(lambda: position() == 4)
        script.events.put_nowait(Heartbeat("e1", SequenceNumber(4), VectorSequence(4), datetime.now(UTC)))
        await until(lambda: len(told(recorded, during, BY_MEANING)) == 1)
    replica.close()
    for name in (SEARCHABLE, BY_MEANING):
        assert [len(told(recorded, request, name)) for request in (old, first, live, during)] == [0, 1, 1, 1], name
    (span,) = told(recorded, live, SEARCHABLE)
    assert (span.attributes or {})["kb.replica"] == "tests"
    assert waits(span) == pytest.approx(length(span), abs=0.001)

"""From the catalog to the vector store and back: a real catalog, a vector store and an embedder that do as the test says."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from services.indexer.application.collection_writer import CollectionWriter
from services.indexer.application.documents import Documents
from services.indexer.application.ingest import Ingest
from services.indexer.application.janitor import Janitor
from services.indexer.application.journey import Journey
from services.indexer.application.projector import Projector
from services.indexer.application.projects import Projects
from services.indexer.application.quarantine import Quarantine
from services.indexer.application.reconciler import Reconciler
from services.indexer.application.signals import Signals
from services.indexer.application.subjects import Subject
from services.indexer.application.vectoriser import Vectoriser
from services.indexer.application.worker import Worker, for_each
from services.indexer.catalog.sqlite import SqliteCatalog
from services.indexer.records import LaggingProject, NewProject
from shared.domain import ChunkId, ChunkingSettings, DocumentId, DocumentInput, Project, ProjectId, ProjectState, TraceContext
from shared.errors import (
    CircuitOpenError,
    FailedPreconditionError,
    ResourceExhaustedError,
    UnavailableError,
    VectorStoreError,
    VectorStoreUnavailableError,
)
from shared.observability import logging
from shared.observability.recorded_writes import RecordedWrite
from shared.resilience.pace import Pace
from tests.fakes.embedder import FakeEmbedder, FakeTokenizer
from tests.fakes.vector_store import FakeVectorStore
from tests.fixtures.spans import Recorder
from tests.integration.test_catalog import PROJECT, create, prepared, write

RECORDED = TraceContext("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
NEW = NewProject(ProjectId("new"), "new", "", {}, "model", ChunkingSettings())


@dataclass
class World:
    """The indexer's background work, a step at a time."""

    catalog: SqliteCatalog
    store: FakeVectorStore
    embedder: FakeEmbedder
    vectoriser: Vectoriser
    projector: Projector
    reconciler: Reconciler
    janitor: Janitor
    projects: Projects
    quarantine: Quarantine
    disk: RoomyDisk

    async def settle(self) -> None:
        """Works until there is nothing to do."""
        while await self.vectoriser.step() or await self.projector.step():
            pass

    async def project(self) -> Project:
        """The project as it is now."""
        return await self.catalog.get_project(PROJECT)

    async def stored(self) -> set[str]:
        """Ids in the project's collection."""
        return set(self.store.collections[(await self.project()).collection])


class RoomyDisk:
    """Has room for everything, until it is told otherwise."""

    def __init__(self) -> None:
        self.low = False

    async def require_room(self) -> None:
        """See Disk."""
        if self.low:
            raise ResourceExhaustedError("the disk is low", reason="DISK_LOW")


class _Listing:
    """A catalog that lists projects as they were, and is otherwise as it is: what a worker sees that was held up in between."""

    def __init__(self, catalog: SqliteCatalog, listed: Sequence[LaggingProject]) -> None:
        self._catalog = catalog
        self._listed = listed

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - any method of the catalog
        return getattr(self._catalog, name)

    async def projects_to_project(self) -> Sequence[LaggingProject]:
        """As they were."""
        return self._listed


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """An empty catalog with project docs, and an empty vector store."""
    catalog = SqliteCatalog.open(tmp_path)
    await create(catalog)
    yield make_world(catalog)
    await catalog.close()


def make_world(catalog: SqliteCatalog, store: FakeVectorStore | None = None, embedder: FakeEmbedder | None = None) -> World:
    """Everything that works in the background on a catalog."""
    store, embedder, signals, disk = store or FakeVectorStore(), embedder or FakeEmbedder("model", 8), Signals(), RoomyDisk()
    writer = CollectionWriter(catalog, store, signals, Pace(1e9), timeout=1.0)
    return World(
        catalog,
        store,
        embedder,
        Vectoriser(catalog, embedder, FakeTokenizer(), disk, signals, journey=Journey()),
        Projector(catalog, store, writer, signals, write_timeout=1.0, journey=Journey()),
        Reconciler(catalog, store, writer, Pace(1e9), timeout=1.0),
        Janitor(catalog, store, tombstone_seconds=0.0, write_timeout=1.0),
        Projects(catalog, disk, signals),
        Quarantine(catalog, signals),
        disk,
    )


async def test_every_live_chunk_ends_in_the_vector_store_and_no_other(world: World) -> None:
    """Adds, replacements and deletions arrive; the sequence says so."""
    key, _ = await world.catalog.find_project(PROJECT)
    await write(world.catalog, key, prepared("a", "one", "two"), prepared("b", "three"))
    await world.settle()
    assert await world.stored() == {"a#one", "a#two", "b#three"}
    await write(world.catalog, key, prepared("a", "one", "four"))
    await world.catalog.delete_documents(key, [(DocumentId("b"), None)], TraceContext())
    await world.settle()

    assert await world.stored() == {"a#one", "a#four"}
    project = await world.project()
    assert int(project.vector_sequence) == int(project.head) == 4


async def test_a_deletion_alone_arrives(world: World) -> None:
    """With nothing to embed, the change is projected all the same."""
    key, _ = await world.catalog.find_project(PROJECT)
    await write(world.catalog, key, prepared("a", "one"))
    await world.settle()
    await world.catalog.delete_documents(key, [(DocumentId("a"), None)], TraceContext())
    assert await world.vectoriser.step()
    assert await world.projector.step()

    assert await world.stored() == set()
    assert int((await world.project()).vector_sequence) == 2


async def test_all_of_a_long_turn_is_embedded_once(world: World) -> None:
    """Batches that are read ahead overlap neither with those that are being stored nor with the next turn, and none is left out."""
    key, _ = await world.catalog.find_project(PROJECT)
    chunks = [f"chunk{number}" for number in range(1_100)]
    await write(world.catalog, key, prepared("a", *chunks[:700]), prepared("b", *chunks[700:]))
    await world.settle()

    assert sorted(text.rpartition("\n")[2] for text in world.embedder.embedded) == sorted(chunks)
    assert len(await world.stored()) == len(chunks)


async def test_what_did_not_change_is_not_embedded_again(world: World) -> None:
    """Neither an unchanged document nor an unchanged chunk of a changed one costs an embedding."""
    key, _ = await world.catalog.find_project(PROJECT)
    await write(world.catalog, key, prepared("a", "one", "two"))
    await world.settle()
    await write(world.catalog, key, prepared("a", "one", "two"))
    await write(world.catalog, key, prepared("a", "one", "three"))
    await world.settle()
    assert [text.rpartition("\n")[2] for text in world.embedder.embedded] == ["one", "two", "three"]


async def test_a_store_that_is_down_holds_up_the_projection_alone(world: World) -> None:
    """Embedding goes on; when the store is back, everything arrives."""
    key, _ = await world.catalog.find_project(PROJECT)
    world.store.fail()
    await write(world.catalog, key, prepared("a", "one"))
    assert await world.vectoriser.step()
    with pytest.raises(VectorStoreUnavailableError):
        await world.projector.step()
    position = await world.catalog.position(key)
    assert (position.embedded_sequence, position.vector_sequence) == (1, 0)
    world.store.heal()
    await world.settle()
    assert await world.stored() == {"a#one"}


@pytest.mark.parametrize("damage", ["dropped", "emptied", "phantoms", "both"])
async def test_a_store_that_does_not_hold_what_it_was_given_is_mended(world: World, damage: str) -> None:
    """Lost, emptied or mixed with vectors of another life: afterwards it has exactly the live chunks, and nothing was embedded anew.

    A collection that is gone is filled anew, while searches use other vectors; a few vectors are mended without anybody noticing.
    """
    key, _ = await world.catalog.find_project(PROJECT)
    await write(world.catalog, key, prepared("a", "one", "two"), prepared("b", "three"))
    await world.settle()
    collection = (await world.project()).collection
    if damage in {"dropped", "emptied"}:
        await world.store.drop_collection(collection, timeout=1)
    if damage == "emptied":
        await world.store.ensure_collection(collection, timeout=1)
    if damage in {"phantoms", "both"}:
        await world.store.add(collection, [ChunkId("z#phantom"), ChunkId("z#other")], np.eye(2, 8, dtype=np.float32), timeout=1)
    if damage == "both":
        await world.store.delete(collection, [ChunkId("a#one")], timeout=1)
    embedded = len(world.embedder.embedded)

    await world.reconciler.check_counts()
    assert (await world.project()).state is (ProjectState.REBUILDING if damage == "dropped" else ProjectState.ACTIVE)
    assert ((await world.project()).collection == collection) is (damage != "dropped")
    await world.settle()
    await world.reconciler.check_counts()

    assert await world.stored() == {"a#one", "a#two", "b#three"}
    assert (await world.project()).state is ProjectState.ACTIVE
    assert len(world.embedder.embedded) == embedded


async def test_a_store_that_miscounts_gets_another_collection(world: World) -> None:
    """If it has every vector and no other, and counts another number of them, nothing is there to be mended one by one."""
    key, _ = await world.catalog.find_project(PROJECT)
    await write(world.catalog, key, prepared("a", "one"))
    await world.settle()
    world.store.miscounts[(await world.project()).collection] = 1

    await world.reconciler.check_counts()
    assert (await world.project()).state is ProjectState.REBUILDING
    await world.settle()
    await world.reconciler.check_counts()
    assert (await world.project()).state is ProjectState.ACTIVE


@pytest.mark.parametrize("outage", [False, True])
async def test_vectors_are_rebuilt_when_asked_for(world: World, outage: bool) -> None:
    """Also when the store is down at first: afterwards a new collection has exactly the live chunks, the old one is gone, nothing was embedded."""
    key, _ = await world.catalog.find_project(PROJECT)
    await write(world.catalog, key, prepared("a", "one", "two"), prepared("b", "three"))
    await world.settle()
    before = await world.project()
    await world.store.add(before.collection, [ChunkId("z#stale")], np.eye(1, 8, dtype=np.float32), timeout=1)
    embedded = len(world.embedder.embedded)

    if outage:
        world.store.fail()
    rebuilding = await world.projects.rebuild_vectors(PROJECT)
    assert (rebuilding.state, int(rebuilding.vector_sequence)) == (ProjectState.REBUILDING, 0)
    if outage:
        for step in (world.projector.step, world.janitor.step):
            with pytest.raises(VectorStoreUnavailableError):
                await step()
        assert (await world.project()).state is ProjectState.REBUILDING
        world.store.heal()
    await world.settle()
    await world.janitor.step()

    after = await world.project()
    assert await world.stored() == {"a#one", "a#two", "b#three"}
    assert list(world.store.collections) == [after.collection]
    assert after.collection != before.collection
    assert (after.state, after.vector_sequence) == (ProjectState.ACTIVE, before.vector_sequence)
    assert len(world.embedder.embedded) == embedded


async def test_asking_for_a_rebuild_twice_rebuilds_once(world: World) -> None:
    """The second call leaves the collection, and what is in it already, alone."""
    key, _ = await world.catalog.find_project(PROJECT)
    await write(world.catalog, key, prepared("a", "one"))
    await world.settle()
    first = await world.projects.rebuild_vectors(PROJECT)
    second = await world.projects.rebuild_vectors(PROJECT)
    assert second == first
    await world.settle()
    assert (await world.projects.rebuild_vectors(PROJECT)).generation == first.generation + 1


async def test_a_rebuild_can_be_begun_again(world: World) -> None:
    """For one that cannot come to its end: it gets yet another collection, and ends where the first one would have."""
    key, _ = await world.catalog.find_project(PROJECT)
    await write(world.catalog, key, prepared("a", "one"))
    await world.settle()
    first = await world.projects.rebuild_vectors(PROJECT)
    again = await world.projects.rebuild_vectors(PROJECT, again=True)
    assert (again.generation, again.state) == (first.generation + 1, ProjectState.REBUILDING)
    await world.settle()
    await world.janitor.step()
    assert list(world.store.collections) == [again.collection]
    assert (await world.project()).state is ProjectState.ACTIVE


async def test_a_rebuild_that_begins_in_the_middle_of_a_turn_leaves_nothing_stale(world: World) -> None:
    """The turn that is under way ends without moving the new cursor, and what it writes goes with the old collection."""
    key, _ = await world.catalog.find_project(PROJECT)
    await write(world.catalog, key, prepared("a", "one"))
    await world.settle()
    await write(world.catalog, key, prepared("b", "two"))
    await world.vectoriser.step()
    adding = asyncio.create_task(world.store.called("add"))
    world.store.hang()
    turn = asyncio.create_task(world.projector.step())
    await adding
    await world.projects.rebuild_vectors(PROJECT)
    world.store.heal()
    await turn
    assert (await world.project()).vector_sequence == 0

    await world.settle()
    await world.janitor.step()
    project = await world.project()
    assert await world.stored() == {"a#one", "b#two"}
    assert list(world.store.collections) == [project.collection]
    assert project.state is ProjectState.ACTIVE


async def test_a_collection_that_was_superseded_before_it_was_made_is_not_left_behind(world: World) -> None:
    """A rebuild that begins before the first vector is written costs an empty collection at most until its maker looks again."""
    key, _ = await world.catalog.find_project(PROJECT)
    await write(world.catalog, key, prepared("a", "one"))
    await world.vectoriser.step()
    listed = await world.catalog.projects_to_project()
    await world.projects.rebuild_vectors(PROJECT)
    await world.janitor.step()
    await make_world(_Listing(world.catalog, listed), world.store).projector.step()  # type: ignore[arg-type] # it is a catalog otherwise
    assert world.store.collections == {}
    await world.settle()
    assert await world.stored() == {"a#one"}


async def test_a_sound_store_is_left_alone(world: World) -> None:
    """Looking changes nothing, also while something waits to be written."""
    key, _ = await world.catalog.find_project(PROJECT)
    await write(world.catalog, key, prepared("a", "one"))
    await world.settle()
    await world.reconciler.check_counts()
    await write(world.catalog, key, prepared("b", "two"))
    await world.reconciler.check_counts()
    assert (await world.project()).state is ProjectState.ACTIVE
    assert (await world.project()).vector_sequence == 1


async def test_a_deleted_project_leaves_nothing_behind(world: World) -> None:
    """Rows and collection are gone, also when the store was down at first, and other projects are purged all the same."""
    key, _ = await world.catalog.find_project(PROJECT)
    await write(world.catalog, key, prepared("a", "one"))
    await world.settle()
    collection = (await world.project()).collection
    await world.catalog.delete_project(PROJECT, etag="")
    world.store.fail()
    with pytest.raises(VectorStoreUnavailableError):
        await world.janitor.step()
    world.store.heal()
    await world.janitor.step()

    assert collection not in world.store.collections
    assert list(await world.catalog.deleted_projects()) == []


async def test_a_project_deleted_while_it_is_projected_leaves_no_collection(world: World) -> None:
    """A collection that is made after the project was purged is dropped by whoever made it."""
    key, _ = await world.catalog.find_project(PROJECT)
    await write(world.catalog, key, prepared("a", "one"))
    await world.vectoriser.step()
    listed = await world.catalog.projects_to_project()
    await world.catalog.delete_project(PROJECT, etag="")
    await world.janitor.step()

    await make_world(_Listing(world.catalog, listed), world.store).projector.step()  # type: ignore[arg-type] # it is a catalog otherwise
    assert world.store.collections == {}


async def test_a_project_of_another_model_does_not_slow_the_others_down(world: World) -> None:
    """It is passed over; what can be embedded is, without a pause, and the failure is raised when nothing else is left."""
    await world.catalog.create_project(NewProject(ProjectId("other"), "other", "", {}, "another model", ChunkingSettings()), None)
    other, _ = await world.catalog.find_project(ProjectId("other"))
    await write(world.catalog, other, prepared("x", "one"))
    key, _ = await world.catalog.find_project(PROJECT)
    await write(world.catalog, key, prepared("a", *[f"chunk{number}" for number in range(300)]))

    assert await world.vectoriser.step()
    with pytest.raises(FailedPreconditionError):
        await world.vectoriser.step()
    assert (await world.catalog.position(key)).embedded_sequence == 1


async def test_while_the_disk_is_low_nothing_that_grows_the_catalog_is_taken(world: World) -> None:
    """Documents and projects are refused and nothing is embedded; deletes, reads and what is embedded already go on, and then all of it does."""
    key, _ = await world.catalog.find_project(PROJECT)
    ingest, documents = Ingest(world.catalog, FakeTokenizer(), world.disk, Signals()), Documents(world.catalog, Signals())
    await write(world.catalog, key, prepared("a", "one"), prepared("b", "two"))
    await world.vectoriser.step()
    await write(world.catalog, key, prepared("c", "three"))
    world.disk.low = True

    source = DocumentInput(DocumentId("d"), "", "four", {})
    for refused in (ingest.upsert(PROJECT, [source], ""), _drained(ingest.stream(PROJECT, _once([source]))), world.projects.create(NEW, "")):
        with pytest.raises(ResourceExhaustedError) as raised:
            await refused
        assert raised.value.reason == "DISK_LOW"
    with pytest.raises(ResourceExhaustedError):
        await world.vectoriser.step()
    await world.projector.step()
    assert await world.stored() == {"a#one", "b#two"}
    await documents.delete(PROJECT, [DocumentId("c")], None, "")
    assert len((await documents.page(PROJECT, 10, "", None))[0]) == 2

    world.disk.low = False
    await ingest.upsert(PROJECT, [source], "")
    await world.settle()
    assert len(await world.stored()) == 3


def _once(batch: Sequence[DocumentInput]) -> AsyncIterator[Sequence[DocumentInput]]:
    async def batches() -> AsyncIterator[Sequence[DocumentInput]]:
        yield batch

    return batches()


async def _drained(stream: AsyncIterator[object]) -> None:
    async for _ in stream:
        pass


async def test_catching_up_keeps_to_the_rate_and_saves_nothing_up(world: World) -> None:
    """1,500 chunks at 500 a second take the time of what was written before the last page, also behind an outage in which nothing was written."""
    now, slept = [100.0], list[float]()

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        now[0] += seconds

    key, _ = await world.catalog.find_project(PROJECT)
    await write(world.catalog, key, prepared("a", *[f"chunk{number}" for number in range(1_500)]))
    while await world.vectoriser.step():
        pass
    writer = CollectionWriter(world.catalog, world.store, Signals(), Pace(500.0, clock=lambda: now[0], sleep=sleep), timeout=1.0)
    projector = Projector(world.catalog, world.store, writer, Signals(), write_timeout=1.0, journey=Journey())
    world.store.fail()
    for _ in range(3):
        with pytest.raises(VectorStoreUnavailableError):
            await projector.step()
    now[0] += 3_600.0
    world.store.heal()
    await projector.step()

    assert len(await world.stored()) == 1_500
    assert slept == [pytest.approx(1.0), pytest.approx(1.0)]


class _Unreadable(_Listing):
    """A catalog that cannot read what traces are told of, and counts how often it was asked."""

    def __init__(self, catalog: SqliteCatalog) -> None:
        super().__init__(catalog, ())
        self.asked = 0

    async def projects_to_project(self) -> Sequence[LaggingProject]:
        """As they are."""
        return await self._catalog.projects_to_project()

    async def recorded_writes(self, *_: object) -> Sequence[RecordedWrite]:
        """Fails."""
        self.asked += 1
        raise UnavailableError("cannot be read", component="database")


async def test_vectors_do_not_wait_for_what_traces_are_told(world: World) -> None:
    """That it cannot be read is no reason not to embed, and where a first look shows nothing there is no second one."""
    unreadable: Any = _Unreadable(world.catalog)
    key, _ = await world.catalog.find_project(PROJECT)
    await world.catalog.upsert_documents(PROJECT, key, [prepared("a", "one")], RECORDED, None)
    blind = make_world(unreadable, world.store)
    await blind.settle()
    assert await world.stored() == {"a#one"}
    assert unreadable.asked == 1


async def test_a_projection_that_cannot_be_traced_is_announced_all_the_same(world: World, recorded: Recorder) -> None:
    """Whoever waits for the vectors hears of them, and the turn has not failed."""
    signals = Signals()
    writer = CollectionWriter(world.catalog, world.store, signals, Pace(1e9), timeout=1.0)
    projector = Projector(world.catalog, world.store, writer, signals, write_timeout=1.0, journey=Journey())
    key, _ = await world.catalog.find_project(PROJECT)
    await world.catalog.upsert_documents(PROJECT, key, [prepared("a", "one")], RECORDED, None)
    await world.vectoriser.step()
    announced = signals.event(key)
    recorded.fails_for = "document.searchable_by_meaning"
    assert await projector.step()
    assert announced.is_set()
    assert await world.stored() == {"a#one"}
    assert recorded.fails_for in {span.name for span in recorded.get_finished_spans()}, "so there was something to fail for"


def by_number(item: int) -> dict[str, str]:
    """What the log calls an item."""
    return {"project": f"p-{item}"}


async def test_failures_are_raised_only_when_nothing_succeeded() -> None:
    """One refusal among successes waits for the next round; an outage ends the round at once."""
    done: list[int] = []

    async def work(item: int) -> None:
        if item < 0:
            raise VectorStoreError("refused")
        if item == 0:
            raise UnavailableError("down", component="chromadb")
        done.append(item)

    await for_each([1, -1, 2], work, by_number)
    assert done == [1, 2]
    with pytest.raises(VectorStoreError):
        await for_each([-1, -2], work, by_number)
    with pytest.raises(UnavailableError):
        await for_each([3, 0, 4], work, by_number)
    assert done == [1, 2, 3]


async def test_a_vector_store_that_fails_for_one_item_is_asked_for_the_others() -> None:
    """It may be one damaged collection; an open breaker is everybody's, and ends the round at once."""
    done: list[int] = []

    async def work(item: int) -> None:
        if item == 1:
            raise VectorStoreUnavailableError("this collection answers 500")
        if item == 0:
            raise CircuitOpenError("left alone")
        done.append(item)

    await for_each([1, 2, 3], work, by_number)
    assert done == [2, 3]
    with pytest.raises(CircuitOpenError):
        await for_each([4, 0, 5], work, by_number)
    assert done == [2, 3, 4]


async def test_a_failure_names_its_project() -> None:
    """By its id, where whoever looks for it finds it; and says why it failed."""

    async def work(item: int) -> None:
        if item == 1:
            raise VectorStoreError("refused")

    stream = io.StringIO()
    logging.configure("indexer", "info", "json", stream=stream)
    try:
        await for_each([1, 2], work, by_number)
    finally:
        logging.configure("tests", "info", "json")
    line = json.loads(stream.getvalue())
    assert (line["project"], line["reason"], line["error"]) == ("p-1", VectorStoreError.reason, "refused")


async def test_a_worker_may_begin_later() -> None:
    """What is done by the hour is not done at every start."""
    begun = asyncio.Event()

    async def step() -> bool:
        begun.set()
        return False

    late, soon = (asyncio.create_task(Worker("test", step, Signals(), None, delay=delay).run()) for delay in (3_600.0, 0.2))
    await asyncio.wait({late}, timeout=0.05)
    assert not begun.is_set()
    late.cancel()
    await asyncio.wait_for(begun.wait(), 10)
    soon.cancel()


async def test_a_worker_survives_failures_and_wakes_when_it_is_told() -> None:
    """It backs off, goes on, and does not wait for its pause when there is news."""
    signals, failures, done = Signals(), [0], asyncio.Event()
    calls = 0

    async def step() -> bool:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise UnavailableError("down", component="chromadb")
        if calls == 3:
            done.set()
        return False

    def failed() -> None:
        failures[0] += 1

    worker = asyncio.create_task(Worker("test", step, signals, Subject.COMMITTED, idle_seconds=60, on_failure=failed).run())
    async with asyncio.timeout(10):
        while calls < 2:
            await asyncio.sleep(0.01)
        while not done.is_set():
            signals.notify(Subject.COMMITTED)
            await asyncio.sleep(0.01)
    worker.cancel()
    assert failures == [1]

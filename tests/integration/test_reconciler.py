"""The comparison of the vector store with the catalog: it finds exactly what differs, mends exactly that, and takes no write for a difference."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import aclosing
from pathlib import Path

import numpy as np
import pytest

from services.indexer.application.collection_writer import CollectionWriter
from services.indexer.application.journey import Journey
from services.indexer.application.projector import Projector
from services.indexer.application.reconciler import Findings, Progress
from services.indexer.application.signals import Signals
from services.indexer.catalog.sqlite import RESTORED_MARKER, SqliteCatalog
from shared.chroma.client import ChromaClient
from shared.domain import ChunkId, DocumentId, ProjectId, ProjectState, TraceContext
from shared.errors import CircuitOpenError, CollectionNotFoundError, NotFoundError, VectorStoreUnavailableError
from shared.observability.metrics import REGISTRY
from shared.resilience.pace import Pace
from shared.verification import DifferenceKind, Verification
from tests.fakes.vector_store import FakeVectorStore
from tests.fixtures.chroma import ChromaServer
from tests.integration.test_catalog import PROJECT, create, prepared, write
from tests.integration.test_projection import World, make_world

TEXTS = [f"chunk{number}" for number in range(1_200)]  # more than one question to the store


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """A project whose 1,200 chunks are in the vector store."""
    catalog = SqliteCatalog.open(tmp_path)
    key = await create(catalog)
    world = make_world(catalog)
    await write(catalog, key, prepared("a", *TEXTS[:700]), prepared("b", *TEXTS[700:]))
    await world.settle()
    yield world
    await catalog.close()


async def compare(world: World, *, repair: bool = False, drop_orphans: bool = False) -> Findings:
    """What a comparison of the project finds."""
    *_, last = [step async for step in world.reconciler.compare(PROJECT, repair=repair, drop_orphans=drop_orphans)]
    assert isinstance(last, Findings)
    return last


async def lose(world: World, *chunk_ids: str) -> None:
    """The vector store loses vectors."""
    for chunk_id in chunk_ids:
        del world.store.collections[(await world.project()).collection][ChunkId(chunk_id)]


async def stray(world: World, *chunk_ids: str) -> None:
    """The vector store gets vectors that nobody gave it."""
    vectors = np.ones((len(chunk_ids), 8), np.float32)
    await world.store.add((await world.project()).collection, [ChunkId(chunk_id) for chunk_id in chunk_ids], vectors, timeout=1)


def counted(name: str, kind: DifferenceKind) -> float:
    """A counter of this kind of difference."""
    return REGISTRY.get_sample_value(f"kb_reconcile_{name}_total", {"kind": kind.value}) or 0.0


async def test_a_sound_collection_is_equal_and_its_chunks_are_counted(world: World) -> None:
    """How far it is is told on the way; nothing is written."""
    adds = world.store.calls["add"]
    steps = [step async for step in world.reconciler.compare(PROJECT, repair=True, drop_orphans=False)]

    assert steps[:-1] == [Progress(1_000, 1_200), Progress(1_200, 1_200)]
    (found,) = (step for step in steps if isinstance(step, Findings))
    assert (found.verification.equal, found.verification.compared, found.verification.sequence) == (True, 1_200, 2)
    assert (found.verification.repaired, found.orphans, found.held) == (False, [], 0)
    assert world.store.calls["add"] == adds
    assert world.store.calls["list_ids"] == 0, "the number of vectors says that there are no others"


async def test_what_is_missing_and_what_is_too_much_is_found_and_named(world: World) -> None:
    """Both at once, so that the number of vectors is right; without repair nothing changes."""
    await lose(world, "a#chunk5", "b#chunk1100")
    await stray(world, "z#1", "z#2")
    before = await world.stored()
    found = (await compare(world)).verification

    assert {each.kind: (each.count, sorted(each.examples)) for each in found.differences} == {
        DifferenceKind.VECTORS_MISSING: (2, ["a#chunk5", "b#chunk1100"]),
        DifferenceKind.VECTORS_EXTRA: (2, ["z#1", "z#2"]),
    }
    assert not found.repaired
    assert await world.stored() == before


async def test_exactly_what_differs_is_mended(world: World) -> None:
    """The missing vectors are those of the catalog, the strays are gone, nothing else is written, and the project never stops being active."""
    collection = world.store.collections[(await world.project()).collection]
    expected = {chunk_id: vector.copy() for chunk_id, vector in collection.items()}
    embedded, before = len(world.embedder.embedded), await world.project()
    repaired = counted("repaired", DifferenceKind.VECTORS_MISSING)
    await lose(world, "a#chunk5", "b#chunk1100")
    await stray(world, "z#1")
    found = (await compare(world, repair=True)).verification

    assert (found.repaired, found.repair_message) == (True, "2 vectors written, 1 deleted")
    assert collection.keys() == expected.keys()
    assert all(np.array_equal(collection[chunk_id], vector) for chunk_id, vector in expected.items())
    assert (await compare(world)).verification.equal
    assert await world.project() == before
    assert len(world.embedder.embedded) == embedded
    assert counted("repaired", DifferenceKind.VECTORS_MISSING) == repaired + 2


async def test_much_damage_is_mended_by_another_collection(world: World) -> None:
    """While half of the vectors are missing, searches should use others: the project is rebuilt."""
    await lose(world, *[f"a#{text}" for text in TEXTS[:600]])
    found = (await compare(world, repair=True)).verification
    assert [(each.kind, each.count, len(each.examples)) for each in found.differences] == [(DifferenceKind.VECTORS_MISSING, 600, 20)]
    assert found.repaired
    assert (await world.project()).state is ProjectState.REBUILDING

    await world.settle()
    assert len(await world.stored()) == 1_200
    assert (await compare(world)).verification.equal


async def test_a_collection_that_is_gone_is_a_difference_of_its_own(world: World) -> None:
    """Without repair it stays gone; with it a new one is filled."""
    await world.store.drop_collection((await world.project()).collection, timeout=1)
    found = (await compare(world)).verification
    assert [each.kind for each in found.differences] == [DifferenceKind.COLLECTION_MISSING]
    assert (await world.project()).state is ProjectState.ACTIVE

    assert (await compare(world, repair=True)).verification.repaired
    await world.settle()
    assert len(await world.stored()) == 1_200


async def test_an_empty_project_is_equal(world: World) -> None:
    """It has no collection, and needs none."""
    await create(world.catalog, "empty")
    *_, last = [step async for step in world.reconciler.compare(ProjectId("empty"), repair=True, drop_orphans=False)]
    assert isinstance(last, Findings)
    assert (last.verification.equal, last.verification.compared) == (True, 0)
    with pytest.raises(NotFoundError):
        [step async for step in world.reconciler.compare(ProjectId("missing"), repair=False, drop_orphans=False)]


async def test_a_store_that_does_not_answer_is_said_to(world: World) -> None:
    """Nothing is known then, so nothing is a difference."""
    world.store.fail(operation="existing")
    with pytest.raises(VectorStoreUnavailableError):
        await compare(world, repair=True)
    with pytest.raises(VectorStoreUnavailableError):
        await world.reconciler.compare_all()


def last_success() -> float:
    """When all projects were compared, in seconds since 1970."""
    return REGISTRY.get_sample_value("kb_reconcile_last_success_timestamp_seconds") or 0.0


async def test_all_projects_are_compared_and_mended(world: World) -> None:
    """One after another; when that was is told, and only of a round in which each of them could be compared."""
    key = await create(world.catalog, "other")
    await world.catalog.upsert_documents(ProjectId("other"), key, [prepared("x", "one", "two")], TraceContext(), None)
    await world.settle()
    other = await world.catalog.get_project(ProjectId("other"))
    await lose(world, "a#chunk5")
    await world.store.add(other.collection, [ChunkId("stray")], np.ones((1, 8), np.float32), timeout=1)
    before = last_success()
    world.store.fail(operation="existing", times=1)
    await world.reconciler.compare_all()
    assert last_success() == before
    assert not await world.reconciler.compare_all()

    assert len(await world.stored()) == 1_200
    assert set(world.store.collections[other.collection]) == {"x#one", "x#two"}
    assert last_success() > max(before, 1e9)


async def test_a_round_that_an_open_breaker_ended_goes_on_where_it_was(tmp_path: Path) -> None:
    """The first projects do not take the turns of the last ones, which the next round begins with; a round of all of them is one again."""
    catalog = SqliteCatalog.open(tmp_path)
    names = ["p0", "p1", "p2", "p3"]
    for name in names:
        key = await create(catalog, name)
        await catalog.upsert_documents(ProjectId(name), key, [prepared(f"in-{name}", "text")], TraceContext(), None)
    store = Tripping()
    world = make_world(catalog, store)
    await world.settle()
    before = last_success()

    for trip, begins, asked in ((2, "p0", 2), (1, "p2", 1), (None, "p3", 4)):
        store.asked.clear()
        store.trips_after = trip
        if trip is None:
            await world.reconciler.compare_all()
        else:
            with pytest.raises(CircuitOpenError):
                await world.reconciler.compare_all()
        assert store.asked == [f"in-{name}#text" for name in (names + names)[names.index(begins) :][:asked]]
    assert last_success() > before
    await catalog.close()


async def test_what_the_store_refuses_to_delete_is_not_said_to_be_mended(world: World) -> None:
    """The stray stays and is found again; the rest is mended, and only that is counted."""
    await stray(world, "z#1", "z#2")
    world.store.poison = {ChunkId("z#1")}
    repaired = counted("repaired", DifferenceKind.VECTORS_EXTRA)
    found = (await compare(world, repair=True)).verification
    assert not found.repaired
    assert found.repair_message == "0 vectors written, 1 deleted, 1 that the vector store refuses to delete"
    assert counted("repaired", DifferenceKind.VECTORS_EXTRA) == repaired + 1
    assert [difference.examples for difference in (await compare(world)).verification.differences] == [("z#1",)]


async def test_a_store_that_loses_one_collection_after_another_is_given_the_next_one_later(world: World) -> None:
    """The first one is replaced at once; a store that makes collections and then knows nothing of them gets no new one in each turn."""
    key, _ = await world.catalog.find_project(PROJECT)
    now, signals = 100.0, Signals()
    writer = CollectionWriter(world.catalog, world.store, signals, Pace(1e9), timeout=1.0)
    projector = Projector(world.catalog, world.store, writer, signals, write_timeout=1.0, journey=Journey(), clock=lambda: now)
    await write(world.catalog, key, prepared("c", "new"))
    await world.vectoriser.step()
    before = (await world.project()).generation

    async def turns() -> int:
        for _ in range(10):
            await projector.step()
        return (await world.project()).generation - before

    world.store.fail(CollectionNotFoundError("The vector store does not have the collection."), operation="add")
    assert await turns() == 2
    assert not await projector.step(), "the worker waits"
    now += 120
    assert await turns() == 3
    world.store.heal()
    now += 120
    while await projector.step():
        pass
    assert len(await world.stored()) == 1_201


class Tripping(FakeVectorStore):
    """A store in front of which a breaker opens.

    Attributes:
        asked: The first chunk of each question.
        trips_after: So many questions are answered; all of them if None.
    """

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []
        self.trips_after: int | None = None

    async def existing(self, collection: str, chunk_ids: Sequence[ChunkId], *, timeout: float) -> Collection[ChunkId]:
        """See VectorWriter."""
        if self.trips_after is not None and len(self.asked) >= self.trips_after:
            raise CircuitOpenError("The vector store is left alone for now.")
        self.asked.append(chunk_ids[0])
        return await super().existing(collection, chunk_ids, timeout=timeout)


async def test_writes_that_are_under_way_are_no_differences(world: World) -> None:
    """While documents come, change and go, nothing is ever said to differ, and at the end the store has exactly the live chunks."""
    key, _ = await world.catalog.find_project(PROJECT)
    chance = random.Random(5)
    writing = True

    async def change() -> None:
        while writing:
            name = f"d{chance.randrange(20)}"
            if chance.random() < 0.3:
                await world.catalog.delete_documents(key, [(DocumentId(name), None)], TraceContext())
            else:
                await write(world.catalog, key, prepared(name, *chance.sample(TEXTS[:30], 5)))
            await asyncio.sleep(0)

    async def project() -> None:
        while writing:
            await world.vectoriser.step()
            await world.projector.step()

    work = [asyncio.create_task(change()), asyncio.create_task(project())]
    found: list[Verification] = []
    async with asyncio.timeout(60):
        while len(found) < 40 or len({verification.sequence for verification in found}) <= 5:  # something has to be written meanwhile
            found.append((await compare(world, repair=True)).verification)
    writing = False
    await asyncio.gather(*work)
    await world.settle()

    assert [verification.differences for verification in found if not verification.equal] == []
    assert len(await world.stored()) == (await world.project()).chunk_count
    assert (await compare(world)).verification.equal


async def test_what_is_lost_while_writes_go_on_is_found_all_the_same(world: World) -> None:
    """A difference is not mistaken for a write, either."""
    key, _ = await world.catalog.find_project(PROJECT)
    await lose(world, "a#chunk5")
    await write(world.catalog, key, prepared("c", "new"))
    await world.vectoriser.step()
    found = (await compare(world, repair=True)).verification
    assert [(each.kind, each.examples) for each in found.differences] == [(DifferenceKind.VECTORS_MISSING, ("a#chunk5",))]
    await world.settle()
    assert len(await world.stored()) == 1_201


class Racing(FakeVectorStore):
    """Lets something happen in the middle of a comparison, once.

    Attributes:
        moment: Where: behind the n-th call of an operation.
        meanwhile: What.
    """

    def __init__(self) -> None:
        super().__init__()
        self.moment: tuple[str, int] | None = None
        self.meanwhile: Callable[[], Awaitable[object]] | None = None

    def race(self, operation: str, call: int, meanwhile: Callable[[], Awaitable[object]]) -> None:
        """From now on count the calls."""
        self.calls.clear()
        self.moment, self.meanwhile = (operation, call), meanwhile

    async def existing(self, collection: str, chunk_ids: Sequence[ChunkId], *, timeout: float) -> Collection[ChunkId]:
        """See VectorWriter."""
        found = await super().existing(collection, chunk_ids, timeout=timeout)
        await self._at("existing")
        return found

    async def list_ids(self, collection: str, *, offset: int, limit: int, timeout: float) -> Sequence[ChunkId]:
        """See VectorWriter."""
        page = await super().list_ids(collection, offset=offset, limit=limit, timeout=timeout)
        await self._at("list_ids")
        return page

    async def delete(self, collection: str, chunk_ids: Sequence[ChunkId], *, timeout: float) -> None:
        """See VectorWriter. What happens meanwhile happens before anything is deleted."""
        self.calls["delete begins"] += 1
        await self._at("delete begins")
        await super().delete(collection, chunk_ids, timeout=timeout)

    async def _at(self, operation: str) -> None:
        if self.moment == (operation, self.calls[operation]) and self.meanwhile is not None:
            meanwhile, self.moment, self.meanwhile = self.meanwhile, None, None
            await meanwhile()


@pytest.fixture
async def racing(tmp_path: Path) -> AsyncIterator[tuple[World, Racing]]:
    """A project of three chunks and one that is to go, in a store in which something happens in the middle of a comparison."""
    catalog, store = SqliteCatalog.open(tmp_path), Racing()
    key = await create(catalog)
    world = make_world(catalog, store)
    await write(catalog, key, prepared("a", "one", "two"), prepared("b", "three"))
    await world.settle()
    yield world, store
    await catalog.close()


async def test_a_chunk_that_goes_between_the_looks_at_catalog_and_store_is_not_missing(racing: tuple[World, Racing]) -> None:
    """The store is asked for chunks as they were; what it does not have because it was deleted meanwhile is no difference."""
    world, store = racing
    key, _ = await world.catalog.find_project(PROJECT)
    hidden = store.collections[(await world.project()).collection].pop(ChunkId("b#three"))

    async def delete() -> None:
        store.collections[(await world.project()).collection][ChunkId("b#three")] = hidden
        await world.catalog.delete_documents(key, [(DocumentId("b"), None)], TraceContext())
        await world.settle()

    store.race("existing", 1, delete)
    assert (await compare(world, repair=True)).verification.equal
    assert await world.stored() == {"a#one", "a#two"}


async def test_a_chunk_that_goes_behind_the_list_of_the_store_is_not_too_much(racing: tuple[World, Racing]) -> None:
    """The catalog knows nothing of it any more, but the store does not have it either."""
    world, store = racing
    key, _ = await world.catalog.find_project(PROJECT)
    await stray(world, "z#1")

    async def delete() -> None:
        await world.catalog.delete_documents(key, [(DocumentId("b"), None)], TraceContext())
        await world.settle()

    store.race("list_ids", 1, delete)
    found = (await compare(world)).verification
    assert [(each.kind, each.examples) for each in found.differences] == [(DifferenceKind.VECTORS_EXTRA, ("z#1",))]


async def _write_stray(world: World) -> asyncio.Task[bool]:
    """The id of a stray becomes that of a chunk; the projector is at it, as far as it gets."""
    key, _ = await world.catalog.find_project(PROJECT)
    await write(world.catalog, key, prepared("c", "new"))
    await world.vectoriser.step()
    projecting = asyncio.create_task(world.projector.step())
    await asyncio.wait({projecting}, timeout=0.3)  # it is held up, if all is well: nothing announces that
    return projecting


@pytest.mark.parametrize(("operation", "call"), [("existing", 2), ("delete begins", 1)], ids=["found", "about to go"])
async def test_a_stray_that_becomes_a_chunk_is_not_deleted(racing: tuple[World, Racing], operation: str, call: int) -> None:
    """Neither between being found and being deleted, nor in the middle of that: the projector writes before the last look, or behind the deletion."""
    world, store = racing
    await stray(world, "c#new")
    projecting: list[asyncio.Task[bool]] = []

    async def become() -> None:
        projecting.append(await _write_stray(world))

    store.race(operation, call, become)
    await compare(world, repair=True)
    await asyncio.gather(*projecting)
    await world.settle()
    assert len(projecting) == 1
    assert await world.stored() == {"a#one", "a#two", "b#three", "c#new"}


async def test_collections_that_nobody_knows_are_listed_and_dropped_when_that_is_wanted(tmp_path: Path) -> None:
    """What a restored catalog has left behind is an orphan; collections of other projects, and those that are to be dropped anyway, are not."""
    catalog = SqliteCatalog.open(tmp_path)
    key = await create(catalog)
    world = make_world(catalog)
    await write(catalog, key, prepared("a", "one"))
    await world.settle()
    old = (await world.project()).collection
    await catalog.close()
    (tmp_path / RESTORED_MARKER).touch()
    catalog = SqliteCatalog.open(tmp_path)
    world = make_world(catalog, world.store)
    await world.settle()
    superseded = (await world.project()).collection
    await world.projects.rebuild_vectors(PROJECT)
    await world.settle()
    others = ["kb_docs-2_g1_0a1b2c3d", "notes", "kb_docs_other"]
    for name in others:
        await world.store.ensure_collection(name, timeout=1)

    assert (await compare(world)).orphans == [old]
    assert old in world.store.collections
    assert (await compare(world, drop_orphans=True)).orphans == [old]
    assert set(world.store.collections) == {superseded, (await world.project()).collection, *others}
    assert (await compare(world)).orphans == []
    await catalog.close()


async def test_who_stops_listening_stops_the_comparison(world: World) -> None:
    """A call that ends in the middle leaves nothing locked."""
    await lose(world, "a#chunk5")
    async with aclosing(world.reconciler.compare(PROJECT, repair=True, drop_orphans=False)) as steps:
        async for _ in steps:
            break
    assert (await compare(world, repair=True)).verification.repaired


async def test_the_real_store_is_compared_and_mended(tmp_path: Path, chroma: ChromaServer) -> None:
    """Against ChromaDB: vectors are taken out and put in behind our back, and afterwards it has exactly the chunks."""
    catalog, client = SqliteCatalog.open(tmp_path), ChromaClient(chroma.url)
    key = await create(catalog)
    world = make_world(catalog, client)  # type: ignore[arg-type] # the real one for once
    await write(catalog, key, prepared("a", *TEXTS))
    await world.settle()
    collection = (await world.project()).collection
    await client.delete(collection, _ids(3, 4), timeout=10)
    await client.add(collection, [ChunkId("stray")], np.ones((1, 8), np.float32), timeout=10)

    found = (await compare(world, repair=True)).verification
    assert {each.kind: each.count for each in found.differences} == {DifferenceKind.VECTORS_MISSING: 2, DifferenceKind.VECTORS_EXTRA: 1}
    assert sorted(await client.list_ids(collection, offset=0, limit=5_000, timeout=10)) == sorted(_ids(*range(1_200)))
    assert (await compare(world)).verification.equal
    await client.drop_collection(collection, timeout=10)
    await client.close()
    await catalog.close()


def _ids(*numbers: int) -> Sequence[ChunkId]:
    return [ChunkId(f"a#{TEXTS[number]}") for number in numbers]

"""Chunks that poison a batch: they are set aside with their reason, the rest goes on, and they come back when they are tried again."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from services.indexer.application import tokens
from services.indexer.catalog.sqlite import SqliteCatalog
from shared.chroma.client import ChromaClient
from shared.domain import ChunkId, DocumentId, ProjectId, ProjectState, SequenceNumber, TraceContext, Vectors
from shared.errors import InvalidArgumentError, NotFoundError, UnavailableError, VectorStoreError, VectorStoreUnavailableError
from shared.observability.metrics import REGISTRY
from shared.quarantine import QuarantinedChunk, QuarantineStage
from tests.fakes.embedder import FakeEmbedder
from tests.fixtures.chroma import ChromaServer
from tests.integration.test_catalog import PROJECT, create, prepared, write
from tests.integration.test_projection import World, make_world


class TouchyEmbedder(FakeEmbedder):
    """Fails for texts with certain words, as a model's runtime does: with an error of its own, for the whole batch.

    Attributes:
        raises: Words for which it raises.
        spoils: Words for which the vector has numbers that are none.
        broken: It raises for every text.
    """

    def __init__(self) -> None:
        super().__init__("model", 8)
        self.raises: set[str] = set()
        self.spoils: set[str] = set()
        self.broken = False

    async def embed(self, texts: Sequence[str]) -> Vectors:
        """See Embedder."""
        if self.broken or any(word in text.split() for text in texts for word in self.raises):
            raise RuntimeError("the runtime cannot")
        vectors = await super().embed(texts)
        for row, text in enumerate(texts):
            if not self.spoils.isdisjoint(text.split()):
                vectors[row] = np.nan
        return vectors


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """An empty catalog with project docs, an empty vector store, and an embedder that can be told to fail."""
    catalog = SqliteCatalog.open(tmp_path)
    await create(catalog)
    yield make_world(catalog, embedder=TouchyEmbedder())
    await catalog.close()


async def held(world: World) -> list[QuarantinedChunk]:
    """What is in quarantine."""
    chunks, token = await world.quarantine.page(None, 1_000, "")
    assert token == ""
    return list(chunks)


async def caught_up(world: World) -> bool:
    """Whether everything that can be in the vector store is said to be there."""
    project = await world.project()
    return int(project.vector_sequence) == int(project.head) and project.state is ProjectState.ACTIVE


def texts(count: int) -> list[str]:
    """Distinct texts of chunks."""
    return [f"chunk{number}" for number in range(count)]


def events(event: str) -> float:
    """How often it was counted."""
    return REGISTRY.get_sample_value("kb_quarantine_events_total", {"event": event}) or 0.0


async def test_chunks_that_the_store_refuses_do_not_hold_up_the_others(world: World) -> None:
    """Three poison chunks in two pages of chunks: everything else arrives, they are listed with why, and the sequence is at the head."""
    key, _ = await world.catalog.find_project(PROJECT)
    before = events("quarantined")
    world.store.poison = {ChunkId("a#chunk3"), ChunkId("a#chunk4"), ChunkId("b#chunk299")}
    await write(world.catalog, key, prepared("a", *texts(400)), prepared("b", *texts(300)))
    await world.settle()

    everything = {f"a#{text}" for text in texts(400)} | {f"b#{text}" for text in texts(300)}
    assert await world.stored() == everything - world.store.poison
    assert await caught_up(world)
    assert [(chunk.project_id, chunk.document_id, chunk.chunk_id, chunk.ordinal, chunk.stage, chunk.failures) for chunk in await held(world)] == [
        ("docs", "a", "a#chunk3", 3, QuarantineStage.VECTOR_STORE, 1),
        ("docs", "a", "a#chunk4", 4, QuarantineStage.VECTOR_STORE, 1),
        ("docs", "b", "b#chunk299", 299, QuarantineStage.VECTOR_STORE, 1),
    ]
    assert {chunk.reason for chunk in await held(world)} == {"The vector store refuses the request."}
    assert events("quarantined") == before + 3
    assert world.store.calls["add"] < 60, "halving, not one by one"


async def test_a_store_that_refuses_everything_poisons_nothing(world: World) -> None:
    """A wrong setting or a broken collection is nobody's fault: nothing is set aside, and the store is asked twice, not a thousand times."""
    key, _ = await world.catalog.find_project(PROJECT)
    await write(world.catalog, key, prepared("a", *texts(300)))
    await world.vectoriser.step()
    world.store.fail(VectorStoreError("The vector store refuses the request."), operation="add")
    with pytest.raises(VectorStoreError):
        await world.projector.step()

    assert await held(world) == []
    assert world.store.calls["add"] == 2
    world.store.heal()
    await world.settle()
    assert len(await world.stored()) == 300


async def test_a_store_that_begins_to_refuse_everything_poisons_nothing(world: World) -> None:
    """One chunk is refused, and behind it everything: what was refused is not known to be at fault, so it is tried again and found then."""
    key, _ = await world.catalog.find_project(PROJECT)
    await write(world.catalog, key, prepared("a", *texts(8)))
    await world.vectoriser.step()
    world.store.poison = {ChunkId("a#chunk7")}
    adds, really = 0, world.store.add

    async def add(collection: str, chunk_ids: Sequence[ChunkId], vectors: Vectors, *, timeout: float) -> None:
        nonlocal adds
        adds += 1
        if adds > 6:
            raise VectorStoreError("The vector store refuses the request.")
        await really(collection, chunk_ids, vectors, timeout=timeout)

    world.store.add = add  # type: ignore[method-assign] # from one call on, and not by operation
    with pytest.raises(VectorStoreError):
        await world.projector.step()
    assert await held(world) == []
    world.store.add = really  # type: ignore[method-assign] # as it was
    await world.settle()
    assert [chunk.chunk_id for chunk in await held(world)] == ["a#chunk7"]


async def test_a_chunk_that_is_alone_is_poison_only_if_something_else_is_taken(world: World) -> None:
    """The only chunk of a project has no neighbours that could be taken: a vector that is in order stands in for them, and leaves no trace."""
    key, _ = await world.catalog.find_project(PROJECT)
    await write(world.catalog, key, prepared("a", "one"))
    world.store.poison = {ChunkId("a#one")}
    await world.settle()

    assert [chunk.chunk_id for chunk in await held(world)] == ["a#one"]
    assert await world.stored() == set()
    assert await caught_up(world)


async def test_a_store_that_does_not_answer_poisons_nothing(world: World) -> None:
    """Unavailable is not refused, also in the middle of the halving."""
    key, _ = await world.catalog.find_project(PROJECT)
    await write(world.catalog, key, prepared("a", *texts(8)))
    await world.vectoriser.step()
    world.store.poison = {ChunkId("a#chunk7")}
    world.store.fail(operation="delete")  # the probe's
    with pytest.raises(VectorStoreUnavailableError):
        await world.projector.step()
    assert await held(world) == []


@pytest.mark.parametrize("how", ["raises", "spoils"])
async def test_texts_for_which_the_model_fails_do_not_hold_up_the_others(world: World, how: str) -> None:
    """Whether it raises or gives numbers that are none: the others are embedded and stored, and the failing ones are listed."""
    assert isinstance(world.embedder, TouchyEmbedder)
    setattr(world.embedder, how, {"chunk17", "chunk180"})
    key, _ = await world.catalog.find_project(PROJECT)
    await write(world.catalog, key, prepared("a", *texts(200)))
    await world.settle()

    assert await world.stored() == {f"a#{text}" for text in texts(200)} - {"a#chunk17", "a#chunk180"}
    assert await caught_up(world)
    assert [(chunk.chunk_id, chunk.stage) for chunk in await held(world)] == [
        ("a#chunk17", QuarantineStage.EMBEDDING),
        ("a#chunk180", QuarantineStage.EMBEDDING),
    ]
    reasons = {"raises": "the runtime cannot", "spoils": "the model's vector has numbers that are not finite"}
    assert {chunk.reason for chunk in await held(world)} == {reasons[how]}


async def test_a_model_that_fails_for_everything_poisons_nothing(world: World) -> None:
    """It is unavailable, which the worker survives; when it works again, everything is embedded."""
    assert isinstance(world.embedder, TouchyEmbedder)
    world.embedder.broken = True
    key, _ = await world.catalog.find_project(PROJECT)
    await write(world.catalog, key, prepared("a", *texts(200)))
    with pytest.raises(UnavailableError, match="fails for every text"):
        await world.vectoriser.step()
    assert await held(world) == []
    world.embedder.broken = False
    await world.settle()
    assert len(await world.stored()) == 200


@pytest.mark.parametrize("stage", list(QuarantineStage))
async def test_chunks_that_are_tried_again_and_taken_are_released(world: World, stage: QuarantineStage) -> None:
    """They arrive in the vector store and in the feed's vectors; no document gets a new sequence, and nothing else is written again."""
    assert isinstance(world.embedder, TouchyEmbedder)
    poisoned = {ChunkId("a#chunk1"), ChunkId("a#chunk3")}
    if stage is QuarantineStage.EMBEDDING:
        world.embedder.raises = {"chunk1", "chunk3"}
    else:
        world.store.poison = poisoned
    key, _ = await world.catalog.find_project(PROJECT)
    await write(world.catalog, key, prepared("a", *texts(5)))
    await world.settle()
    before = await world.project()
    document = await world.catalog.get_document(key, DocumentId("a"))
    released, embedded = events("released"), len(world.embedder.embedded)
    world.embedder.raises, world.store.poison = set(), set()

    assert await world.quarantine.retry(PROJECT, []) == 2
    assert await held(world) == []
    await world.settle()

    after = await world.project()
    assert await world.stored() == {f"a#{text}" for text in texts(5)}
    assert await caught_up(world)
    assert (after.generation, after.head) == (before.generation, before.head + 1)
    assert await world.catalog.get_document(key, DocumentId("a")) == document
    assert events("released") == released + 2
    assert len(world.embedder.embedded) - embedded == (2 if stage is QuarantineStage.EMBEDDING else 0)
    vectors, _ = await world.catalog.vector_batch(key, before.head, (before.head + 1, 0), after.head)
    assert set(vectors.chunk_ids) == poisoned, "a replica that has everything else is sent them"
    changes = await world.catalog.document_batch(key, before.head, 10, SequenceNumber(0))
    assert changes is not None
    assert (list(changes.changes), changes.range.end) == ([], after.head)
    await world.reconciler.check_counts()
    assert (await world.project()).generation == before.generation


async def test_chunks_that_fail_again_come_back(world: World) -> None:
    """With another failure counted; only those that are named are tried."""
    key, _ = await world.catalog.find_project(PROJECT)
    world.store.poison = {ChunkId("a#chunk1"), ChunkId("a#chunk3")}
    await write(world.catalog, key, prepared("a", *texts(5)))
    await world.settle()

    assert await world.quarantine.retry(PROJECT, [ChunkId("a#chunk3"), ChunkId("a#chunk3"), ChunkId("a#chunk4"), ChunkId("missing")]) == 1
    await world.settle()
    assert [(chunk.chunk_id, chunk.failures) for chunk in await held(world)] == [("a#chunk1", 1), ("a#chunk3", 2)]
    assert await caught_up(world)


async def test_what_is_in_quarantine_counts_neither_as_lost_nor_as_a_reason_to_rebuild(world: World) -> None:
    """The look at the number of vectors and the comparison of each one leave the project alone."""
    key, _ = await world.catalog.find_project(PROJECT)
    world.store.poison = {ChunkId("a#chunk1")}
    await write(world.catalog, key, prepared("a", *texts(5)))
    await world.settle()
    before = await world.project()
    adds = world.store.calls["add"]

    await world.reconciler.check_counts()
    await world.reconciler.compare_all()
    assert await world.project() == before
    assert world.store.calls["add"] == adds


async def test_a_rebuild_tries_again_what_the_store_refused_and_not_what_the_model_did(world: World) -> None:
    """Another collection may take it; nothing is embedded by a rebuild."""
    assert isinstance(world.embedder, TouchyEmbedder)
    key, _ = await world.catalog.find_project(PROJECT)
    world.store.poison, world.embedder.raises = {ChunkId("a#chunk1")}, {"chunk2"}
    await write(world.catalog, key, prepared("a", *texts(5)))
    await world.settle()
    world.store.poison = set()

    await world.projects.rebuild_vectors(PROJECT)
    await world.settle()
    assert await world.stored() == {f"a#{text}" for text in texts(5)} - {"a#chunk2"}
    assert [chunk.chunk_id for chunk in await held(world)] == ["a#chunk2"]
    assert await caught_up(world)


@pytest.mark.parametrize("how", ["replaced", "deleted", "project deleted"])
async def test_the_end_of_a_chunk_is_the_end_of_its_quarantine(world: World, how: str) -> None:
    """Also if the store refuses to delete what it never took; and a chunk that comes back is tried anew."""
    key, _ = await world.catalog.find_project(PROJECT)
    world.store.poison = {ChunkId("a#one")}
    await write(world.catalog, key, prepared("a", "one", "two"))
    await world.settle()
    assert len(await held(world)) == 1
    if how == "replaced":
        await write(world.catalog, key, prepared("a", "two"))
    elif how == "deleted":
        await world.catalog.delete_documents(key, [(DocumentId("a"), None)], TraceContext())
    else:
        await world.catalog.delete_project(PROJECT, etag="")

    assert await held(world) == []
    assert await world.catalog.count_quarantined() == {}
    if how == "project deleted":
        await world.janitor.step()
        return
    await world.settle()
    assert await caught_up(world)
    world.store.poison = set()
    await write(world.catalog, key, prepared("a", "one", "two"))
    await world.settle()
    assert await world.stored() == {"a#one", "a#two"}


async def test_the_quarantine_survives_a_restart(tmp_path: Path) -> None:
    """It is kept in the catalog, and what is in it is not tried again by itself."""
    catalog = SqliteCatalog.open(tmp_path)
    key = await create(catalog)
    world = make_world(catalog)
    world.store.poison = {ChunkId("a#one")}
    await write(catalog, key, prepared("a", "one", "two"))
    await world.settle()
    await catalog.close()

    catalog = SqliteCatalog.open(tmp_path)
    again = make_world(catalog, world.store)
    again.store.poison = set()
    await again.settle()
    assert [chunk.chunk_id for chunk in await held(again)] == ["a#one"]
    assert await catalog.count_quarantined() == {QuarantineStage.VECTOR_STORE: 1}
    await catalog.close()


async def test_the_list_comes_in_pages_of_one_project_or_of_all(world: World) -> None:
    """Pages join; a token belongs to its list; a project that is not there is not found."""
    for project in ("docs", "other"):
        if project == "other":
            await create(world.catalog, project)
        key, _ = await world.catalog.find_project(ProjectId(project))
        await world.catalog.upsert_documents(ProjectId(project), key, [prepared(project, *texts(3))], TraceContext(), None)
    world.store.poison = {ChunkId(f"{project}#{text}") for project in ("docs", "other") for text in texts(3)}
    await world.settle()

    walked: list[str] = []
    token = ""
    while True:
        chunks, token = await world.quarantine.page(None, 2, token)
        walked += [chunk.chunk_id for chunk in chunks]
        if not token:
            break
    assert sorted(walked) == sorted(world.store.poison)
    chunks, token = await world.quarantine.page(ProjectId("other"), 2, "")
    assert {chunk.project_id for chunk in chunks} == {"other"}
    with pytest.raises(InvalidArgumentError):
        await world.quarantine.page(None, 2, token)
    for forged in ("abc", "-1", "9" * 30):
        with pytest.raises(InvalidArgumentError, match="page_token"):
            await world.quarantine.page(None, 2, tokens.page_token(forged, "quarantine", None))
    with pytest.raises(NotFoundError):
        await world.quarantine.page(ProjectId("missing"), 2, "")
    with pytest.raises(NotFoundError):
        await world.quarantine.retry(ProjectId("missing"), [])


async def test_the_real_store_refuses_a_vector_that_is_none_and_takes_the_rest(tmp_path: Path, chroma: ChromaServer) -> None:
    """Against ChromaDB: one vector of a catalog has no finite numbers; it alone is set aside, with ChromaDB's own words."""
    catalog, client = SqliteCatalog.open(tmp_path), ChromaClient(chroma.url)
    key = await create(catalog)
    await write(catalog, key, prepared("a", *texts(40)))
    (project,) = await catalog.projects_to_embed()
    chunks = await catalog.unembedded(project, 100)
    vectors = np.random.default_rng(1).normal(size=(40, 8)).astype(np.float32)
    vectors[23] = np.inf
    await catalog.store_embeddings(project, [chunk.key for chunk in chunks], vectors)
    world = make_world(catalog, client)  # type: ignore[arg-type] # the real one for once
    await world.settle()

    assert await client.count((await world.project()).collection, timeout=10) == 39
    (chunk,) = await held(world)
    assert chunk.chunk_id == "a#chunk23"
    assert "HTTP 4" in chunk.reason
    assert await caught_up(world)
    await client.drop_collection((await world.project()).collection, timeout=10)
    await client.close()
    await catalog.close()

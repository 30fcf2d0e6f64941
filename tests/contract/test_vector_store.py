"""What every vector store does, the fake and ChromaDB alike, bare and behind retry and breaker."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator

import numpy as np
import pytest
import pytest_asyncio

from shared.chroma.client import ChromaClient
from shared.chroma.resilient import ResilientVectorStore
from shared.domain import ChunkId, Vectors
from shared.errors import CollectionNotFoundError, VectorStoreError
from shared.ports import VectorStore
from shared.resilience.breaker import Breaker
from shared.resilience.retry import RetryBudget, RetryPolicy
from tests.fakes.vector_store import FakeVectorStore
from tests.fixtures.chroma import ChromaServer

TIMEOUT = 20.0
DIMENSION = 8


def unit_vectors(count: int, seed: int = 1) -> Vectors:
    """Random vectors of unit length, shape `(count, DIMENSION)`."""
    vectors: Vectors = np.random.default_rng(seed).normal(size=(count, DIMENSION)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def ids(count: int, prefix: str = "doc#") -> list[ChunkId]:
    """Chunk ids with characters that JSON and paths treat specially."""
    return [ChunkId(f'{prefix}"ü/{n:05}') for n in range(count)]


@pytest_asyncio.fixture(params=["fake", "resilient fake", "chroma"])
async def store(request: pytest.FixtureRequest, chroma: ChromaServer) -> AsyncIterator[VectorStore]:
    """Each store in turn."""
    client = ChromaClient(chroma.url, batch_size=100)
    fake = FakeVectorStore()
    stores: dict[str, VectorStore] = {
        "fake": fake,
        "resilient fake": ResilientVectorStore(fake, breaker=Breaker(), retry=RetryPolicy(), budget=RetryBudget()),
        "chroma": client,
    }
    yield stores[request.param]
    await client.close()


@pytest_asyncio.fixture
async def collection(store: VectorStore) -> AsyncIterator[str]:
    """An empty collection."""
    name = f"kb_test-{uuid.uuid4().hex[:12]}_g1"
    await store.ensure_collection(name, timeout=TIMEOUT)
    yield name
    await store.drop_collection(name, timeout=TIMEOUT)


async def test_a_vector_finds_itself_first_with_similarity_one(store: VectorStore, collection: str) -> None:
    """Scores are cosine similarities, falling, and equal to those computed by hand."""
    vectors, names = unit_vectors(50), ids(50)
    await store.add(collection, names, vectors, timeout=TIMEOUT)

    hits = await store.query(collection, vectors[7], 10, timeout=TIMEOUT)

    similarity = vectors @ vectors[7]
    assert [hit.chunk_id for hit in hits] == [names[n] for n in np.argsort(-similarity)[:10]]
    assert [hit.score for hit in hits] == pytest.approx(np.sort(similarity)[::-1][:10].tolist(), abs=1e-5)


async def test_similarity_ignores_length_and_reaches_minus_one(store: VectorStore, collection: str) -> None:
    """An opposite vector scores -1, whatever the lengths."""
    vectors = unit_vectors(1)
    await store.add(collection, ids(1), vectors * 3, timeout=TIMEOUT)

    (hit,) = await store.query(collection, -2 * vectors[0], 1, timeout=TIMEOUT)

    assert hit.score == pytest.approx(-1.0, abs=1e-5)


@pytest.mark.parametrize(("stored", "limit", "found"), [(0, 5, 0), (3, 50, 3), (3, 2, 2), (3, 0, 0)])
async def test_a_query_returns_at_most_the_limit(store: VectorStore, collection: str, stored: int, limit: int, found: int) -> None:
    """A limit above the collection's size returns all there is; an empty collection has no hits."""
    await store.add(collection, ids(stored), unit_vectors(stored), timeout=TIMEOUT)

    assert len(await store.query(collection, unit_vectors(1)[0], limit, timeout=TIMEOUT)) == found


async def test_adding_again_changes_nothing(store: VectorStore, collection: str) -> None:
    """An id that is there keeps the vector it has."""
    first, second = unit_vectors(2)
    await store.add(collection, ids(1), first[None], timeout=TIMEOUT)
    await store.add(collection, ids(1), second[None], timeout=TIMEOUT)

    (hit,) = await store.query(collection, first, 5, timeout=TIMEOUT)
    assert hit.score == pytest.approx(1.0, abs=1e-5)
    assert await store.count(collection, timeout=TIMEOUT) == 1


async def test_deleted_vectors_are_not_found(store: VectorStore, collection: str) -> None:
    """Deleting removes what it names; missing ids, and none at all, change nothing."""
    names = ids(3)
    await store.add(collection, names, unit_vectors(3), timeout=TIMEOUT)
    await store.delete(collection, [names[0], ChunkId("missing")], timeout=TIMEOUT)
    await store.delete(collection, [], timeout=TIMEOUT)

    hits = await store.query(collection, unit_vectors(1)[0], 5, timeout=TIMEOUT)
    assert {hit.chunk_id for hit in hits} == set(names[1:])
    assert await store.count(collection, timeout=TIMEOUT) == 2


async def test_it_says_which_ids_it_has(store: VectorStore, collection: str) -> None:
    """Of more ids than fit in one request, those that are there; of none, none."""
    names = ids(250)
    await store.add(collection, names[:230], unit_vectors(230), timeout=TIMEOUT)

    assert set(await store.existing(collection, names[20:], timeout=TIMEOUT)) == set(names[20:230])
    assert set(await store.existing(collection, [], timeout=TIMEOUT)) == set()


async def test_its_ids_can_be_walked_in_pages(store: VectorStore, collection: str) -> None:
    """Pages join to everything that is there, each id once; the last one is short, and behind it there is nothing."""
    names = ids(25)
    await store.add(collection, names, unit_vectors(25), timeout=TIMEOUT)

    pages = [await store.list_ids(collection, offset=offset, limit=10, timeout=TIMEOUT) for offset in (0, 10, 20, 30)]
    assert [len(page) for page in pages] == [10, 10, 5, 0]
    assert sorted(name for page in pages for name in page) == sorted(names)


async def test_large_writes_are_whole(store: VectorStore, collection: str) -> None:
    """More vectors than fit in one request are all added, and all deleted."""
    names = ids(1_234)
    await store.add(collection, names, unit_vectors(1_234), timeout=TIMEOUT)
    assert await store.count(collection, timeout=TIMEOUT) == 1_234

    await store.delete(collection, names[:-1], timeout=TIMEOUT)
    (hit,) = await store.query(collection, unit_vectors(1)[0], 5, timeout=TIMEOUT)
    assert hit.chunk_id == names[-1]


async def test_ensuring_twice_keeps_the_content(store: VectorStore, collection: str) -> None:
    """`ensure_collection` of a collection that is there leaves its vectors."""
    await store.add(collection, ids(2), unit_vectors(2), timeout=TIMEOUT)
    await asyncio.gather(*(store.ensure_collection(collection, timeout=TIMEOUT) for _ in range(5)))

    assert await store.count(collection, timeout=TIMEOUT) == 2


async def test_many_may_ensure_the_same_new_collection(store: VectorStore) -> None:
    """Ten at once all succeed, and there is one collection."""
    name = f"kb_race-{uuid.uuid4().hex[:12]}_g1"
    await asyncio.gather(*(store.ensure_collection(name, timeout=TIMEOUT) for _ in range(10)))

    assert (await store.list_collections(timeout=TIMEOUT)).count(name) == 1
    await store.drop_collection(name, timeout=TIMEOUT)


async def test_a_dropped_collection_is_gone(store: VectorStore, collection: str) -> None:
    """Dropping removes it from the list and its vectors with it; dropping again changes nothing."""
    await store.add(collection, ids(2), unit_vectors(2), timeout=TIMEOUT)
    assert collection in await store.list_collections(timeout=TIMEOUT)
    await store.drop_collection(collection, timeout=TIMEOUT)
    await store.drop_collection(collection, timeout=TIMEOUT)
    assert collection not in await store.list_collections(timeout=TIMEOUT)

    await store.ensure_collection(collection, timeout=TIMEOUT)
    assert await store.count(collection, timeout=TIMEOUT) == 0


async def test_a_missing_collection_is_an_error_of_its_own(store: VectorStore) -> None:
    """Every call about a collection that is not there raises CollectionNotFoundError."""
    name, (vector,) = "kb_missing_g1", unit_vectors(1)
    for call in (
        store.query(name, vector, 5, timeout=TIMEOUT),
        store.count(name, timeout=TIMEOUT),
        store.add(name, ids(1), vector[None], timeout=TIMEOUT),
        store.delete(name, ids(1), timeout=TIMEOUT),
        store.existing(name, ids(1), timeout=TIMEOUT),
        store.list_ids(name, offset=0, limit=1, timeout=TIMEOUT),
    ):
        with pytest.raises(CollectionNotFoundError):
            await call


async def test_another_dimension_is_refused_for_good(store: VectorStore, collection: str) -> None:
    """A vector of the wrong dimension, added or asked for, is a VectorStoreError and not unavailability."""
    await store.add(collection, ids(1), unit_vectors(1), timeout=TIMEOUT)
    wrong = np.ones(DIMENSION + 1, np.float32)
    for call in (store.query(collection, wrong, 5, timeout=TIMEOUT), store.add(collection, ids(1, "new"), wrong[None], timeout=TIMEOUT)):
        with pytest.raises(VectorStoreError) as raised:
            await call
        assert not isinstance(raised.value, CollectionNotFoundError)


async def test_a_vector_that_is_no_vector_is_refused_with_its_neighbours_and_nothing_is_written(store: VectorStore, collection: str) -> None:
    """What the projector's halving counts on: a write is refused as a whole, for good, and is right without the one at fault."""
    vectors, names = unit_vectors(3), ids(3)
    await store.add(collection, names[:1], vectors[:1], timeout=TIMEOUT)
    damaged = vectors.copy()
    damaged[1] = np.nan

    with pytest.raises(VectorStoreError) as raised:
        await store.add(collection, names[1:], damaged[1:], timeout=TIMEOUT)
    assert not isinstance(raised.value, CollectionNotFoundError)
    assert await store.count(collection, timeout=TIMEOUT) == 1
    await store.add(collection, names[2:], damaged[2:], timeout=TIMEOUT)
    assert await store.count(collection, timeout=TIMEOUT) == 2


async def test_ids_and_vectors_must_be_as_many(store: VectorStore, collection: str) -> None:
    """A mismatch is refused, and nothing is written."""
    with pytest.raises(VectorStoreError):
        await store.add(collection, ids(2), unit_vectors(3), timeout=TIMEOUT)

    assert await store.count(collection, timeout=TIMEOUT) == 0


async def test_ping_answers(store: VectorStore) -> None:
    """`ping` of a store that runs returns."""
    await store.ping(timeout=TIMEOUT)

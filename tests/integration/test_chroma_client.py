"""The ChromaDB adapter against a real server that is read by others, killed, suspended and restarted."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator

import chromadb
import numpy as np
import pytest
import pytest_asyncio
from chromadb.api import ClientAPI
from chromadb.config import Settings

from shared.chroma.client import ChromaClient
from shared.chroma.resilient import ResilientVectorStore
from shared.chroma.wire import HnswSettings
from shared.domain import ChunkId, Vectors
from shared.errors import CircuitOpenError, CollectionNotFoundError, FailedPreconditionError, VectorStoreError, VectorStoreUnavailableError
from shared.resilience.breaker import Breaker, BreakerState
from shared.resilience.retry import RetryBudget, RetryPolicy
from tests.fixtures.chroma import ChromaServer

TIMEOUT = 20.0
DIMENSION = 384


def unit_vectors(count: int) -> Vectors:
    """Random vectors of unit length, as long as the default model's."""
    vectors: Vectors = np.random.default_rng(7).normal(size=(count, DIMENSION)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def ids(count: int) -> list[ChunkId]:
    """Chunk ids."""
    return [ChunkId(f"guide/intro.md#{n:016x}") for n in range(count)]


def official(server: ChromaServer) -> ClientAPI:
    """The client that ChromaDB's makers publish."""
    return chromadb.HttpClient("127.0.0.1", server.port, settings=Settings(anonymized_telemetry=False))


@pytest.fixture
def name() -> str:
    """A collection that no other test uses."""
    return f"kb_test-{uuid.uuid4().hex[:12]}_g1"


@pytest_asyncio.fixture
async def client(chroma: ChromaServer) -> AsyncIterator[ChromaClient]:
    """The adapter on the shared server."""
    opened = ChromaClient(chroma.url)
    yield opened
    await opened.close()


@pytest_asyncio.fixture
async def own_client(own_chroma: ChromaServer) -> AsyncIterator[ChromaClient]:
    """The adapter on the test's own server."""
    opened = ChromaClient(own_chroma.url)
    yield opened
    await opened.close()


async def fill(client: ChromaClient, name: str, count: int) -> Vectors:
    """A collection with vectors."""
    vectors = unit_vectors(count)
    await client.ensure_collection(name, timeout=TIMEOUT)
    await client.add(name, ids(count), vectors, timeout=TIMEOUT)
    return vectors


async def test_the_official_client_reads_what_was_written(chroma: ChromaServer, client: ChromaClient, name: str) -> None:
    """Ids, vectors, and the index's settings are what was asked for; both find the same neighbours."""
    vectors = await fill(client, name, 1_100)

    collection = await asyncio.to_thread(official(chroma).get_collection, name)
    content = await asyncio.to_thread(collection.get, include=["embeddings"])
    order = np.argsort(content["ids"])
    assert [content["ids"][n] for n in order] == ids(1_100)
    # Once 1,000 vectors are in the graph ChromaDB returns them from there, where it has normalised them again: the last bits differ.
    assert np.abs(np.asarray(content["embeddings"], np.float32)[order] - vectors).max() < 1e-7

    hnsw = collection.configuration["hnsw"]
    assert hnsw is not None
    assert (hnsw["space"], hnsw["ef_search"], hnsw["ef_construction"], hnsw["max_neighbors"]) == ("cosine", 400, 200, 48)

    theirs = await asyncio.to_thread(collection.query, query_embeddings=vectors[:1], n_results=20)
    ours = await client.query(name, vectors[0], 20, timeout=TIMEOUT)
    assert [hit.chunk_id for hit in ours] == theirs["ids"][0]
    assert theirs["distances"] is not None
    assert [hit.score for hit in ours] == pytest.approx([1 - distance for distance in theirs["distances"][0]])


async def test_index_settings_are_arguments(chroma: ChromaServer, name: str) -> None:
    """A client creates collections with the settings that it was given."""
    client = ChromaClient(chroma.url, hnsw=HnswSettings(ef_search=50, ef_construction=60, max_neighbors=8))
    await client.ensure_collection(name, timeout=TIMEOUT)
    await client.close()

    hnsw = (await asyncio.to_thread(official(chroma).get_collection, name)).configuration["hnsw"]
    assert hnsw is not None
    assert (hnsw["ef_search"], hnsw["ef_construction"], hnsw["max_neighbors"]) == (50, 60, 8)


async def test_a_collection_with_another_distance_is_refused(chroma: ChromaServer, client: ChromaClient, name: str) -> None:
    """Scores would not be cosine similarities, so ensuring it fails."""
    await asyncio.to_thread(official(chroma).create_collection, name, configuration={"hnsw": {"space": "l2"}})

    with pytest.raises(VectorStoreError, match="l2 distance"):
        await client.ensure_collection(name, timeout=TIMEOUT)


async def test_a_collection_made_again_behind_its_back_is_found(chroma: ChromaServer, client: ChromaClient, name: str) -> None:
    """The remembered id is stale after delete and create; each call resolves the name again and works."""
    vectors = await fill(client, name, 3)
    other = official(chroma)
    for call in (
        lambda: client.count(name, timeout=TIMEOUT),
        lambda: client.query(name, vectors[0], 5, timeout=TIMEOUT),
        lambda: client.add(name, ids(3), vectors, timeout=TIMEOUT),
        lambda: client.delete(name, ids(1), timeout=TIMEOUT),
    ):
        await asyncio.to_thread(other.delete_collection, name)
        await asyncio.to_thread(other.create_collection, name, configuration={"hnsw": {"space": "cosine"}})
        await call()


async def test_a_collection_deleted_behind_its_back_is_missed(chroma: ChromaServer, client: ChromaClient, name: str) -> None:
    """The name is resolved once more, and then the error says that the collection is not there."""
    await fill(client, name, 3)
    await asyncio.to_thread(official(chroma).delete_collection, name)

    for _ in range(2):
        with pytest.raises(CollectionNotFoundError):
            await client.count(name, timeout=TIMEOUT)


async def test_an_unknown_database_is_not_a_missing_collection(chroma: ChromaServer, name: str) -> None:
    """A wrong setting must not look like a collection that could be made again."""
    client = ChromaClient(chroma.url, database="elsewhere")
    with pytest.raises(VectorStoreError) as raised:
        await client.ensure_collection(name, timeout=TIMEOUT)
    await client.close()

    assert not isinstance(raised.value, CollectionNotFoundError)


async def test_names_cannot_leave_their_place_in_the_path(client: ChromaClient, name: str) -> None:
    """A name with a question mark or slashes asks for a collection of that name, not for another path."""
    await client.ensure_collection(name, timeout=TIMEOUT)
    for other in (f"{name}?x", f"{name}#x", f"../collections/{name}", f"x/../{name}"):
        with pytest.raises(CollectionNotFoundError):
            await client.count(other, timeout=TIMEOUT)


async def test_after_closing_calls_are_refused(chroma: ChromaServer) -> None:
    """A closed client says so, and closing twice is no error."""
    client = ChromaClient(chroma.url)
    await client.ping(timeout=TIMEOUT)
    await client.close()
    await client.close()

    with pytest.raises(FailedPreconditionError):
        await client.ping(timeout=TIMEOUT)


async def test_killed_and_started_again_it_works_on(own_chroma: ChromaServer, own_client: ChromaClient, name: str) -> None:
    """After kill -9 calls fail at once; after a start on the same port and data the same client goes on, and nothing is lost."""
    vectors = await fill(own_client, name, 600)
    await asyncio.gather(*(own_client.query(name, vectors[0], 5, timeout=TIMEOUT) for _ in range(10)))
    own_chroma.kill()

    begin = time.monotonic()
    for call in (own_client.query(name, vectors[0], 5, timeout=TIMEOUT), own_client.ping(timeout=TIMEOUT), own_client.count(name, timeout=TIMEOUT)):
        with pytest.raises(VectorStoreUnavailableError):
            await call
    assert time.monotonic() - begin < 5.0

    await own_chroma.start()
    assert await own_client.count(name, timeout=TIMEOUT) == 600
    hits = await own_client.query(name, vectors[0], 5, timeout=TIMEOUT)
    assert hits[0].chunk_id == ids(1)[0]


async def test_killed_in_mid_write_repeating_completes_it(own_chroma: ChromaServer, own_client: ChromaClient, name: str) -> None:
    """A write cut off by kill -9 may be half in; the same write again makes it whole."""
    await own_client.ensure_collection(name, timeout=TIMEOUT)
    vectors = unit_vectors(3_000)
    write = asyncio.create_task(own_client.add(name, ids(3_000), vectors, timeout=TIMEOUT))
    while await own_client.count(name, timeout=TIMEOUT) == 0:
        pass
    own_chroma.kill()
    with pytest.raises(VectorStoreUnavailableError):
        await write

    await own_chroma.start()
    assert 0 < await own_client.count(name, timeout=TIMEOUT) < 3_000
    await own_client.add(name, ids(3_000), vectors, timeout=TIMEOUT)
    assert await own_client.count(name, timeout=TIMEOUT) == 3_000


async def test_a_hung_server_costs_no_more_than_the_timeout(own_chroma: ChromaServer, own_client: ChromaClient, name: str) -> None:
    """Suspended, it accepts connections and never answers: every call, on old and new connections, ends at its limit. Resumed, all is well."""
    vectors = await fill(own_client, name, 3)
    own_chroma.suspend()

    begin = time.monotonic()
    calls = [own_client.query(name, vectors[0], 5, timeout=0.4) for _ in range(20)]
    calls += [own_client.count(name, timeout=0.4), own_client.ping(timeout=0.4), own_client.add(name, ids(3), vectors, timeout=0.4)]  # type: ignore[list-item]
    results = await asyncio.gather(*calls, return_exceptions=True)
    elapsed = time.monotonic() - begin

    assert [type(result) for result in results] == [VectorStoreUnavailableError] * len(calls)
    assert 0.35 < elapsed < 2.0
    own_chroma.resume()
    assert len(await own_client.query(name, vectors[0], 5, timeout=TIMEOUT)) == 3


async def test_the_breaker_spares_a_hung_server_and_its_callers(own_chroma: ChromaServer, own_client: ChromaClient, name: str) -> None:
    """Five hung calls open the breaker, then answers come at once; when the server is back one probe closes it."""
    now = 0.0
    breaker = Breaker(clock=lambda: now)
    store = ResilientVectorStore(own_client, breaker=breaker, retry=RetryPolicy(attempts=1), budget=RetryBudget())
    vectors = await fill(own_client, name, 3)
    own_chroma.suspend()
    for _ in range(5):
        with pytest.raises(VectorStoreUnavailableError):
            await store.query(name, vectors[0], 5, timeout=0.3)
    assert breaker.state is BreakerState.OPEN

    begin = time.monotonic()
    for _ in range(100):
        with pytest.raises(CircuitOpenError):
            await store.query(name, vectors[0], 5, timeout=0.2)
    assert time.monotonic() - begin < 1.0

    own_chroma.resume()
    now = 30.0
    assert len(await store.query(name, vectors[0], 5, timeout=TIMEOUT)) == 3
    assert breaker.closed

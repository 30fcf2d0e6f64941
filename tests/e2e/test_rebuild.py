"""Vectors that are written to ChromaDB again: searches are answered meanwhile, nothing is embedded anew, and nothing stale is left."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import chromadb
import pytest

from services.cli.stack.stack import Ports, Stack
from shared.client import DegradationReason, KnowledgeBeast, SearchMode, SearchQuery
from shared.domain import Project, ProjectState
from tests.e2e.test_cli import _environment, _kb
from tests.e2e.test_outages import metric, projected, reasons
from tests.e2e.test_search import documents, found
from tests.waiting import eventually

CHUNKS = 600  # two pages of the projector
TARGET = "the lighthouse keeper polishes his lamp"
TEXTS = {f"note-{number}": f"Note {number} about subject {number * 7919 % 977}." for number in range(CHUNKS - 1)} | {"keeper": TARGET}
MEANING = SearchQuery("somebody who cleans the light of a beacon by the sea", SearchMode.VECTOR)


def collections(port: int) -> dict[str, int]:
    """Names of ChromaDB's collections and how many vectors each has, as its own client sees them."""
    client = chromadb.HttpClient(host="127.0.0.1", port=port)
    return {collection.name: collection.count() for collection in client.list_collections()}


@pytest.mark.parametrize("down", [False, True], ids=["held up", "down at first"])
async def test_searches_are_answered_while_vectors_are_written_again(tmp_path: Path, model_dir: Path, down: bool) -> None:
    """Answers during the rebuild are degraded, and as good as before and after it; then ChromaDB has one collection with everything.

    ChromaDB is stopped or dead when the rebuild is asked for, so that there are answers during it however fast it is.
    """
    stack = Stack(tmp_path, model_dir, Ports.free())
    await stack.start()
    try:
        async with KnowledgeBeast(stack.indexer_address, stack.query_address, timeout=30) as client:
            await client.create_project("docs")
            await client.upsert("docs", documents(dict(list(TEXTS.items())[: CHUNKS // 2])))
            token = (await client.upsert("docs", documents(dict(list(TEXTS.items())[CHUNKS // 2 :])))).consistency_token
            before = await eventually(lambda: client.get_project("docs"), projected, seconds=120)
            await client.search("docs", SearchQuery(TARGET, at_least_as_fresh=token))
            batches = await metric(stack.ports.indexer_http, "kb_embedding_batch_size_count")
            if down:
                stack.kill_chroma()
            else:
                stack.chroma.suspend()

            rebuilding = await client.rebuild_vectors("docs")
            assert (rebuilding.state, int(rebuilding.vector_sequence)) == (ProjectState.REBUILDING, 0)
            answers = [await eventually(lambda: client.search("docs", MEANING), lambda seen: seen.degraded, seconds=30)]
            assert (await client.rebuild_vectors("docs")).generation == rebuilding.generation
            if down:
                await stack.start_chroma()
            else:
                stack.chroma.resume()
            after = await client.get_project("docs")
            async with asyncio.timeout(120):
                while after.state is ProjectState.REBUILDING:
                    answers.append(await client.search("docs", MEANING))
                    after = await client.get_project("docs")
            await eventually(lambda: client.search("docs", MEANING), lambda seen: not seen.degraded and found(seen)[0] == "keeper")

            assert {found(answer)[0] for answer in answers} == {"keeper"}
            assert {reason for answer in answers if answer.degraded for reason in reasons(answer)} == {DegradationReason.VECTOR_STORE_UNAVAILABLE}
            assert await metric(stack.ports.indexer_http, "kb_embedding_batch_size_count") == batches
            assert after.vector_sequence == before.vector_sequence
            assert await _only(stack, after) == {after.collection: CHUNKS}
    finally:
        await stack.stop()


async def _only(stack: Stack, project: Project) -> dict[str, int]:
    """The collections once the one that was left is gone."""
    return await eventually(lambda: asyncio.to_thread(collections, stack.ports.chroma), lambda seen: list(seen) == [project.collection], seconds=30)


async def test_the_command_rebuilds_and_says_how_fast(stack: Stack, tmp_path: Path) -> None:
    """`kb rebuild` against the real services: exit status 0, and the project is active in another collection."""
    environment = _environment(KB_INDEXER_ADDRESS=stack.indexer_address, KB_QUERY_ADDRESS=stack.query_address)
    async with KnowledgeBeast(stack.indexer_address, stack.query_address) as client:
        await client.create_project("rebuilt")
        await client.upsert("rebuilt", documents({"keeper": TARGET, "other": "another text"}))
        before = await eventually(lambda: client.get_project("rebuilt"), projected)

        done = await _kb(tmp_path, environment, "rebuild", "rebuilt", "--json")
        after = await client.get_project("rebuilt")
        await client.delete_project("rebuilt")

    form = json.loads(done.stdout)
    assert (done.returncode, form["state"], form["chunk_count"]) == (0, "active", 2)
    assert (after.state, after.collection != before.collection) == (ProjectState.ACTIVE, True)

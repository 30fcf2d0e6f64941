"""What an operator does to the vectors of a running stack: comparing, mending, trying again."""

from __future__ import annotations

import json
from pathlib import Path

import apsw
import numpy as np
import pytest

from services.cli.stack.stack import Ports, Stack
from shared.chroma.client import ChromaClient
from shared.client import (
    ComponentState,
    DifferenceKind,
    HealthState,
    KnowledgeBeast,
    QuarantineStage,
    SearchMode,
    SearchQuery,
    VerifiedVectors,
)
from shared.domain import ChunkId, ProjectState
from shared.errors import InvalidArgumentError, NotFoundError
from tests.e2e.test_cli import _environment, _kb
from tests.e2e.test_outages import metric, projected
from tests.e2e.test_search import documents
from tests.waiting import eventually


async def test_what_chromadb_lost_and_what_it_has_too_much_is_found_and_mended(stack: Stack, tmp_path: Path) -> None:
    """One vector taken out and one put in behind our back, so that their number is right: `kb verify` fails, with --repair it mends."""
    environment = _environment(KB_INDEXER_ADDRESS=stack.indexer_address, KB_QUERY_ADDRESS=stack.query_address)
    chroma = ChromaClient(stack.chroma_url)
    async with KnowledgeBeast(stack.indexer_address, stack.query_address) as client:
        await client.create_project("verified")
        await client.upsert("verified", documents({f"n{number}": f"Note number {number}." for number in range(20)}))
        project = await eventually(lambda: client.get_project("verified"), projected)
        ids = await client.get_document("verified", "n7")
        (lost,) = [chunk.id for chunk in ids.chunks]
        await chroma.delete(project.collection, [lost], timeout=10)
        await chroma.add(project.collection, [ChunkId("stray")], np.ones((1, 384), np.float32), timeout=10)

        *_, found = [step async for step in client.verify_vectors("verified")]
        assert isinstance(found, VerifiedVectors)
        assert {each.kind: each.examples for each in found.verification.differences} == {
            DifferenceKind.VECTORS_MISSING: (lost,),
            DifferenceKind.VECTORS_EXTRA: ("stray",),
        }
        assert (await _kb(tmp_path, environment, "verify", "verified")).returncode == 1
        mended = await _kb(tmp_path, environment, "verify", "verified", "--repair", "--json")
        after = await _kb(tmp_path, environment, "verify", "verified", "--json")
        assert await client.get_project("verified") == project
        await client.delete_project("verified")

    assert (mended.returncode, json.loads(mended.stdout)[0]["repaired"]) == (0, True)
    assert (after.returncode, [copy["equal"] for copy in json.loads(after.stdout)]) == (0, [True, True])
    await chroma.close()


async def test_the_quarantine_of_a_healthy_stack_is_empty_and_says_so(stack: Stack) -> None:
    """The list, a retry, what is refused, and the component of the indexer's status."""
    async with KnowledgeBeast(stack.indexer_address, stack.query_address) as client:
        await client.create_project("sound")
        assert [chunk async for chunk in client.list_quarantined_chunks()] == []
        assert await client.retry_quarantined_chunks("sound") == 0
        with pytest.raises(NotFoundError):
            await client.retry_quarantined_chunks("missing")
        with pytest.raises(NotFoundError):
            [chunk async for chunk in client.list_quarantined_chunks("missing")]
        with pytest.raises(InvalidArgumentError):
            await client.retry_quarantined_chunks("sound", ["x" * 301])
        with pytest.raises(InvalidArgumentError):
            await client.retry_quarantined_chunks("sound", ["x"] * 1_001)
        components = {component.name: component for component in (await client.status("indexer")).components}
        await client.delete_project("sound")
    assert components["projector"].details["quarantined"] == 0


async def test_a_poison_record_in_a_real_stack_and_a_schedule_that_mends(tmp_path: Path, model_dir: Path) -> None:
    """A vector that ChromaDB refuses is set aside alone, and told by list, status and metrics, until its document is replaced.

    What ChromaDB loses meanwhile comes back by itself.
    """
    stack = Stack(tmp_path / "stack", model_dir, Ports.free(), overrides={"indexer": {"KB_VERIFY_INTERVAL": "1"}})
    await stack.start()
    chroma = ChromaClient(stack.chroma_url)
    texts = {f"n{number}": f"Note number {number} about poison." for number in range(10)}
    try:
        async with KnowledgeBeast(stack.indexer_address, stack.query_address) as client:
            await client.create_project("docs")
            await client.upsert("docs", documents(texts))
            await eventually(lambda: client.get_project("docs"), projected)
            poison, lost = [chunk.id for name in ("n3", "n4") for chunk in (await client.get_document("docs", name)).chunks]
        await stack.indexer.stop()
        _spoil(stack.data_dir / "indexer" / "catalog.db", poison)
        await stack.start_indexer()
        async with KnowledgeBeast(stack.indexer_address, stack.query_address) as client:
            await client.rebuild_vectors("docs")

            project = await eventually(lambda: client.get_project("docs"), lambda seen: projected(seen) and seen.state is ProjectState.ACTIVE)
            (held,) = [chunk async for chunk in client.list_quarantined_chunks("docs")]
            assert (held.chunk_id, held.stage, held.failures) == (poison, QuarantineStage.VECTOR_STORE, 1)
            assert "HTTP 4" in held.reason
            assert await chroma.count(project.collection, timeout=10) == len(texts) - 1
            status = await eventually(lambda: _projector(client), lambda seen: seen.state is HealthState.DEGRADED)
            assert status.details["quarantined"] == 1
            assert await metric(stack.ports.indexer_http, 'kb_quarantined_chunks{stage="vector_store"}') == 1
            found = await client.search("docs", SearchQuery("note number 3", SearchMode.KEYWORD))
            assert found.hits[0].document_id == "n3"

            await chroma.delete(project.collection, [lost], timeout=10)
            await eventually(lambda: chroma.existing(project.collection, [lost], timeout=10), bool)
            assert await client.get_project("docs") == project

            await client.upsert("docs", documents({"n3": "Something else altogether."}))
            assert [chunk async for chunk in client.list_quarantined_chunks()] == []
            project = await eventually(lambda: client.get_project("docs"), projected)
            await eventually(lambda: chroma.count(project.collection, timeout=10), lambda count: count == len(texts))
            await eventually(lambda: _projector(client), lambda seen: seen.state is HealthState.HEALTHY)
    finally:
        await chroma.close()
        await stack.stop()


def _spoil(catalog: Path, chunk_id: str) -> None:
    """Makes a chunk's vector one that ChromaDB refuses."""
    connection = apsw.Connection(str(catalog))
    vector = np.full(384, np.nan, "<f4").tobytes()
    connection.execute("UPDATE embedding SET vector = ? WHERE chunk_key = (SELECT key FROM chunk WHERE id = ?)", (vector, chunk_id))
    assert connection.changes() == 1
    connection.close()


async def _projector(client: KnowledgeBeast) -> ComponentState:
    return next(component for component in (await client.status("indexer")).components if component.name == "projector")

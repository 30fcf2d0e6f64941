"""What users see while a part of the stack is away, and afterwards."""

from __future__ import annotations

import asyncio
import shutil
import time
from pathlib import Path

import aiohttp
import pytest

from services.cli.stack.stack import Ports, Stack
from shared.client import DegradationReason, KnowledgeBeast, SearchAnswer, SearchMode, SearchQuery
from shared.domain import Project
from shared.errors import UnavailableError
from tests.e2e.test_search import TEXTS, documents, found
from tests.waiting import eventually

MEANING = SearchQuery("a feline resting on a rug", SearchMode.VECTOR)
WORD = SearchQuery("yeast", SearchMode.KEYWORD)


def reasons(result: SearchAnswer) -> list[DegradationReason]:
    """Why an answer is degraded."""
    return [degradation.reason for degradation in result.degradations]


def projected(project: Project) -> bool:
    """Everything is in the vector store."""
    return int(project.vector_sequence) == int(project.head) > 0


def copy_exports(source: Path, target: Path) -> None:
    """Puts the exported models into another folder."""
    for export in source.iterdir():
        if export.is_dir() and not export.name.startswith("."):
            shutil.copytree(export, target / export.name)


async def metric(port: int, name: str) -> float:
    """A sample that a service shows at /metrics."""
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/metrics") as response:
        lines = (await response.text()).splitlines()
    return next(float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"{name} "))


async def write(client: KnowledgeBeast) -> str:
    """The five texts in project docs; the token covers them."""
    await client.create_project("docs")
    return (await client.upsert("docs", documents(TEXTS))).consistency_token


async def test_without_the_model_writes_are_kept_and_found_by_keyword(tmp_path: Path, model_dir: Path) -> None:
    """Searches by meaning are answered by keyword and say why; when the model is put there, everything is found by meaning, without a restart."""
    models = tmp_path / "models"
    models.mkdir()
    stack = Stack(tmp_path / "stack", models, Ports.free())
    await stack.start()
    try:
        async with KnowledgeBeast(stack.indexer_address, stack.query_address) as client:
            token = await write(client)
            by_word = await client.search("docs", SearchQuery("yeast", SearchMode.KEYWORD, at_least_as_fresh=token))
            assert found(by_word) == ["bread"]
            assert not by_word.degraded
            without = await client.search("docs", SearchQuery("the cat", SearchMode.VECTOR))
            assert found(without) == ["cat"]
            assert reasons(without) == [DegradationReason.EMBEDDING_UNAVAILABLE]

            copy_exports(model_dir, models)
            healed = await eventually(
                lambda: client.search("docs", MEANING), lambda seen: not seen.degraded and found(seen)[:1] == ["cat"], seconds=60
            )
            assert healed.hits[0].vector is not None
    finally:
        await stack.stop()


async def test_without_the_indexer_searches_say_that_they_may_be_stale(tmp_path: Path, model_dir: Path) -> None:
    """Answers go on from the replica, also after a restart of the query service; writes are refused; with the indexer back all is well."""
    stack = Stack(tmp_path, model_dir, Ports.free(), settings={"KB_STALE_AFTER": "1", "KB_READY_LAG_TIMEOUT": "0.5"})
    await stack.start()
    try:
        async with KnowledgeBeast(stack.indexer_address, stack.query_address) as client:
            token = await write(client)
            await client.search("docs", SearchQuery("yeast", at_least_as_fresh=token))
            stack.kill_indexer()
            stale = await eventually(lambda: client.search("docs", WORD), lambda seen: seen.degraded)
            assert found(stale) == ["bread"]
            assert reasons(stale) == [DegradationReason.REPLICA_STALE]
            assert stale.degradations[0].component == "change_feed"
            with pytest.raises(UnavailableError):
                await client.upsert("docs", documents(TEXTS))
        await stack.restart_query()
        async with KnowledgeBeast(stack.indexer_address, stack.query_address) as client:
            assert found(await client.search("docs", WORD)) == ["bread"]
            await stack.start_indexer()
            await eventually(lambda: client.search("docs", WORD), lambda seen: not seen.degraded)
    finally:
        await stack.stop()


async def test_a_hung_chromadb_holds_nobody_up(tmp_path: Path, model_dir: Path) -> None:
    """Stopped, not dead: searches answer within their time limit, after five failures at once; writes are acknowledged; then all is well."""
    # The breaker stays open for as long as the searches that are to find it open may take on a busy machine.
    stack = Stack(tmp_path, model_dir, Ports.free(), settings={"KB_BREAKER_RECOVERY": "6"})
    await stack.start()
    try:
        await _hang_and_recover(stack)
    finally:
        await stack.stop()


async def _hang_and_recover(stack: Stack) -> None:
    async with KnowledgeBeast(stack.indexer_address, stack.query_address) as client:
        token = await write(client)
        await client.search("docs", SearchQuery("yeast", at_least_as_fresh=token))
        await eventually(lambda: client.get_project("docs"), projected)
        stack.chroma.suspend()
        try:
            # Until the query service has heard that ChromaDB has the vectors, its own are the better ones, and nothing is missing.
            number = 100
            while not (await client.search("docs", SearchQuery(f"a feline on a rug {number}"), timeout=5)).degraded:
                number += 1
            seconds = []
            for number in range(12):
                began = time.monotonic()
                answer = await client.search("docs", SearchQuery(f"a feline on a rug {number}"), timeout=5)
                seconds.append(time.monotonic() - began)
                assert found(answer)[0] == "cat"
                assert reasons(answer) == [DegradationReason.VECTOR_STORE_UNAVAILABLE]
            assert max(seconds) < 2.0, "the vector leg's time limit is 1 s"
            assert max(seconds[6:]) < 0.5, "the breaker is open"
            began = time.monotonic()
            await client.upsert("docs", documents({"new": "Written meanwhile."}))
            assert time.monotonic() - began < 1.0
        finally:
            stack.chroma.resume()
        await eventually(lambda: client.get_project("docs"), projected, seconds=90)
        await eventually(lambda: client.search("docs", MEANING), lambda seen: not seen.degraded, seconds=90)


async def test_a_wiped_chromadb_is_filled_again_without_embedding(tmp_path: Path, model_dir: Path) -> None:
    """While the vectors are gone, answers are degraded and right; afterwards ChromaDB has all of them, from the catalog."""
    stack = Stack(tmp_path, model_dir, Ports.free(), settings={"KB_COLLECTION_CHECK": "1"})
    await stack.start()
    try:
        async with KnowledgeBeast(stack.indexer_address, stack.query_address) as client:
            token = await write(client)
            await client.search("docs", SearchQuery("yeast", at_least_as_fresh=token))
            await eventually(lambda: client.get_project("docs"), projected)
        stack.kill_chroma()
        shutil.rmtree(tmp_path / "chroma")
        await stack.restart_indexer()  # its metrics begin at 0
        async with KnowledgeBeast(stack.indexer_address, stack.query_address) as client:
            answers = [await client.search("docs", MEANING)]
            await stack.start_chroma()
            project = await client.get_project("docs")
            async with asyncio.timeout(90):
                while not (projected(project) and not answers[-1].degraded):
                    answers.append(await client.search("docs", MEANING))
                    project = await client.get_project("docs")
                    await asyncio.sleep(0.05)
            assert all(found(answer)[0] == "cat" for answer in answers)
            assert answers[0].degraded
            assert await metric(stack.ports.indexer_http, "kb_projector_chunks_total") == len(TEXTS)
            assert await metric(stack.ports.indexer_http, "kb_embedding_batch_size_count") == 0
    finally:
        await stack.stop()


async def test_a_replica_that_is_lost_is_copied_again(own_stack: Stack) -> None:
    """With its files gone, the query service is ready once it has everything again, by keyword and by meaning."""
    async with KnowledgeBeast(own_stack.indexer_address, own_stack.query_address) as client:
        token = await write(client)
        await client.search("docs", SearchQuery("yeast", at_least_as_fresh=token))
    await own_stack.query.stop(20)
    shutil.rmtree(own_stack.data_dir / "query")
    await own_stack.start_query()
    async with KnowledgeBeast(own_stack.indexer_address, own_stack.query_address) as client:
        assert found(await client.search("docs", WORD)) == ["bread"]
        assert found(await client.search("docs", MEANING))[0] == "cat"

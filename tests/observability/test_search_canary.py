"""The search canary: its figure is right, falls when answers get worse, and comes back; nobody's figures but its own move."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import chromadb
import numpy as np
import pytest
import pytest_asyncio

from services.cli.chaos.scrape import samples
from services.cli.stack.stack import Stack
from services.query.canary_project import IndexerCanaryProject
from shared.client import KnowledgeBeast, SearchMode, SearchQuery
from shared.domain import DocumentId, DocumentInput, ProjectId
from shared.errors import FailedPreconditionError
from shared.golden.collection import canary, golden
from shared.resilience.deadline import Deadline
from tests.fixtures.stack import running_stack
from tests.waiting import eventually

PROJECT = "kb-canary"
# As measured (docs/adr/0022-search-canary.md). Words of other projects move scores a little, so the figure is not exact.
EXPECTED, KEYWORD_ALONE, NEAR = 0.893, 0.735, 0.015
SETTINGS = {
    "KB_CANARY_INTERVAL": "0.2",
    # What would stand in for a broken vector leg is off, so that the fault is seen.
    "KB_FALLBACK_REPLICA_VECTORS": "false",
    "KB_FALLBACK_LAST_ANSWER": "false",
    "KB_BREAKER_RECOVERY": "0.5",
    "KB_RETRY_INITIAL": "0.05",
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def watched(tmp_path_factory: pytest.TempPathFactory, model_dir: Path) -> AsyncIterator[Stack]:
    """A stack whose query service has a canary. A test leaves it as it found it."""
    async with running_stack(tmp_path_factory.mktemp("canary"), model_dir, SETTINGS) as running:
        yield running


@pytest.fixture
async def kb(watched: Stack) -> AsyncIterator[KnowledgeBeast]:
    """A client of it."""
    async with KnowledgeBeast(watched.indexer_address, watched.query_address, timeout=30) as client:
        yield client


async def ndcg_becomes(stack: Stack, value: float) -> dict[str, float]:
    """Waits until the exported figure is near a value; everything that is exported then."""
    return await eventually(lambda: samples(stack.ports.query_http), lambda seen: abs(seen["kb_search_ndcg"] - value) < NEAR, seconds=60)


def shift_vectors(port: int, by: int) -> None:
    """Gives every chunk of the canary's the vector of another one, in ChromaDB, behind everybody's back; the opposite number puts it right."""
    client = chromadb.HttpClient(host="127.0.0.1", port=port)
    (name,) = (each.name for each in client.list_collections() if each.name.startswith(f"kb_{PROJECT}_"))
    collection = client.get_collection(name, embedding_function=None)
    held = collection.get(include=["embeddings"])
    ids, order = held["ids"], np.argsort(held["ids"])
    vectors = np.asarray(held["embeddings"])
    moved = {ids[order[place]]: vectors[order[(place + by) % len(ids)]] for place in range(len(ids))}
    collection.update(ids=list(moved), embeddings=np.array(list(moved.values())))


async def test_the_figure_is_what_the_golden_questions_give(watched: Stack, kb: KnowledgeBeast) -> None:
    """All questions were asked and all passages are there; runs and their time are counted, and the last success is now."""
    seen = await ndcg_becomes(watched, EXPECTED)
    assert seen['kb_search_canary_runs_total{outcome="succeeded"}'] >= 1
    assert seen["kb_search_canary_duration_seconds_count"] >= 1
    assert 0 < seen["kb_search_canary_duration_seconds_sum"] / seen["kb_search_canary_duration_seconds_count"] < 10
    assert seen["kb_search_canary_last_success_timestamp_seconds"] > 1.7e9
    assert [document.id async for document in kb.list_documents(PROJECT)] == sorted(document.id for document in canary().documents)


async def test_users_figures_are_users_alone(watched: Stack, kb: KnowledgeBeast) -> None:
    """However often the canary runs, searches are counted when somebody else makes them, and its queries are in no cache."""
    before = await ndcg_becomes(watched, EXPECTED)
    runs = 'kb_search_canary_runs_total{outcome="succeeded"}'
    after = await eventually(lambda: samples(watched.ports.query_http), lambda seen: seen[runs] >= before[runs] + 2)
    users = ("kb_query_duration_seconds_count", "kb_degraded_answers_total", "kb_fallback_answers_total", "kb_result_cache", "kb_embedding_cache")
    theirs = {name: value for name, value in before.items() if name.startswith(users)}
    assert len(theirs) > 10
    assert {name: after[name] for name in theirs} == theirs
    await kb.search(PROJECT, SearchQuery("why did the broker refuse it", SearchMode.HYBRID))
    searched = 'kb_query_duration_seconds_count{degraded="false",mode="hybrid"}'
    # Where the order of the labels is another, the name is not found, and the test must not pass for it.
    assert (await samples(watched.ports.query_http))[searched] == after[searched] + 1


async def test_wrong_vectors_in_chromadb_are_seen(watched: Stack) -> None:
    """Nothing fails and no answer is degraded when every vector belongs to another chunk; the figure alone falls, and comes back."""
    await ndcg_becomes(watched, EXPECTED)
    port = watched.ports.chroma
    await asyncio.to_thread(shift_vectors, port, 7)
    try:
        seen = await eventually(lambda: samples(watched.ports.query_http), lambda seen: seen["kb_search_ndcg"] < EXPECTED - 0.2, seconds=60)
        assert seen["kb_chromadb_up"] == 1
    finally:
        await asyncio.to_thread(shift_vectors, port, -7)
    await ndcg_becomes(watched, EXPECTED)


async def test_a_missing_vector_leg_is_seen(watched: Stack) -> None:
    """With ChromaDB dead and nothing to stand in, answers are keyword hits: the figure falls to theirs, and comes back with ChromaDB."""
    await ndcg_becomes(watched, EXPECTED)
    watched.kill_chroma()
    try:
        await ndcg_becomes(watched, KEYWORD_ALONE)
    finally:
        await watched.start_chroma()
    await ndcg_becomes(watched, EXPECTED)
    lines = [json.loads(line) for line in (watched.data_dir / "logs" / "query.log").read_text().splitlines()]
    runs = [line for line in lines if line["event"] == "search canary"]
    worst = min(runs, key=lambda line: line["ndcg"])
    assert {"trace_id", "span_id", "project", "duration_ms"} <= worst.keys()
    fallen = next(line for line in runs if line["degraded"])
    assert fallen["worse"]
    assert set(fallen["worse"]) <= {topic.id for topic in canary().topics}


async def test_what_others_write_into_its_project_is_put_right(watched: Stack, kb: KnowledgeBeast) -> None:
    """A passage that was changed, one that was deleted and one that is not its own: the next run has its passages again."""
    await ndcg_becomes(watched, EXPECTED)
    passages = {document.id: document for document in canary().documents}
    changed, deleted = list(passages)[:2]
    await kb.upsert(PROJECT, [DocumentInput(DocumentId("mine"), "Mine", "Something of mine.", {}), DocumentInput(changed, "Other", "Other text", {})])
    await kb.delete_documents(PROJECT, [deleted])

    async def held() -> dict[str, str]:
        return {document.id: document.title async for document in kb.list_documents(PROJECT)}

    await eventually(held, lambda seen: seen == {id_: document.title for id_, document in passages.items()})
    await ndcg_becomes(watched, EXPECTED)


async def test_its_project_is_made_again_when_it_was_deleted(watched: Stack, kb: KnowledgeBeast) -> None:
    """Somebody tidies up; the figure is there again a run later."""
    await ndcg_becomes(watched, EXPECTED)
    await kb.delete_project(PROJECT)
    runs = 'kb_search_canary_runs_total{outcome="succeeded"}'
    before = (await samples(watched.ports.query_http))[runs]
    await eventually(lambda: samples(watched.ports.query_http), lambda seen: seen[runs] >= before + 2, seconds=90)
    await ndcg_becomes(watched, EXPECTED)
    assert (await kb.get_project(PROJECT)).document_count == len(canary().documents)


async def test_it_goes_on_without_the_indexer(watched: Stack) -> None:
    """Its passages are known to be in place, so it needs nobody: while the indexer is down, the quality of answers is still known."""
    await ndcg_becomes(watched, EXPECTED)
    watched.kill_indexer()
    try:
        runs = 'kb_search_canary_runs_total{outcome="succeeded"}'
        before = (await samples(watched.ports.query_http))[runs]
        seen = await eventually(lambda: samples(watched.ports.query_http), lambda seen: seen[runs] >= before + 3)
        assert abs(seen["kb_search_ndcg"] - EXPECTED) < NEAR
    finally:
        await watched.start_indexer()
    await ndcg_becomes(watched, EXPECTED)


async def test_a_users_project_of_its_name_is_left_alone(stack: Stack) -> None:
    """Nothing is written to it and nothing deleted; the error says what to do. One that it has made itself is known again."""
    async with KnowledgeBeast(stack.indexer_address, stack.query_address, timeout=30) as client:
        taken, free = (ProjectId(f"p-{uuid.uuid4().hex[:8]}") for _ in range(2))
        await client.create_project(taken, labels={"team": "search"})
        await client.upsert(taken, [DocumentInput(DocumentId("mine"), "Mine", "Something of mine.", {})])
        with pytest.raises(FailedPreconditionError, match="KB_CANARY_PROJECT") as refused:
            await IndexerCanaryProject(client, taken).restore(canary().documents, Deadline.after(30))
        assert refused.value.reason == "CANARY_PROJECT_TAKEN"
        assert [document.id async for document in client.list_documents(taken)] == ["mine"]
        for _ in range(2):
            await IndexerCanaryProject(client, free).restore(canary().documents, Deadline.after(30))
        assert (await client.get_project(free)).document_count == len(canary().documents)


async def test_by_default_there_is_no_canary(stack: Stack) -> None:
    """No project is made that nobody asked for, and the figure is unknown rather than 0."""
    async with KnowledgeBeast(stack.indexer_address, stack.query_address, timeout=30) as client:
        assert PROJECT not in [project.id async for project in client.list_projects()]
    seen = await samples(stack.ports.query_http)
    assert np.isnan(seen["kb_search_ndcg"])
    assert seen["kb_search_canary_last_success_timestamp_seconds"] == 0


def test_the_canarys_collection_is_a_small_part_of_the_golden_set() -> None:
    """40 passages and 25 questions of all kinds, whose judged passages are all there."""
    part, whole = canary(), golden()
    assert (len(part.documents), len(part.topics)) == (40, 25)
    assert [document for document in part.documents if document not in whole.documents] == []
    assert set(part.kinds) == set(whole.kinds)
    ids = {document.id for document in part.documents}
    for topic in part.topics:
        assert part.judgements[topic.id] == whole.judgements[topic.id]
        assert part.judgements[topic.id].keys() <= ids

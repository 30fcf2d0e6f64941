"""The ladder of degradation with real processes: ChromaDB is killed, the query service is started with each setting of its switches."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from services.cli.quality.ask import project_id, write
from services.cli.quality.measure import Measures, mean, measure
from services.cli.stack.stack import Ports, Stack
from shared.client import DegradationReason, KnowledgeBeast, SearchAnswer, SearchMode, SearchQuery
from shared.errors import UnavailableError
from shared.golden.collection import Collection, golden
from tests.e2e.test_outages import metric, projected, reasons
from tests.e2e.test_search import TEXTS, documents, found
from tests.waiting import eventually

STORE, LEG = DegradationReason.VECTOR_STORE_UNAVAILABLE, DegradationReason.VECTOR_LEG_MISSING
LAST = DegradationReason.LAST_GOOD_ANSWER
MEANING = SearchQuery("a feline resting on a rug")
SOON = {"KB_BREAKER_RECOVERY": "0.5", "KB_WARM_UP_TIMEOUT": "1"}
NO_VECTORS = {"KB_FALLBACK_REPLICA_VECTORS": "false"}
NOTHING = {**NO_VECTORS, "KB_FALLBACK_LAST_ANSWER": "false", "KB_FALLBACK_KEYWORD": "false"}


class Restartable:
    """A stack whose query service is started again with other settings, on the same ports and data."""

    def __init__(self, folder: Path, model_dir: Path) -> None:
        self._where = folder, model_dir, Ports.free()
        self.stack = self._with({})
        self._serving = self.stack

    def _with(self, settings: Mapping[str, str]) -> Stack:
        return Stack(*self._where, settings={**SOON, **settings})

    async def start(self, settings: Mapping[str, str]) -> None:
        """Starts everything."""
        await self.stack.start_chroma()
        await self.stack.start_indexer()
        await self.serve(settings)

    async def serve(self, settings: Mapping[str, str]) -> None:
        """Stops the query service if it runs, and starts it with these settings."""
        await self._serving.query.stop(20)
        self._serving = self._with(settings)
        await self._serving.start_query()

    async def stop(self) -> None:
        """Stops everything."""
        try:
            await self._serving.query.stop(20)
        finally:
            self._serving.kill()
            await self.stack.stop()

    @asynccontextmanager
    async def client(self) -> AsyncIterator[KnowledgeBeast]:
        """A client of it."""
        async with KnowledgeBeast(self.stack.indexer_address, self.stack.query_address) as opened:
            yield opened


@pytest.fixture
async def restartable(tmp_path: Path, model_dir: Path) -> AsyncIterator[Restartable]:
    """A stack of the test's own; nothing runs yet."""
    one = Restartable(tmp_path / "stack", model_dir)
    try:
        yield one
    finally:
        await one.stop()


def whole(answer: SearchAnswer) -> bool:
    """Nothing is missing, and it was found by meaning."""
    return not answer.degraded and "cat" in found(answer)[:2] and answer.hits[0].vector is not None


async def test_a_killed_chromadb_takes_each_step_that_is_switched_on_and_comes_back_by_itself(restartable: Restartable) -> None:
    """The last good answer while writes go on, then, in new processes, the replica's vectors, keyword hits, a refusal; whole without a restart."""
    stack = restartable.stack
    await restartable.start(NO_VECTORS)
    async with restartable.client() as kb:
        await kb.create_project("docs")
        token = (await kb.upsert("docs", documents(TEXTS))).consistency_token
        await kb.search("docs", SearchQuery("yeast", at_least_as_fresh=token))
        await eventually(lambda: kb.get_project("docs"), projected)
        before = await eventually(lambda: kb.search("docs", MEANING), whole)
        like_cat = await kb.find_similar("docs", "cat")
        assert (like_cat.degraded, like_cat.served_from_cache, like_cat.found_time) == (False, False, None)

        stack.kill_chroma()
        await kb.upsert("docs", documents({"new": "A kitten sleeps on the carpet."}))
        last = await eventually(
            lambda: kb.search("docs", MEANING), lambda answer: answer.degraded and answer.freshness.sequence < answer.freshness.head
        )
        assert (found(last), reasons(last), last.served_from_cache) == (found(before), [LAST], True)
        assert last.found_time is not None
        like_cat_again = await kb.find_similar("docs", "cat")
        assert (found(like_cat_again), reasons(like_cat_again)) == (found(like_cat), [LAST])
        assert like_cat_again.served_from_cache
        assert like_cat_again.found_time is not None
        with pytest.raises(UnavailableError) as raised:
            await kb.search("docs", SearchQuery("a feline resting on a rug", allow_degraded=False))
        assert raised.value.retry_after > 0
        assert await metric(stack.ports.query_http, 'kb_fallback_answers_total{step="last_answer"}') >= 1

        await stack.start_chroma()
        back = await eventually(lambda: kb.search("docs", MEANING), lambda answer: whole(answer) and "new" in found(answer))
        assert not back.served_from_cache

    stack.kill_chroma()
    for settings, expected in (({}, STORE), (NO_VECTORS, LEG)):
        await restartable.serve(settings)
        async with restartable.client() as kb:
            answer = await kb.search("docs", SearchQuery("the cat", SearchMode.VECTOR))
            assert (found(answer)[0], reasons(answer)) == ("cat", [expected])

    await restartable.serve(NOTHING)
    async with restartable.client() as kb:
        with pytest.raises(UnavailableError) as raised:
            await kb.search("docs", MEANING)
        assert (raised.value.component, raised.value.reason) == ("chromadb", "NO_FALLBACK")
        assert raised.value.retry_after > 0
        assert not (await kb.search("docs", SearchQuery("yeast", SearchMode.KEYWORD))).degraded
        await stack.start_chroma()

        async def ask() -> SearchAnswer | None:
            try:
                return await kb.search("docs", MEANING)
            except UnavailableError:
                return None

        await eventually(ask, lambda answer: answer is not None and whole(answer))


async def figures(kb: KnowledgeBeast, collection: Collection, expected: list[DegradationReason], mode: SearchMode = SearchMode.HYBRID) -> Measures:
    """The measures of ten hits for each question, every answer of which is degraded as expected."""
    rankings: dict[str, list[str]] = {}
    room = asyncio.Semaphore(4)

    async def ask(topic: str, text: str) -> None:
        async with room:
            answer = await kb.search(project_id(collection), SearchQuery(text, mode, top_k=30), timeout=20)
        assert reasons(answer) == expected
        rankings[topic] = list(dict.fromkeys(found(answer)))[:10]

    async with asyncio.TaskGroup() as questions:
        for topic in collection.topics:
            questions.create_task(ask(topic.id, topic.text))
    return mean(measure(rankings, collection.judgements).values())


async def test_what_answers_are_worth_without_chromadb(restartable: Restartable) -> None:
    """NDCG@10 of the golden set with ChromaDB dead is that of a healthy ChromaDB, from the replica's vectors; without those, that of keywords."""
    pytest.importorskip("ir_measures", reason="of the extra `bench`")
    collection, stack = golden(), restartable.stack
    await restartable.start({"KB_REPLICA_VECTORS_MAX": "0"})  # so that ChromaDB's vectors, and no others, make the healthy figure
    async with restartable.client() as kb:
        token = await write(kb, collection)
        await kb.search(project_id(collection), SearchQuery("anything", at_least_as_fresh=token), timeout=20)
        healthy = await figures(kb, collection, [])
        keyword = await figures(kb, collection, [], SearchMode.KEYWORD)

        await restartable.serve({})
    stack.kill_chroma()
    async with restartable.client() as kb:
        head = (await kb.get_project(project_id(collection))).head
        await eventually(
            lambda: kb.search(project_id(collection), SearchQuery("are the replica's vectors there?"), timeout=20),
            lambda answer: reasons(answer) == [STORE] and int(answer.freshness.vector_sequence) == int(head),
        )
        dead = await figures(kb, collection, [STORE])
    await restartable.serve({**NO_VECTORS, "KB_FALLBACK_LAST_ANSWER": "false"})
    async with restartable.client() as kb:
        without = await figures(kb, collection, [LEG])

    assert dead.ndcg == pytest.approx(healthy.ndcg, abs=5e-5)
    assert without.ndcg == pytest.approx(keyword.ndcg, abs=5e-5)
    assert healthy.ndcg > 0.9 > keyword.ndcg

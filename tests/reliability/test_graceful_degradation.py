"""The ladder of degradation: what is answered when vectors cannot be searched, and how the whole answer comes back.

Most of it over a real replica, with a vector store that does as the test says. With real processes: `test_graceful_degradation_of_a_stack.py`.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped] # its .pyi files are not marked as typed

from services.query.application.ladder import Fallbacks
from services.query.application.last_answers import LastAnswers
from services.query.application.legs import Budgets
from services.query.application.query import Query
from services.query.application.results import Question
from shared.chroma.resilient import ResilientVectorStore
from shared.domain import (
    Chunk,
    ChunkId,
    Cursor,
    DocumentId,
    FeedStream,
    Heartbeat,
    ProjectState,
    Reset,
    ResetReason,
    SequenceNumber,
    Vector,
    VectorSequence,
)
from shared.errors import ConflictError, UnavailableError, VectorStoreError
from shared.filters import Comparison, Operator
from shared.observability import metrics
from shared.ports import ScoredChunk
from shared.resilience.breaker import Breaker, BreakerState
from shared.resilience.deadline import Deadline
from shared.resilience.retry import RetryBudget, RetryPolicy
from shared.rpc.status import to_status
from shared.search import DegradationReason, Freshness, Grouping, Hit, SearchAnswer, SearchMode, Timings
from tests.fakes.feed import DIMENSION, TIME, make_batch, make_document, make_project, make_vectors
from tests.fakes.vector_store import FakeVectorStore
from tests.fixtures.world import COLLECTION, DOCUMENTS, P, World, ids, open_world, reasons

STORE, LEG = DegradationReason.VECTOR_STORE_UNAVAILABLE, DegradationReason.VECTOR_LEG_MISSING
LAST, MODEL = DegradationReason.LAST_GOOD_ANSWER, DegradationReason.EMBEDDING_UNAVAILABLE
STEPS = ("replica_vectors", "last_answer", "keyword", "refused")
NOTHING = Fallbacks(replica_vectors=False, last_answer=False, keyword=False)
NO_MODEL = UnavailableError("no model", component="embedding_model")


class Clock:
    """Seconds, set by hand."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        """The time."""
        return self.now


class TimedReader:
    """Notes the seconds that each query is given."""

    def __init__(self, inner: FakeVectorStore) -> None:
        self._inner = inner
        self.timeouts: list[float] = []

    async def query(self, collection: str, vector: Vector, limit: int, *, timeout: float) -> Sequence[ScoredChunk]:
        """See VectorReader."""
        self.timeouts.append(timeout)
        return await self._inner.query(collection, vector, limit, timeout=timeout)

    async def ping(self, *, timeout: float) -> None:
        """See VectorReader."""
        await self._inner.ping(timeout=timeout)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """A world whose replica keeps the vectors."""
    async with open_world(tmp_path) as opened:
        yield opened


@pytest.fixture
async def large(tmp_path: Path) -> AsyncIterator[World]:
    """A world whose replica does not keep the vectors, as if the project were too large."""
    async with open_world(tmp_path, vectors_max=0) as opened:
        yield opened


def answered_by() -> dict[str, float]:
    """How many answers each step has given in this process."""
    return {step: metrics.REGISTRY.get_sample_value("kb_fallback_answers_total", {"step": step}) or 0.0 for step in STEPS}


def since(before: dict[str, float]) -> dict[str, float]:
    """What each step has answered since, those with nothing left out."""
    return {step: count - before[step] for step, count in answered_by().items() if count != before[step]}


async def wipe(world: World) -> None:
    """The collection is gone."""
    await world.store.drop_collection(COLLECTION, timeout=1)


async def empty(world: World) -> None:
    """The collection is there, without anything in it."""
    world.store.collections[COLLECTION].clear()


async def swap(world: World) -> None:
    """The collection is another time's: of as many vectors, none is of a chunk that there is now."""
    stored = world.store.collections[COLLECTION]
    world.store.collections[COLLECTION] = {ChunkId(f"old-{chunk_id}"): vector for chunk_id, vector in stored.items()}


async def go_down(world: World) -> None:
    """Connections are refused."""
    world.store.fail()


async def refuse(world: World) -> None:
    """Every query is refused, as when the collection's files are damaged."""
    world.store.fail(VectorStoreError("no"))


async def hang(world: World) -> None:
    """Nothing is answered."""
    world.store.hang()


FAULTS = pytest.mark.parametrize("fault", [go_down, hang, refuse, wipe, empty, swap])


# --- the steps ----------------------------------------------------------------------------------------------------------------------------------


@FAULTS
async def test_whatever_is_wrong_with_the_store_the_replicas_vectors_answer(world: World, fault: Callable[[World], Any]) -> None:
    """The same hits with the same scores as before, whether it is down, hangs, refuses, or has lost what it had; the answer says so."""
    healthy = await world.ask(mode=SearchMode.VECTOR)
    await fault(world)
    answer = await world.ask(mode=SearchMode.VECTOR)
    assert ids(answer) == ids(healthy)
    assert [hit.score for hit in answer.hits] == pytest.approx([hit.score for hit in healthy.hits])
    assert reasons(answer) == [STORE]
    assert (answer.degradations[0].component, answer.served_from_cache, answer.found_time) == ("chromadb", False, None)


@FAULTS
@pytest.mark.parametrize("mode", [SearchMode.HYBRID, SearchMode.VECTOR])
async def test_without_vectors_of_its_own_the_last_good_answer_is_given_again(large: World, mode: SearchMode, fault: Callable[[World], Any]) -> None:
    """The very hits of then, with the time at which they were found and the freshness of that time."""
    began = datetime.now(UTC)
    healthy = await large.ask(mode=mode)
    found = datetime.now(UTC)
    await fault(large)
    answer = await large.ask(mode=mode)
    assert answer.hits == healthy.hits
    assert reasons(answer) == [LAST]
    assert answer.degradations[0].component == "chromadb"
    assert answer.served_from_cache
    assert answer.found_time is not None
    assert began <= answer.found_time <= found
    assert answer.freshness.sequence == healthy.freshness.sequence


@FAULTS
async def test_a_question_that_was_never_answered_gets_keyword_hits(large: World, fault: Callable[[World], Any]) -> None:
    """Also when it is asked by meaning alone, and whatever is wrong."""
    await fault(large)
    for mode in (SearchMode.HYBRID, SearchMode.VECTOR):
        answer = await large.ask("alpha", mode=mode)
        assert ids(answer) == ["d0"]
        assert reasons(answer) == [LEG]
        assert not answer.served_from_cache


@pytest.mark.parametrize("steps", [Fallbacks(*switches) for switches in itertools.product((True, False), repeat=3)], ids=str)
async def test_each_step_has_a_switch_of_its_own(tmp_path: Path, steps: Fallbacks) -> None:
    """The first step that is on answers and is counted; with all of them off the search fails, and says which component and when to retry."""
    async with open_world(tmp_path, steps=steps) as world:
        await world.ask()
        world.store.fail()
        before = answered_by()
        if steps == NOTHING:
            with pytest.raises(UnavailableError) as raised:
                await world.ask()
            assert (raised.value.component, raised.value.reason) == ("chromadb", "NO_FALLBACK")
            assert since(before) == {"refused": 1}
            return
        expected = (STORE, "replica_vectors") if steps.replica_vectors else (LAST, "last_answer") if steps.last_answer else (LEG, "keyword")
        assert reasons(await world.ask()) == [expected[0]]
        assert since(before) == {expected[1]: 1}


async def test_a_refusal_carries_unavailable_and_the_time_to_retry_after(tmp_path: Path) -> None:
    """A client that follows RetryInfo comes back by itself, and learns which component is at fault."""
    async with open_world(tmp_path, steps=NOTHING) as world:
        world.store.fail()
        with pytest.raises(UnavailableError) as raised:
            await world.ask()
    status = to_status(raised.value)
    details = status_pb2.Status.FromString(dict(status.trailing_metadata)["grpc-status-details-bin"]).details
    retry, info = error_details_pb2.RetryInfo(), error_details_pb2.ErrorInfo()
    assert [detail.Unpack(message) for detail in details for message in (retry, info) if detail.Is(message.DESCRIPTOR)] == [True, True]
    assert status.code is grpc.StatusCode.UNAVAILABLE
    assert info.metadata["component"] == "chromadb"
    assert retry.retry_delay.seconds > 0


async def test_the_switch_of_the_replicas_vectors_leaves_healthy_searches_alone(tmp_path: Path) -> None:
    """Filtered searches, and those while the store is behind, use the replica's vectors and are whole."""
    async with open_world(tmp_path, steps=NOTHING) as world:
        filtered = await world.ask("text", mode=SearchMode.VECTOR, filter=Comparison("number", Operator.EQUAL, 2))
        new = make_document("new", "epsilon text", sequence=5)
        world.replica.apply_documents(P, make_batch(4, new))
        world.replica.apply_vectors(P, make_vectors(4, 5, *new.chunks))
        behind = await world.ask("epsilon text", mode=SearchMode.VECTOR)
    assert (ids(filtered), ids(behind)[0]) == (["d2"], "new")
    assert not filtered.degraded
    assert not behind.degraded


@pytest.mark.parametrize(("steps", "expected"), [(Fallbacks(), STORE), (Fallbacks(replica_vectors=False), LAST)])
async def test_a_store_that_is_being_written_again_counts_as_one_that_cannot_be_asked(
    tmp_path: Path, steps: Fallbacks, expected: DegradationReason
) -> None:
    """Its collection has a part of the vectors, so the same steps are taken."""
    async with open_world(tmp_path, steps=steps) as world:
        await world.ask()
        world.replica.put_project(replace(make_project("docs", head=4), state=ProjectState.REBUILDING))
        answer = await world.ask()
    assert reasons(answer) == [expected]
    assert "written again" in answer.degradations[0].message


async def test_a_store_that_lacks_a_few_vectors_is_trusted(tmp_path: Path) -> None:
    """Half of them: some may be missing because what was deleted there is not yet deleted here, or cannot be written there."""
    async with open_world(tmp_path, [make_document(f"d{number}", f"text {number}") for number in range(10)]) as world:
        stored = world.store.collections[COLLECTION]
        for chunk_id in list(stored)[:5]:
            del stored[chunk_id]
        half = await world.ask("text 9", mode=SearchMode.VECTOR)
        del stored[next(iter(stored))]
        less = await world.ask("text 9", mode=SearchMode.VECTOR)
    assert (len(half.hits), reasons(half)) == (5, [])
    assert (len(less.hits), reasons(less)) == (10, [STORE])


async def test_chunks_that_could_not_be_embedded_are_not_held_against_the_store(tmp_path: Path) -> None:
    """No vector of them is anywhere. One that the replica has and the store lacks still counts, and so do all where the replica keeps none."""
    documents = [make_document(f"d{number}", f"text {number}") for number in range(10)]
    embedded = [chunk for document in documents[:4] for chunk in document.chunks]
    async with open_world(tmp_path / "kept", documents) as world, open_world(tmp_path / "none", documents, vectors_max=0) as bare:
        world.replica.forget_vectors(P)
        world.replica.apply_reset(P, Reset(ResetReason.NO_CURSOR, FeedStream.VECTORS, "e1"))
        for each in (world, bare):
            await each.store.delete(COLLECTION, [chunk.id for document in documents[4:] for chunk in document.chunks], timeout=1)
        coming = await world.ask("text 1", mode=SearchMode.VECTOR)
        world.replica.apply_vectors(P, make_vectors(0, 10, *embedded))
        whole = await world.ask("text 1", mode=SearchMode.VECTOR)
        await world.store.delete(COLLECTION, [chunk.id for chunk in embedded[:3]], timeout=1)
        less = await world.ask("text 1", mode=SearchMode.VECTOR)
        unknown = await bare.ask("text 1", mode=SearchMode.VECTOR)
    assert reasons(coming) == [STORE], "vectors that have not come yet excuse nobody"
    assert (len(whole.hits), reasons(whole)) == (4, [])
    assert (len(less.hits), reasons(less)) == (4, [STORE])
    assert reasons(unknown) == [LEG]


async def test_a_store_that_is_still_being_filled_is_not_accused(large: World) -> None:
    """It lacks what it cannot have yet: the answer is whole, and its freshness says how far the store has come."""
    for number in range(5, 25):
        large.replica.apply_documents(P, make_batch(number - 1, make_document(f"d{number}", f"text {number}", sequence=number)))
    answer = await large.ask("alpha text", mode=SearchMode.VECTOR)
    assert (len(answer.hits), reasons(answer)) == (4, [])
    assert (answer.freshness.sequence, answer.freshness.vector_sequence) == (24, 4)


# --- the last good answer -----------------------------------------------------------------------------------------------------------------------


def _without_d0(world: World) -> None:
    world.replica.apply_documents(P, make_batch(4, "d0"))


def _rewritten(world: World) -> None:
    world.replica.apply_documents(P, make_batch(4, make_document("d0", "alpha words", metadata={"number": 0}, sequence=5)))


def _relabelled(world: World) -> None:
    world.replica.apply_documents(P, make_batch(4, make_document("d0", "alpha text", metadata={"number": False}, sequence=5)))


def _moved(world: World) -> None:
    """The line is the document's second now: the same chunk at another place."""
    world.replica.apply_documents(P, make_batch(4, make_document("d0", "before\nalpha text", metadata={"number": 0}, sequence=5)))


@pytest.mark.parametrize("change", [_without_d0, _rewritten, _relabelled, _moved])
async def test_an_answer_of_which_a_hit_no_longer_stands_is_not_given_again(large: World, change: Callable[[World], None]) -> None:
    """Deleted, rewritten, with metadata that a filter tells apart (0 and False), or at another place: keyword hits instead."""
    assert "d0" in ids(await large.ask())
    large.store.fail()
    change(large)
    answer = await large.ask()
    assert reasons(answer) == [LEG]
    assert large.last_answers.size_bytes == 0, "it will not stand again"


async def test_a_hit_whose_document_has_another_title_no_longer_stands(tmp_path: Path) -> None:
    """Also where the chunk keeps its id, because its text does not begin with the part of the title that has changed."""
    before = make_document("d0", "alpha text", title="A title that is long: first")
    after = make_document("d0", "alpha text", title="A title that is long: second", sequence=2)
    assert before.chunks == after.chunks
    async with open_world(tmp_path, [before], vectors_max=0) as world:
        await world.ask()
        world.store.fail()
        assert reasons(await world.ask()) == [LAST]
        world.replica.apply_documents(P, make_batch(1, after))
        answer = await world.ask()
    assert (reasons(answer), answer.hits[0].title) == ([LEG], after.title)


async def test_what_stands_beside_a_hit_must_stand_too(tmp_path: Path) -> None:
    """A grouped answer shows further chunks of a document; one of them is gone."""
    documents = [make_document("d0", "alpha text\nbeta text\ngamma text")]
    async with open_world(tmp_path, documents, vectors_max=0) as world:
        grouped = await world.ask(grouping=Grouping(2))
        assert len(grouped.hits[0].more_chunks) == 2
        world.store.fail()
        assert reasons(await world.ask(grouping=Grouping(2))) == [LAST]
        gone = grouped.hits[0].more_chunks[-1].chunk.text
        kept = "\n".join(line for line in ("alpha text", "beta text", "gamma text") if line != gone)
        world.replica.apply_documents(P, make_batch(1, make_document("d0", kept, sequence=2)))
        assert reasons(await world.ask(grouping=Grouping(2))) == [LEG]


async def test_a_filter_that_a_hit_no_longer_meets_is_not_broken_by_an_old_answer(large: World) -> None:
    """The document has another number now."""
    condition = Comparison("number", Operator.EQUAL, 0)
    assert ids(await large.ask("text", filter=condition)) == ["d0"]
    large.store.fail()
    assert reasons(await large.ask("text", filter=condition)) == [LAST]
    large.replica.apply_documents(P, make_batch(4, make_document("d0", "alpha text", metadata={"number": 7}, sequence=5)))
    assert ids(await large.ask("text", filter=condition)) == []


async def test_a_write_that_touches_no_hit_leaves_the_answer_and_shows_in_its_freshness(large: World) -> None:
    """The answer knows the changes of its time, and says how many there are now."""
    await large.ask(top_k=2)
    large.store.fail()
    large.replica.apply_documents(P, make_batch(4, make_document("new", "alpha text", sequence=5)))
    answer = await large.ask(top_k=2)
    assert reasons(answer) == [LAST]
    assert "new" not in ids(answer)
    assert (answer.freshness.sequence, answer.freshness.head) == (4, 5)


async def test_an_old_answer_never_stands_in_for_a_fresher_one_that_was_asked_for(large: World) -> None:
    """A token of a write that the answer was made before: keyword hits, with that write. One of a write that it shows: the answer."""
    await large.ask()
    large.store.fail()
    large.replica.apply_documents(P, make_batch(4, make_document("new", "alpha text", sequence=5)))
    newer = await large.ask(seconds=0.5, fresh_as=Cursor("e1", SequenceNumber(5)))
    older = await large.ask(seconds=0.5, fresh_as=Cursor("e1", SequenceNumber(4)))
    assert "new" in ids(newer)
    assert LAST not in reasons(newer)
    assert reasons(older) == [LAST]


async def test_an_answer_in_which_a_write_could_not_be_found_by_meaning_does_not_show_it(large: World) -> None:
    """It was made after the write and before its vectors were there: for a token of that write it is too old."""
    large.replica.apply_documents(P, make_batch(4, make_document("new", "epsilon words", sequence=5)))
    await large.ask()
    large.store.fail()
    large.replica.apply_heartbeat(P, Heartbeat("e1", SequenceNumber(5), VectorSequence(5), TIME))
    assert reasons(await large.ask()) == [LAST]
    assert reasons(await large.ask(fresh_as=Cursor("e1", SequenceNumber(5)))) == [LEG]


async def test_searches_that_ask_for_other_writes_do_not_share_an_old_answer(large: World) -> None:
    """At the same time, one that must show a write and one that need not: each gets what it may have."""
    await large.ask()
    large.replica.apply_documents(P, make_batch(4, make_document("new", "alpha text", sequence=5)))
    large.replica.apply_heartbeat(P, Heartbeat("e1", SequenceNumber(5), VectorSequence(5), TIME))
    large.store.fail()
    easy, strict = await asyncio.gather(large.ask(), large.ask(fresh_as=Cursor("e1", SequenceNumber(5))))
    assert (reasons(easy), reasons(strict)) == ([LAST], [LEG])
    assert "new" in ids(strict)


async def test_a_project_that_was_created_again_has_no_old_answers(large: World) -> None:
    """Another epoch is another project, though its documents have the same names and texts."""
    await large.ask()
    large.store.fail()
    large.replica.put_project(make_project("docs", epoch="e2", head=4))
    large.replica.apply_reset(P, Reset(ResetReason.EPOCH_CHANGED, FeedStream.DOCUMENTS, "e2"))
    large.replica.apply_documents(P, make_batch(0, *DOCUMENTS, epoch="e2"))
    large.replica.apply_heartbeat(P, Heartbeat("e2", SequenceNumber(4), VectorSequence(4), TIME))
    assert reasons(await large.ask()) == [LEG]


async def test_an_old_answer_is_never_taken_for_a_good_one(tmp_path: Path) -> None:
    """Given twice it is still of the time when it was found, and no cache holds it when the store is back."""
    async with open_world(tmp_path, vectors_max=0, cache_bytes=1_000_000) as world:
        await world.ask()
        world.replica.apply_documents(P, make_batch(4, make_document("new", "beta words", sequence=5)))
        world.store.fail()
        first, second = await world.ask(), await world.ask()
        world.store.heal()
        whole = await world.ask()
    assert reasons(first) == reasons(second) == [LAST]
    assert first.found_time == second.found_time
    assert (second.cached, second.freshness.sequence) == (False, 4)
    assert (whole.cached, whole.degraded, whole.served_from_cache, whole.freshness.sequence) == (False, False, False, 5)


@pytest.mark.parametrize("mode", [SearchMode.KEYWORD, SearchMode.HYBRID])
async def test_only_whole_answers_of_searches_by_meaning_are_kept(large: World, mode: SearchMode) -> None:
    """Not a keyword answer, which needs no stand-in, nor one that was degraded, nor one without hits."""
    if mode is SearchMode.HYBRID:
        large.store.fail()
    await large.ask(mode=mode)
    large.store.heal()
    await large.ask("alpha text", filter=Comparison("number", Operator.EQUAL, 77))
    assert large.last_answers.size_bytes == 0


async def test_what_was_answered_before_anything_was_embedded_is_not_kept(tmp_path: Path) -> None:
    """Nothing could be found by meaning then: keyword hits of today are better."""
    async with open_world(tmp_path, vectors_max=0) as world:
        world.replica.put_project(make_project("docs", epoch="e2", head=4))
        world.replica.apply_reset(P, Reset(ResetReason.EPOCH_CHANGED, FeedStream.DOCUMENTS, "e2"))
        world.replica.apply_documents(P, make_batch(0, *DOCUMENTS, epoch="e2"))
        answer = await world.ask()
        assert (ids(answer)[0], answer.degraded) == ("d0", False)
        assert world.last_answers.size_bytes == 0


async def test_an_answer_that_is_too_old_is_not_given_again(tmp_path: Path) -> None:
    """It is forgotten when its time is over, however often it was used."""
    clock = Clock()
    async with open_world(tmp_path, vectors_max=0) as opened:
        world = World(opened.replica, opened.store, None, last_answers=LastAnswers(1_000_000, 60.0, timer=clock))
        await world.ask()
        world.store.fail()
        clock.now += 59
        assert reasons(await world.ask()) == [LAST]
        clock.now += 1
        assert reasons(await world.ask()) == [LEG]


def _answer(text: str) -> SearchAnswer:
    hit = Hit(DocumentId("d"), "", {}, Chunk(ChunkId("d#1"), 0, text, 0, len(text)), 1.0, None, None)
    return SearchAnswer((hit,), SearchMode.HYBRID, (), Freshness("e1", SequenceNumber(1), VectorSequence(1), SequenceNumber(1), TIME), Timings())


def test_the_kept_answers_stay_within_their_bytes() -> None:
    """The one that was used longest ago goes first; one that is larger than all the room is not kept; the gauge tells the bytes."""
    kept = LastAnswers(20_000, 60.0)
    questions = [Question("e1", f"question {number}") for number in range(4)]
    for question in questions[:3]:
        kept.put(question, _answer("x" * 4_000))
    kept.get(questions[0])
    kept.put(questions[3], _answer("y" * 4_000))
    kept.put(Question("e1", "large"), _answer("z" * 40_000))
    assert [kept.get(question) is not None for question in questions] == [True, False, True, True]
    assert 12_000 < kept.size_bytes <= 20_000
    assert metrics.REGISTRY.get_sample_value("kb_last_answers_bytes") == kept.size_bytes


async def test_an_answer_that_is_asked_for_often_outlives_the_others(tmp_path: Path) -> None:
    """Also while it comes from the result cache, and is not computed again: then its use counts, too."""
    async with open_world(tmp_path, vectors_max=0, cache_bytes=1_000_000) as opened:
        world = World(opened.replica, opened.store, None, cache_bytes=1_000_000, last_answers=LastAnswers(20_000, 60.0))
        await world.ask("alpha text")
        for number in range(20):
            await world.ask(f"beta text {number}")
            assert (await world.ask("alpha text")).cached
        world.replica.apply_heartbeat(P, Heartbeat("e1", SequenceNumber(4), VectorSequence(4), TIME))
        world.replica.apply_documents(P, make_batch(4, make_document("new", "other words", sequence=5)))
        world.store.fail()
        assert reasons(await world.ask("alpha text")) == [LAST]
        assert reasons(await world.ask("beta text 0")) == [LEG]


async def test_pages_are_never_mixed(large: World) -> None:
    """The next page of a last good answer follows it, if that page was given before; a page behind other hits is none of it, and fails."""
    first = await large.ask("text", top_k=2)
    second = await large.ask("text", top_k=2, page_token=first.next_page_token)
    large.store.fail()
    again = await large.ask("text", top_k=2)
    behind = await large.ask("text", top_k=2, page_token=again.next_page_token)
    assert (ids(again), ids(behind)) == (ids(first), ids(second))
    assert reasons(again) == reasons(behind) == [LAST]

    by_meaning = await _begin_by_meaning(large)
    with pytest.raises(ConflictError) as raised:
        await large.ask("delta text", mode=SearchMode.VECTOR, top_k=1, page_token=by_meaning.next_page_token)
    assert raised.value.reason == "PAGE_TOKEN_STALE"


async def _begin_by_meaning(world: World) -> SearchAnswer:
    """The first page of a search by meaning whose best hit is not the best by keyword; the second was never asked for."""
    world.store.heal()
    vectors = world.store.collections[COLLECTION]
    for chunk_id in vectors:
        vectors[chunk_id] = -vectors[chunk_id] if chunk_id.startswith("d3") else vectors[chunk_id]
    page = await world.ask("delta text", mode=SearchMode.VECTOR, top_k=1)
    assert ids(page) != ["d3"]
    world.store.fail()
    return page


# --- what a caller may ask for, other components -------------------------------------------------------------------------------------------------


async def test_who_wants_no_degraded_answer_gets_none(large: World) -> None:
    """UNAVAILABLE with the time to retry after, although a last good answer and keyword hits are there; a whole answer is given."""
    assert not (await large.ask(allow_degraded=False)).degraded
    large.store.fail()
    before = answered_by()
    with pytest.raises(UnavailableError) as raised:
        await large.ask(allow_degraded=False)
    assert (raised.value.component, raised.value.reason) == ("chromadb", "DEGRADED")
    assert raised.value.retry_after > 0
    assert since(before) == {"refused": 1}


@pytest.mark.parametrize("mode", [SearchMode.HYBRID, SearchMode.VECTOR])
async def test_without_the_embedder_keyword_hits_answer_if_they_may(tmp_path: Path, mode: SearchMode) -> None:
    """Even where a last good answer is kept: the store is well, and what the words find is of now. With that step off, the search fails."""
    async with open_world(tmp_path / "on") as world:
        await world.ask("alpha", mode=mode)
        world.embedder.failure = NO_MODEL
        before = answered_by()
        answer = await world.ask("alpha", mode=mode)
        assert (ids(answer), reasons(answer), answer.degradations[0].component) == (["d0"], [MODEL], "embedding_model")
        assert since(before) == {"keyword": 1}
    async with open_world(tmp_path / "off", steps=Fallbacks(keyword=False)) as world:
        world.embedder.failure = NO_MODEL
        with pytest.raises(UnavailableError) as raised:
            await world.ask("alpha", mode=mode)
        assert (raised.value.component, raised.value.reason) == ("embedding_model", "NO_FALLBACK")


async def test_a_search_by_keyword_needs_none_of_it(tmp_path: Path) -> None:
    """With the store and the embedder gone, and every step off, it is whole."""
    async with open_world(tmp_path, steps=NOTHING) as world:
        world.store.fail()
        world.embedder.failure = NO_MODEL
        before = answered_by()
        answer = await world.ask("alpha", mode=SearchMode.KEYWORD, allow_degraded=False)
    assert (ids(answer), answer.degraded, since(before)) == (["d0"], False, {})


async def test_with_the_store_and_the_feed_down_both_are_told(large: World) -> None:
    """A last good answer that may also miss later writes: two entries, each with its component and since when."""
    await large.ask()
    large.store.fail()
    large.feed.silent_since = 1_700_000_000.0
    answer = await large.ask()
    told = {degradation.reason: (degradation.component, degradation.since) for degradation in answer.degradations}
    assert set(told) == {DegradationReason.REPLICA_STALE, LAST}
    assert told[DegradationReason.REPLICA_STALE] == ("change_feed", datetime.fromtimestamp(1_700_000_000, UTC))
    assert told[LAST][0] == "chromadb"


async def test_an_outage_is_told_since_it_began_and_forgotten_when_it_is_over(large: World) -> None:
    """All steps tell the same time; the next outage has its own."""
    await large.ask()
    large.store.fail()
    began = datetime.now(UTC)
    answers = [await large.ask(), await large.ask("beta"), await large.ask("gamma", mode=SearchMode.VECTOR)]
    (first,) = {degradation.since for answer in answers for degradation in answer.degradations}
    large.store.heal()
    await large.ask("delta text")
    large.store.fail()
    again = (await large.ask("beta")).degradations[0].since
    assert first is not None
    assert again is not None
    assert began <= first < again


async def test_a_caller_in_a_hurry_accuses_nobody(large: World) -> None:
    """Who has no time to ask the store, or for the embedder, gets a degraded answer, and no time since when the component has been at fault."""
    store = (await large.ask("alpha", seconds=0.0)).degradations
    large.embedder.hang = True
    embedder = (await large.ask("alpha", seconds=0.05)).degradations
    assert [(each.reason, each.component, each.since) for each in (*store, *embedder)] == [(LEG, "chromadb", None), (MODEL, "embedding_model", None)]
    assert all("time" in each.message for each in (*store, *embedder))
    assert large.store.calls["query"] == 0


@pytest.mark.parametrize(("seconds", "most"), [(0.05, 0.18), (0.6, 0.6), (3.0, 1.0)])
@pytest.mark.parametrize("vectors_max", [0, 1_000])
async def test_a_hung_store_and_a_hung_embedder_never_cost_the_deadline(tmp_path: Path, seconds: float, most: float, vectors_max: int) -> None:
    """The answer comes in the caller's time, and in the time of the legs (here 0.2 s each) if that is less."""
    async with open_world(tmp_path, vectors_max=vectors_max) as world:
        world.store.hang()
        for hang_embedder in (False, True):
            world.embedder.hang = hang_embedder
            began = time.monotonic()
            answer = await world.ask("alpha", seconds=seconds)
            assert time.monotonic() - began < most
            assert ids(answer)[0] == "d0"
            assert answer.degraded


async def test_legs_that_hang_leave_time_for_what_stands_in(large: World) -> None:
    """With budgets larger than the caller's time, the store gets four fifths of that time at most, and the rest is there to answer without it."""
    reader = TimedReader(large.store)
    world = World(large.replica, large.store, None, reader=reader, budgets=Budgets(embed=60.0, vector=60.0))
    large.store.hang()
    assert reasons(await world.like("d0", seconds=0.5)) == [LEG]
    assert reasons(await world.ask("alpha", seconds=1.0)) == [LEG]
    # Similar documents; a search that others could share, which may last; what the caller makes do with alone in the fifth of its time that is left.
    similar, _, alone = reader.timeouts
    assert 0 < similar <= 0.4
    assert 0 < alone <= 0.16


# --- similar documents ---------------------------------------------------------------------------------------------------------------------------


async def test_similar_documents_take_the_same_steps(tmp_path: Path) -> None:
    """The replica's vectors, else the last good answer about that very document, else its words, else UNAVAILABLE."""
    expected = [(Fallbacks(), STORE), (Fallbacks(replica_vectors=False), LAST), (Fallbacks(replica_vectors=False, last_answer=False), LEG)]
    for number, (steps, reason) in enumerate(expected):
        async with open_world(tmp_path / str(number), steps=steps) as world:
            healthy = await world.like("d0")
            world.store.fail()
            answer = await world.like("d0")
            assert reasons(answer) == [reason]
            assert answer.served_from_cache == (reason is LAST)
            if reason is not LEG:
                assert ids(answer) == ids(healthy)
    async with open_world(tmp_path / "none", steps=NOTHING) as world:
        world.store.fail()
        before = answered_by()
        with pytest.raises(UnavailableError):
            await world.like("d0")
        assert since(before) == {"refused": 1}


async def test_what_was_like_a_document_before_it_was_rewritten_is_not_given_again(large: World) -> None:
    """The other documents stand, and yet the answer is about another text."""
    await large.like("d0")
    large.store.fail()
    assert reasons(await large.like("d0")) == [LAST]
    large.replica.apply_documents(P, make_batch(4, make_document("d0", "delta words", metadata={"number": 0}, sequence=5)))
    answer = await large.like("d0")
    assert reasons(answer) == [LEG]
    assert ids(answer)[0] == "d3"


# --- and back ------------------------------------------------------------------------------------------------------------------------------------


async def test_when_the_store_is_back_one_search_probes_it_and_the_others_do_not_wait(tmp_path: Path) -> None:
    """Fifty searches at the end of the breaker's time: exactly one asks the store; the others are answered at once; then all are whole again."""
    clock = Clock()
    async with open_world(tmp_path) as opened:
        store = opened.store
        breaker = Breaker(recovery_timeout=30.0, clock=clock)
        reader = ResilientVectorStore(store, breaker=breaker, retry=RetryPolicy(attempts=1), budget=RetryBudget())
        # More time than the test takes on any machine: whoever waits for the store waits for the rest of the test.
        world = World(opened.replica, store, None, reader=reader, budgets=Budgets(embed=60.0, vector=60.0))
        store.fail()
        for number in range(6):
            assert reasons(await world.ask(f"before {number}")) == [STORE]
        assert (store.calls["query"], breaker.state) == (5, BreakerState.OPEN)

        store.heal()
        assert reasons(await world.ask("still open")) == [STORE]
        clock.now += 30.0
        store.hang()
        asked = store.called("query")
        probe = asyncio.create_task(world.ask("the probe", seconds=120.0))
        await asked
        others = await asyncio.gather(*(world.ask(f"meanwhile {number}", seconds=120.0) for number in range(49)))
        assert [reasons(answer) for answer in others] == [[STORE]] * 49
        assert not probe.done(), "nobody waited for the store"
        assert store.calls["query"] == 6
        store.heal()
        assert not (await probe).degraded
        after = await asyncio.gather(*(world.ask(f"after {number}") for number in range(50)))
    assert not any(answer.degraded for answer in after)
    assert store.calls["query"] == 56


async def test_a_trouble_with_one_project_is_told_of_that_project_alone(tmp_path: Path) -> None:
    """Its lost collection is at fault since the first search that missed it, though the store serves other projects all the time."""
    async with open_world(tmp_path) as world:
        other = make_project("other", epoch="o1", head=1)
        (document,) = [make_document("o", "omega text")]
        world.replica.put_project(other)
        world.replica.apply_reset(other.id, Reset(ResetReason.NO_CURSOR, FeedStream.DOCUMENTS, "o1"))
        world.replica.apply_documents(other.id, make_batch(0, document, epoch="o1"))
        world.replica.apply_heartbeat(other.id, Heartbeat("o1", SequenceNumber(1), VectorSequence(1), TIME))
        await world.store.ensure_collection(other.collection, timeout=1)
        await world.store.add(other.collection, [document.chunks[0].id], np.ones((1, DIMENSION), np.float32), timeout=1)
        await wipe(world)
        first = (await world.ask("alpha")).degradations[0].since
        healthy = await world.search.run(Query(other.id, "omega text"), Deadline.after(5))
        second = (await world.ask("beta")).degradations[0].since
    assert not healthy.degraded
    assert first == second

"""The search use case over a real replica, with a vector store, an embedder and a feed that do as the test says."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from services.query.application.query import Query
from shared.domain import Cursor, ProjectId, ProjectState, SequenceNumber
from shared.errors import DeadlineExceededError, FailedPreconditionError, NotFoundError, UnavailableError
from shared.filters import Comparison, Membership, Operator
from shared.resilience.deadline import Deadline
from shared.search import DegradationReason, FusionMethod, SearchMode
from tests.fakes.feed import make_batch, make_document, make_project, make_vectors, vector_of
from tests.fixtures.world import COLLECTION, P, World, ids, open_world, reasons


@pytest.fixture(params=[100])
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    """A world whose replica keeps so many vectors as the parameter says."""
    async with open_world(tmp_path, vectors_max=request.param) as opened:
        yield opened


WITHOUT_VECTORS = pytest.mark.parametrize("world", [0], indirect=True)


@pytest.mark.parametrize("mode", list(SearchMode))
async def test_each_mode_finds_the_document(world: World, mode: SearchMode) -> None:
    """With everything in order nothing is degraded."""
    answer = await world.ask(mode=mode)
    assert ids(answer)[0] == "d0"
    assert reasons(answer) == []


async def test_a_vector_of_a_chunk_that_is_not_current_is_no_hit(world: World) -> None:
    """What the vector store still has of a deleted document does not come back."""
    world.replica.apply_documents(P, make_batch(4, "d0"))
    assert "d0" not in ids(await world.ask(mode=SearchMode.VECTOR))


async def test_a_store_that_is_down_is_replaced_by_the_replicas_vectors(world: World) -> None:
    """The same hits in the same order; the answer says what stood in, whose fault it is and since when."""
    healthy = await world.ask(mode=SearchMode.VECTOR)
    world.store.fail()
    first, second = await world.ask(mode=SearchMode.VECTOR), await world.ask(mode=SearchMode.VECTOR)

    assert ids(first) == ids(healthy)
    assert reasons(first) == [DegradationReason.VECTOR_STORE_UNAVAILABLE]
    assert first.degradations[0].component == "chromadb"
    assert second.degradations[0].since == first.degradations[0].since


async def test_a_store_that_hangs_costs_the_vector_legs_time_and_no_more(world: World) -> None:
    """The answer comes when the budget of the leg is spent."""
    world.store.hang()
    began = time.monotonic()
    answer = await world.ask()
    assert time.monotonic() - began < 1.0
    assert ids(answer)[0] == "d0"
    assert reasons(answer) == [DegradationReason.VECTOR_STORE_UNAVAILABLE]


async def test_a_collection_that_is_lost_is_replaced_too(world: World) -> None:
    """A wiped vector store is an outage like any other."""
    await world.store.drop_collection(COLLECTION, timeout=1)
    answer = await world.ask(mode=SearchMode.VECTOR)
    assert ids(answer)[0] == "d0"
    assert reasons(answer) == [DegradationReason.VECTOR_STORE_UNAVAILABLE]


@WITHOUT_VECTORS
@pytest.mark.parametrize("mode", [SearchMode.VECTOR, SearchMode.HYBRID])
async def test_without_vectors_of_its_own_keyword_hits_stand_in(world: World, mode: SearchMode) -> None:
    """A search by meaning alone gets keyword hits, too."""
    world.store.fail()
    answer = await world.ask("alpha", mode=mode)
    assert ids(answer) == ["d0"]
    assert reasons(answer) == [DegradationReason.VECTOR_LEG_MISSING]


@pytest.mark.parametrize("hang", [False, True])
async def test_without_the_embedder_keyword_hits_stand_in(world: World, hang: bool) -> None:
    """Whether it fails or hangs."""
    world.embedder.hang = hang
    world.embedder.failure = None if hang else UnavailableError("no model", component="embedding_model")
    answer = await world.ask("alpha", mode=SearchMode.VECTOR)
    assert ids(answer) == ["d0"]
    assert reasons(answer) == [DegradationReason.EMBEDDING_UNAVAILABLE]


async def test_a_degraded_answer_is_refused_when_it_is_not_allowed(world: World) -> None:
    """UNAVAILABLE, naming the component; keyword search alone is not concerned."""
    world.store.fail()
    with pytest.raises(UnavailableError) as raised:
        await world.ask(allow_degraded=False)
    assert raised.value.component == "chromadb"
    assert raised.value.reason == "DEGRADED"
    assert ids(await world.ask("alpha", mode=SearchMode.KEYWORD, allow_degraded=False)) == ["d0"]


async def test_a_silent_feed_makes_every_answer_say_that_it_may_be_stale(world: World) -> None:
    """Also a keyword answer, with the time of the last word."""
    world.feed.silent_since = 1_700_000_000.0
    answer = await world.ask(mode=SearchMode.KEYWORD)
    assert reasons(answer) == [DegradationReason.REPLICA_STALE]
    assert answer.degradations[0].since == datetime.fromtimestamp(1_700_000_000, UTC)


async def test_while_the_store_is_behind_the_replicas_vectors_answer(world: World) -> None:
    """A document that the replica can find by meaning is found although the vector store lacks it, and the answer is complete."""
    new = make_document("new", "epsilon text", sequence=5)
    world.replica.apply_documents(P, make_batch(4, new))
    world.replica.apply_vectors(P, make_vectors(4, 5, *new.chunks))
    answer = await world.ask("epsilon text", mode=SearchMode.VECTOR)
    assert ids(answer)[0] == "new"
    assert reasons(answer) == []
    assert answer.freshness.vector_sequence == 5


async def test_a_rebuild_is_told(world: World) -> None:
    """While the vector store is being filled again it is not trusted to be complete."""
    rebuilding = make_project("docs", head=4)
    object.__setattr__(rebuilding, "state", ProjectState.REBUILDING)
    world.replica.put_project(rebuilding)
    answer = await world.ask(mode=SearchMode.VECTOR)
    assert reasons(answer) == [DegradationReason.VECTOR_STORE_UNAVAILABLE]
    assert ids(answer)[0] == "d0"


@pytest.mark.parametrize("world", [0, 100], indirect=True)
@pytest.mark.parametrize("down", [False, True])
@pytest.mark.parametrize("mode", list(SearchMode))
async def test_a_filter_gives_the_same_set_in_every_mode(world: World, mode: SearchMode, down: bool) -> None:
    """With and without the vector store, with and without vectors of its own: nothing that does not match, ever."""
    if down:
        world.store.fail()
    answer = await world.ask("text", mode=mode, filter=Comparison("number", Operator.GREATER_OR_EQUAL, 2))
    assert set(ids(answer)) == {"d2", "d3"}


async def test_a_filter_that_matches_few_of_a_large_project_says_that_some_may_be_missing(tmp_path: Path) -> None:
    """Without vectors of its own the replica asks the store for so many and drops what does not match: that may be all of them."""
    documents = [make_document(f"d{number}", f"text number {number}", metadata={"number": number}) for number in range(1_200)]
    async with open_world(tmp_path / "large", documents, vectors_max=0) as world:
        # What the store is asked for are the thousand nearest, so the three farthest are not among them.
        farthest = sorted(range(len(documents)), key=lambda number: float(vector_of(f"text number {number}") @ vector_of("text")))[:3]
        few = await world.ask("text", mode=SearchMode.VECTOR, filter=Membership("number", tuple(farthest)))
        many = await world.ask("text", mode=SearchMode.VECTOR, filter=Comparison("number", Operator.LESS, 1_100))
    assert few.hits == ()
    assert reasons(few) == [DegradationReason.FILTER_INCOMPLETE]
    assert len(many.hits) == 10
    assert not many.degraded


async def test_a_token_waits_for_its_write(world: World) -> None:
    """The answer comes when the write has been applied, and not before."""
    new = make_document("new", "epsilon text", sequence=5)
    waiting = asyncio.create_task(world.ask("epsilon", mode=SearchMode.KEYWORD, fresh_as=Cursor("e1", SequenceNumber(5))))
    await asyncio.sleep(0.05)
    assert not waiting.done()
    await asyncio.to_thread(world.replica.apply_documents, P, make_batch(4, new))
    assert ids(await waiting) == ["new"]


async def test_a_token_that_is_not_reached_in_time_fails(world: World) -> None:
    """DEADLINE_EXCEEDED says how far the replica is."""
    with pytest.raises(DeadlineExceededError, match="applied change 4, the token asks for 9"):
        await world.ask(seconds=0.1, fresh_as=Cursor("e1", SequenceNumber(9)))


async def test_late_vectors_are_told_when_a_token_asked_for_them(world: World) -> None:
    """The write is found by keyword; that its vector is not there yet is said."""
    new = make_document("new", "epsilon text", sequence=5)
    world.replica.apply_documents(P, make_batch(4, new))
    answer = await world.ask("epsilon", seconds=0.4, fresh_as=Cursor("e1", SequenceNumber(5)))
    assert "new" in ids(answer)
    assert reasons(answer) == [DegradationReason.VECTORS_STALE]


async def test_a_token_of_another_epoch_and_an_unknown_project_are_refused(world: World) -> None:
    """After a short wait, in case this replica has yet to hear of them."""
    with pytest.raises(FailedPreconditionError):
        await world.ask(seconds=0.2, fresh_as=Cursor("e0", SequenceNumber(1)))
    with pytest.raises(NotFoundError):
        await world.search.run(Query(ProjectId("nobody"), "x"), Deadline.after(1))


async def test_equal_scores_come_in_the_order_of_chunk_ids(world: World) -> None:
    """The same in every replica, whatever keys it gave the chunks."""
    answer = await world.ask("text", mode=SearchMode.KEYWORD)
    assert len({hit.score for hit in answer.hits}) == 1
    assert [hit.chunk.id for hit in answer.hits] == sorted(hit.chunk.id for hit in answer.hits)


async def test_the_candidates_do_not_depend_on_the_page(world: World) -> None:
    """Fewer hits are the beginning of more hits."""
    for fusion in FusionMethod:
        long = await world.ask("alpha text", fusion=fusion, top_k=4)
        short = await world.ask("alpha text", fusion=fusion, top_k=2)
        assert ids(short) == ids(long)[:2]

"""Answers that are kept for equal searches, and searches that share one computation."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from shared.domain import Cursor, Heartbeat, Project, SequenceNumber, VectorSequence
from shared.filters import Comparison, Operator
from shared.search import DegradationReason, SearchMode
from tests.fakes.feed import TIME, make_batch, make_document, make_project, make_vectors
from tests.fixtures.world import P, World, ids, open_world, reasons


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """A world that keeps answers."""
    async with open_world(tmp_path, cache_bytes=1_000_000) as opened:
        yield opened


async def test_an_equal_search_is_answered_from_the_cache(world: World) -> None:
    """The same hits, without embedding or asking the store; the answer says that it was kept, and how fresh it is now."""
    first = await world.ask()
    world.store.fail()
    world.replica.apply_heartbeat(P, Heartbeat("e1", SequenceNumber(4), VectorSequence(4), TIME))
    second = await world.ask()
    assert not first.cached
    assert second.cached
    assert second.hits == first.hits
    assert second.degradations == ()
    assert second.freshness.contact_time != first.freshness.contact_time
    assert second.timings.vector is None
    assert len(world.embedder.calls) == 1


@pytest.mark.parametrize(
    "other",
    [
        {"text": "beta text"},
        {"mode": SearchMode.VECTOR},
        {"top_k": 3},
        {"alpha": 0.7},
        {"explain": True},
        {"filter": Comparison("number", Operator.EQUAL, 1)},
    ],
)
async def test_another_search_is_not(world: World, other: dict[str, Any]) -> None:
    """Whatever it differs in."""
    await world.ask()
    assert not (await world.ask(**other)).cached


async def test_filters_that_python_takes_for_equal_are_kept_apart(world: World) -> None:
    """1 and True are equal in Python, and match different documents here."""
    number = await world.ask(filter=Comparison("number", Operator.EQUAL, 1))
    truth = await world.ask(filter=Comparison("number", Operator.EQUAL, value=True))
    assert ids(number) == ["d1"]
    assert ids(truth) == []
    assert not truth.cached


async def test_whatever_could_change_the_answer_makes_it_be_computed_again(world: World) -> None:
    """A write, a deletion, late vectors, a vector store that has come further, another state of the project: after each, one computation."""
    new = make_document("new", "alpha text", sequence=5)

    def rebuilt() -> Project:
        return replace(make_project("docs", head=6), generation=2)

    changes: list[Callable[[], object]] = [
        lambda: world.replica.apply_documents(P, make_batch(4, new)),
        lambda: world.replica.apply_vectors(P, make_vectors(4, 5, *new.chunks)),
        lambda: world.replica.apply_heartbeat(P, Heartbeat("e1", SequenceNumber(5), VectorSequence(5), TIME)),
        lambda: world.replica.apply_documents(P, make_batch(5, "d0")),
        lambda: world.replica.put_project(rebuilt()),
    ]
    for change in changes:
        await world.ask()
        assert (await world.ask()).cached
        change()
        assert not (await world.ask()).cached
    assert "d0" not in ids(await world.ask())


async def test_a_degraded_answer_is_not_kept(world: World) -> None:
    """Once the store is back, the next equal search has the whole answer."""
    world.store.fail()
    assert reasons(await world.ask()) == [DegradationReason.VECTOR_STORE_UNAVAILABLE]
    world.store.heal()
    answer = await world.ask()
    assert not answer.cached
    assert not answer.degraded


async def test_a_kept_answer_still_says_that_the_feed_is_silent(world: World) -> None:
    """What is missing now is told now, whatever was missing when the answer was made."""
    await world.ask()
    world.feed.silent_since = 1_700_000_000.0
    answer = await world.ask()
    assert answer.cached
    assert reasons(answer) == [DegradationReason.REPLICA_STALE]


async def test_a_token_waits_for_its_write_also_when_an_answer_is_kept(world: World) -> None:
    """Read-your-write holds through the cache."""
    await world.ask("epsilon", mode=SearchMode.KEYWORD)
    waiting = asyncio.create_task(world.ask("epsilon", mode=SearchMode.KEYWORD, fresh_as=Cursor("e1", SequenceNumber(5))))
    await asyncio.to_thread(world.replica.apply_documents, P, make_batch(4, make_document("new", "epsilon", sequence=5)))
    assert ids(await waiting) == ["new"]


async def test_equal_searches_at_the_same_time_are_computed_once(world: World) -> None:
    """Fifty of them ask the embedder once, and get the same."""
    answers = await asyncio.gather(*(world.ask("gamma text") for _ in range(50)))
    assert len(world.embedder.calls) == 1
    assert all(answer.hits == answers[0].hits for answer in answers)


async def test_a_search_in_a_hurry_neither_shares_nor_spoils(world: World) -> None:
    """Its deadline may leave something out that an equal search with more time must have."""
    world.store.hang()
    hurried = asyncio.create_task(world.ask("delta text", seconds=0.05))
    patient = asyncio.create_task(world.ask("delta text", seconds=5.0))
    assert reasons(await hurried) == [DegradationReason.VECTOR_STORE_UNAVAILABLE]
    world.store.heal()
    assert ids(await patient)[0] == "d3"
    assert not (await world.ask("delta text")).degraded

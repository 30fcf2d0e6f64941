"""Searches that only wait for somebody else lend their place to those that can be answered."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from services.query.application.legs import Budgets
from shared.domain import Cursor, SequenceNumber
from shared.errors import ResourceExhaustedError
from shared.resilience.admission import Admission, Limit
from shared.search import SearchMode
from tests.fixtures.world import World, ids, open_world
from tests.waiting import eventually

SOON = 10.0


@asynccontextmanager
async def patient_world(folder: Path) -> AsyncIterator[World]:
    """A world whose vector leg waits for as long as the test takes."""
    async with open_world(folder) as world:
        yield World(world.replica, world.store, None, budgets=Budgets(embed=SOON, vector=SOON))


class Gate:
    """One place and no queue: a second search is let in only if the first has lent its place."""

    def __init__(self) -> None:
        self._admission = Admission(Limit(concurrency=1, queue=0, patience=SOON, yields=True))

    async def run(self, work: Coroutine[Any, Any, Any]) -> Any:  # noqa: ANN401 - what the work returns
        """Does the work of one request."""
        try:
            ticket = await self._admission.enter()
        except ResourceExhaustedError:
            work.close()
            raise
        with ticket.held():
            return await work

    async def has_room(self, admitted: int = 1) -> bool:
        """Whether another request would be let in, beside that many that are."""
        if self._admission.admitted < admitted:
            return False
        try:
            ticket = await self._admission.enter()
        except ResourceExhaustedError:
            return False
        ticket.close()
        return True


async def end(task: asyncio.Task[Any]) -> None:
    """Ends a request."""
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_while_the_vector_store_hangs_keyword_searches_are_answered(tmp_path: Path) -> None:
    """The search that waits for it holds nobody up."""
    async with patient_world(tmp_path) as world:
        gate = Gate()
        world.store.hang()
        waiting = asyncio.create_task(gate.run(world.ask(seconds=SOON)))
        await eventually(gate.has_room, bool)
        answer = await gate.run(world.ask("beta", mode=SearchMode.KEYWORD))
        assert ids(answer) == ["d1"]
        await end(waiting)


async def test_while_a_search_waits_for_a_write_others_are_answered(tmp_path: Path) -> None:
    """A consistency token of a change that has not come."""
    async with patient_world(tmp_path) as world:
        gate = Gate()
        token = Cursor("e1", SequenceNumber(1_000))
        waiting = asyncio.create_task(gate.run(world.ask(fresh_as=token, seconds=SOON)))
        await eventually(gate.has_room, bool)
        assert ids(await gate.run(world.ask("beta", mode=SearchMode.KEYWORD))) == ["d1"]
        await end(waiting)


async def test_a_search_that_waits_for_an_equal_one_lends_its_place(tmp_path: Path) -> None:
    """A popular question while the vector store hangs: all who ask it wait, and none is in the way."""
    async with patient_world(tmp_path) as world:
        gate = Gate()
        world.store.hang()
        crowd = []
        for number in range(5):
            crowd.append(asyncio.create_task(gate.run(world.ask(seconds=SOON))))
            await eventually(partial(gate.has_room, number + 1), bool)
        for waiting in crowd:
            await end(waiting)


async def test_a_search_at_work_keeps_its_place(tmp_path: Path) -> None:
    """Embedding is work."""
    async with patient_world(tmp_path) as world:
        gate = Gate()
        world.embedder.hang = True
        working = asyncio.create_task(gate.run(world.ask(seconds=SOON)))

        async def embedding() -> int:
            return len(world.embedder.calls)

        await eventually(embedding, bool)
        with pytest.raises(ResourceExhaustedError):
            await gate.run(world.ask("beta", mode=SearchMode.KEYWORD))
        await end(working)

"""Steady load on a stack: calls sent at fixed times, whether or not those before them have been answered."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

from services.cli.chaos import notes
from services.cli.chaos.plan import Plan
from services.cli.chaos.tally import Asked, Tally, Wrote
from shared.client import KnowledgeBeast
from shared.errors import KnowledgeBeastError


class Load:
    """Searches and writes in one project, counted in a tally.

    Args:
        kb: The client; its calls may be retried as it sees fit, and count as one.
        project: Id of the project.
        plan: Rates and deadline.
        numbers: Of documents and questions: each is used once.
        tally: Where what came of them goes.
    """

    def __init__(self, kb: KnowledgeBeast, project: str, plan: Plan, numbers: Iterator[int], tally: Tally) -> None:
        self._kb = kb
        self._project = project
        self._plan = plan
        self._numbers = numbers
        self._tally = tally

    async def run(self, seconds: float, *, searches: bool = True, writes: bool = True) -> None:
        """Both kinds of calls for so long, and until the last of them is answered or its deadline is over."""
        async with asyncio.TaskGroup() as group:
            if searches:
                group.create_task(_paced(self._plan.searches_per_second, seconds, self.ask))
            if writes:
                group.create_task(_paced(self._plan.writes_per_second, seconds, self.write))

    async def ask(self) -> None:
        """One search."""
        clock = asyncio.get_running_loop().time
        query, began = notes.question(next(self._numbers)), clock()
        reasons: tuple[str, ...] = ()
        error: str | None = None
        try:
            answer = await self._kb.search(self._project, query, timeout=self._plan.deadline)
        except KnowledgeBeastError as failure:
            error = failure.reason
        else:
            reasons = tuple(degradation.reason.value for degradation in answer.degradations)
            error = None if answer.hits else "EMPTY"
        self._tally.asked.append(Asked(began, clock() - began, reasons, error))

    async def write(self) -> None:
        """One document."""
        clock = asyncio.get_running_loop().time
        number, began = next(self._numbers), clock()
        error: str | None = None
        try:
            written = await self._kb.upsert(self._project, [notes.note(number)], timeout=self._plan.deadline)
        except KnowledgeBeastError as failure:
            error = failure.reason
        else:
            refused = written.results[0].error
            error = None if refused is None else refused.reason
        self._tally.wrote.append(Wrote(number, clock() - began, error))


async def _paced(rate: float, seconds: float, send: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Calls `send` at a fixed rate for so long, each in a task of its own."""
    clock = asyncio.get_running_loop().time
    began = clock()
    async with asyncio.TaskGroup() as group:
        for number in range(max(1, round(rate * seconds))):
            await asyncio.sleep(max(0.0, began + number / rate - clock()))
            group.create_task(send())

"""Calls of every kind, so that everything that is measured moves: beside the steady load of `kb chaos`, what differs from it."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace

from services.cli.chaos import notes
from services.cli.chaos.load import Load
from services.cli.chaos.plan import Plan
from services.cli.chaos.tally import Tally
from shared.client import KnowledgeBeast, SearchMode, SearchQuery
from shared.errors import KnowledgeBeastError

# Documents of each project: sizes that one can tell apart in a chart.
_PROJECTS = {"handbook": 240, "tickets": 160, "minutes": 90, "recipes": 40}
_MAIN, _OTHER = "handbook", "minutes"
_BATCH = 80  # documents of one call
_SLICE = 5.0  # seconds of steady load after which it begins anew, with an empty tally
_ERRANDS_PER_SECOND = 12.0
_CALL = 2.0  # seconds


class Traffic:
    """Load on a stack, until it is cancelled.

    Args:
        kb: The client.
        plan: Rates and deadline of the steady load.
    """

    def __init__(self, kb: KnowledgeBeast, plan: Plan) -> None:
        self._kb = kb
        self._plan = plan
        self._numbers: Iterator[int] = itertools.count(max(_PROJECTS.values()))

    async def prepare(self) -> None:
        """Makes the projects and their first documents. Raises KnowledgeBeastError if that fails."""
        for project, size in _PROJECTS.items():
            await self._kb.create_project(project)
            for first in range(0, size, _BATCH):
                await self._kb.upsert(project, [notes.note(number) for number in range(first, min(first + _BATCH, size))])

    async def run(self) -> None:
        """Keeps the load up. Never returns."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._steady())
            group.create_task(self._errands())

    async def _steady(self) -> None:
        while True:
            await Load(self._kb, _MAIN, self._plan, self._numbers, Tally()).run(_SLICE)

    async def _errands(self) -> None:
        for errand in itertools.cycle(self._kinds()):
            # During an outage some of them fail, and some are meant to: what is measured is looked at, not what they give.
            with suppress(KnowledgeBeastError):
                await errand()
            await asyncio.sleep(1 / _ERRANDS_PER_SECOND)

    def _kinds(self) -> Sequence[Callable[[], Awaitable[object]]]:
        kb = self._kb

        async def again() -> None:
            await kb.search(_OTHER, SearchQuery("who looks after the oldest locomotives"), timeout=_CALL)

        async def by_keyword() -> None:
            await kb.search("tickets", notes.by_words(3, next(self._numbers)), timeout=_CALL)

        async def by_meaning() -> None:
            query = SearchQuery(f"something that flies, {notes.word(next(self._numbers))}", SearchMode.VECTOR)
            await kb.search("tickets", query, timeout=_CALL)

        async def in_a_batch() -> None:
            async for _ in kb.batch_search(_OTHER, [notes.question(next(self._numbers)) for _ in range(4)], timeout=_CALL):
                pass

        async def alike() -> None:
            await kb.find_similar(_OTHER, notes.note_id(1), timeout=_CALL)

        async def all_or_nothing() -> None:
            await kb.search(_OTHER, replace(notes.question(next(self._numbers)), allow_degraded=False), timeout=_CALL)

        async def the_same_at_once() -> None:
            question = notes.question(next(self._numbers))
            await asyncio.gather(*(kb.search(_OTHER, question, timeout=_CALL) for _ in range(4)), return_exceptions=True)

        async def of_a_project_that_is_not_there() -> None:
            await kb.search("nowhere", SearchQuery("anything"), timeout=_CALL)

        async def too_many() -> None:
            await kb.search(_OTHER, SearchQuery("anything", top_k=1_000_000), timeout=_CALL)

        async def write_and_delete() -> None:
            number = next(self._numbers)
            await kb.upsert(_OTHER, [notes.note(number)], timeout=_CALL)
            await kb.delete_documents(_OTHER, [notes.note_id(number)], timeout=_CALL)

        wrong = (of_a_project_that_is_not_there, too_many)
        return (again, by_keyword, again, by_meaning, again, in_a_batch, alike, all_or_nothing, the_same_at_once, again, *wrong, write_and_delete)

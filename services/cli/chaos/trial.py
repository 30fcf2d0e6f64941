"""One row of the matrix while it runs: a project of its own, load, recovery, and what is looked at afterwards."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator, Mapping
from contextlib import AbstractAsyncContextManager

from services.cli.chaos import health, notes
from services.cli.chaos.load import Load
from services.cli.chaos.outcome import Check, Outcome
from services.cli.chaos.plan import Plan
from services.cli.chaos.rig import Rig
from services.cli.chaos.tally import Tally
from services.cli.chaos.until import until
from shared.client import KnowledgeBeast, SearchAnswer
from shared.domain import Project
from shared.errors import KnowledgeBeastError, UnavailableError

BASE = 48  # documents of a project before the fault
_NOTICE = 15.0  # seconds; a check runs every 5 and gets 2, or 10 where a model is loaded
_NOT_WELL = frozenset({"degraded", "unhealthy"})
_BATCH = 100  # searches of one call
_PAGE = 1000
_CALL = 30.0  # seconds of a call that prepares or checks


class Trial:
    """Counts, and notes which promises were kept.

    Args:
        rig: The stack that is tried.
        project: Id of a project that does not exist yet.
        plan: How hard and how long.
    """

    def __init__(self, rig: Rig, project: str, plan: Plan) -> None:
        self.rig = rig
        self.project = project
        self.plan = plan
        self.tally = Tally()
        self.checks: list[Check] = []
        self.notes: list[str] = []
        self.health: Mapping[str, health.Health] = {}
        self.found: int | None = None
        self.recovery: float | None = None
        self.numbers: Iterator[int] = itertools.count(BASE)

    async def prepare(self) -> None:
        """Makes the project, writes the first documents and waits until they are in ChromaDB and answers are whole."""
        await self.rig.kb.create_project(self.project)
        await self.rig.kb.upsert(self.project, [notes.note(number) for number in range(BASE)])
        await self.until_whole()

    def next_number(self) -> int:
        """A number that no document and no question of this trial has yet."""
        return next(self.numbers)

    def load(self, kb: KnowledgeBeast | None = None) -> Load:
        """Load on this row's project that counts."""
        return Load(kb or self.rig.kb, self.project, self.plan, self.numbers, self.tally)

    async def during(
        self, fault: AbstractAsyncContextManager[None], *, seconds: float | None = None, searches: bool = True, writes: bool = True
    ) -> None:
        """Puts the fault in, keeps the load up, looks at the services' health near the end, and takes the fault out.

        `seconds` is the plan's if it is None.
        """
        lasting = self.plan.seconds if seconds is None else seconds
        async with fault, asyncio.TaskGroup() as group:
            group.create_task(self.load().run(lasting, searches=searches, writes=writes))
            group.create_task(self._look(lasting * 0.8))

    async def noticed(self, component: str) -> None:
        """Promises that both services say that a component does not work: their checks look at it every few seconds. To be used within the fault."""

        async def told() -> bool:
            self.health = await health.look(self.rig.stack, self.rig.kb)
            return all(one.components is not None and one.components.get(component) in _NOT_WELL for one in self.health.values())

        try:
            await until(told, _NOTICE)
        except TimeoutError:
            kept = False
        else:
            kept = True
        states = ", ".join(f"{name} {(one.components or {}).get(component, 'nothing')}" for name, one in self.health.items())
        self.promise(f"health says that {component} does not work", kept=kept, seen=states)

    async def recover(self) -> None:
        """Waits until the service is as it was before the fault, and notes how long it took. A broken promise if it takes too long."""
        clock = asyncio.get_running_loop().time
        began = clock()
        try:
            await self.until_whole()
        except UnavailableError as error:
            self.promise("full service comes back by itself", kept=False, seen=error.message)
        else:
            self.recovery = clock() - began

    async def account(self) -> None:
        """Looks for every acknowledged document, those from before the fault included: in the catalog, and by search."""
        acknowledged = {*range(BASE), *self.tally.acknowledged}
        stored = {document.id async for document in self.rig.kb.list_documents(self.project, page_size=_PAGE, timeout=_CALL)}
        in_catalog = {number for number in acknowledged if notes.note_id(number) in stored}
        by_search = await self._by_search(sorted(in_catalog))
        self.found = len(by_search.intersection(self.tally.acknowledged))
        seen = f"{len(acknowledged)} acknowledged, {len(in_catalog)} in the catalog, {len(by_search)} found by search"
        self.promise("every acknowledged document is in the catalog and found by search", kept=by_search == acknowledged, seen=seen)

    def promise(self, text: str, *, kept: bool, seen: str) -> None:
        """Notes whether a promise was kept."""
        self.checks.append(Check(text, kept, seen))

    def none_failed(self) -> None:
        """Promises that every search was answered."""
        errors = ", ".join(f"{count} {reason}" for reason, count in self.tally.errors.items())
        self.promise("every search is answered", kept=not errors, seen=errors or f"{self.tally.answered} of {self.tally.requests}")

    def none_late(self) -> None:
        """Promises that no search took longer than its deadline, but for what starting and ending a call takes."""
        worst, limit = self.tally.worst, self.plan.deadline
        self.promise("no search goes beyond its deadline", kept=worst <= limit + 0.05, seen=f"slowest {worst:.3f} s of {limit:g}")

    def some_degraded(self, *reasons: str) -> None:
        """Promises that there were degraded answers, and that their reasons were these."""
        seen = self.tally.reasons
        told = ", ".join(f"{count} {reason}" for reason, count in seen.items()) or "none"
        self.promise(f"degraded answers say why ({' or '.join(reasons)})", kept=bool(seen) and set(seen) <= set(reasons), seen=told)

    def all_acknowledged(self) -> None:
        """Promises that every write was acknowledged."""
        refusals = ", ".join(f"{count} {reason}" for reason, count in self.tally.refusals.items())
        sent = len(self.tally.wrote)
        self.promise("every write is acknowledged", kept=not refusals, seen=refusals or f"{sent} of {sent}")

    def stays_ready(self, *services: str) -> None:
        """Promises that the services take requests while the fault is on."""
        unready = [service for service in services if service not in self.health or not self.health[service].ready]
        self.promise(f"{' and '.join(services)} stay ready", kept=not unready, seen=f"not ready: {', '.join(unready)}" if unready else "ready")

    def outcome(self, row: str, fault: str) -> Outcome:
        """What came of it."""
        tally = self.tally
        return Outcome(
            row=row,
            fault=fault,
            requests=tally.requests,
            answered=tally.answered,
            degraded=tally.degraded,
            errors=dict(tally.errors),
            reasons=dict(tally.reasons),
            worst=tally.worst,
            sent=len(tally.wrote),
            acknowledged=len(tally.acknowledged),
            refusals=dict(tally.refusals),
            found=self.found,
            recovery=self.recovery,
            checks=self.checks,
            notes=self.notes,
            health=self.health,
        )

    async def whole(self) -> tuple[bool, str]:
        """Whether an answer now is whole and nothing lags; and what was seen."""
        try:
            project = await self.rig.kb.get_project(self.project, timeout=self.plan.deadline)
            answer = await self.rig.kb.search(self.project, notes.question(self.next_number()), timeout=self.plan.deadline)
        except KnowledgeBeastError as error:
            return False, error.message
        return _is_whole(project, answer), f"{_told(answer)}; head {project.head}, in ChromaDB {project.vector_sequence}"

    async def until_whole(self) -> None:
        """Waits until an answer is whole and nothing lags. Raises UnavailableError if that does not come within the plan's patience."""
        seen = "nothing"

        async def whole() -> bool:
            nonlocal seen
            holds, seen = await self.whole()
            return holds

        try:
            await until(whole, self.plan.patience)
        except TimeoutError as error:
            raise UnavailableError(f"not after {self.plan.patience:g} s: {seen}", component="stack") from error

    async def _look(self, after: float) -> None:
        await asyncio.sleep(after)
        self.health = await health.look(self.rig.stack, self.rig.kb)

    async def _by_search(self, numbers: list[int]) -> set[int]:
        """Those that a keyword search for their own word finds."""
        found: set[int] = set()
        for batch in (numbers[start : start + _BATCH] for start in range(0, len(numbers), _BATCH)):
            async for row in self.rig.kb.batch_search(self.project, [notes.by_word(number) for number in batch], timeout=_CALL):
                if row.result is not None and [hit.document_id for hit in row.result.hits] == [notes.note_id(batch[row.index])]:
                    found.add(batch[row.index])
        return found


def _is_whole(project: Project, answer: SearchAnswer) -> bool:
    return (
        not answer.degraded
        and bool(answer.hits)
        and int(project.vector_sequence) == int(project.head) == int(answer.freshness.sequence) == int(answer.freshness.vector_sequence)
    )


def _told(answer: SearchAnswer) -> str:
    return "; ".join(f"{degradation.component}: {degradation.message}" for degradation in answer.degradations) or "not degraded"

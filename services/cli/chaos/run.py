"""Runs rows of the matrix, one after another: those that need a stack of their own get one, the others share one."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path
from typing import Self

from services.cli.chaos.outcome import Check, Outcome
from services.cli.chaos.plan import Plan
from services.cli.chaos.rig import Rig, running
from services.cli.chaos.row import Row
from services.cli.chaos.trial import Trial
from shared.errors import KnowledgeBeastError


class Runner:
    """An async context manager; the shared stack is started by the first row that uses it and stopped at the end.

    Args:
        folder: Where everything is kept.
        models: Folder of exported models.
        plan: How hard and how long each row is tried.
    """

    def __init__(self, folder: Path, models: Path, plan: Plan) -> None:
        self._folder = folder
        self._models = models
        self._plan = plan
        self._shared: Rig | None = None
        self._stacks = 0
        self._open = AsyncExitStack()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._open.aclose()

    async def run(self, row: Row) -> Outcome:
        """Tries one row. A row that cannot be tried to its end has broken a promise; the shared stack is then thrown away, for the rows after it."""
        why = row.skipped()
        if row.run is None or why is not None:
            return Outcome(row.name, row.fault, skipped=why)
        try:
            if row.rig is None:
                return await self._try(row, await self._share())
            async with row.rig(self._folder / f"row-{row.name}", self._models, self._plan) as rig:
                return await self._try(row, rig)
        except KnowledgeBeastError as error:
            return Outcome(row.name, row.fault, checks=[Check("a stack for the row can be started and stopped", kept=False, seen=error.message)])

    async def _try(self, row: Row, rig: Rig) -> Outcome:
        trial = Trial(rig, f"row-{row.name}", self._plan)
        if row.run is None:
            raise AssertionError("a row that is not skipped can be run")
        try:
            await trial.prepare()
            await row.run(trial)
        except Exception as error:  # noqa: BLE001 - whatever a row meets is its own: the others have their turn
            ended = [f"{process.name} has ended with {process.returncode}" for process in rig.stack.processes if not process.running]
            trial.promise("the row can be tried to its end", kept=False, seen="; ".join((f"{type(error).__name__}: {error}", *ended)))
        outcome = trial.outcome(row.name, row.fault)
        if outcome.broken and rig is self._shared:
            await self._open.aclose()
            self._shared = None
        return outcome

    async def _share(self) -> Rig:
        if self._shared is None:
            self._stacks += 1
            self._shared = await self._open.enter_async_context(running(self._folder / f"shared-{self._stacks}", self._models, self._plan))
        return self._shared

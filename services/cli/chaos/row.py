"""What a row of the fault matrix is."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path

from services.cli.chaos.plan import Plan
from services.cli.chaos.rig import Rig
from services.cli.chaos.trial import Trial

OwnRig = Callable[[Path, Path, Plan], AbstractAsyncContextManager[Rig]]  # folder, models, plan


@dataclass(frozen=True, slots=True)
class Row:
    """One fault.

    Attributes:
        name: Its number in the matrix; a letter behind it tells apart what is measured of one fault.
        fault: What it is, and how it is brought about.
        queries: What becomes of searches.
        writes: What becomes of writes.
        run: Tries it; None where `instead` says why this does not.
        rig: Makes a stack for this row alone; None: it shares one with the others, and leaves it as it was.
        missing: Tells what this machine lacks for it; None if it lacks nothing.
        instead: Where a row that is not run here is looked at.
    """

    name: str
    fault: str
    queries: str
    writes: str
    run: Callable[[Trial], Awaitable[None]] | None = None
    rig: OwnRig | None = None
    missing: Callable[[], str | None] = lambda: None
    instead: str = ""

    def skipped(self) -> str | None:
        """Why it is not run here and now; None if it is."""
        return self.instead if self.run is None else self.missing()

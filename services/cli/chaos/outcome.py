"""What came of one row of the matrix, and how it is kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from services.cli.chaos.health import Health


@dataclass(frozen=True, slots=True)
class Check:
    """A promise, whether it was kept, and what was seen."""

    promise: str
    kept: bool
    seen: str


@dataclass(slots=True)
class Outcome:
    """One row. Times in seconds.

    Attributes:
        row: The row's name in the matrix.
        fault: What was done.
        requests: Searches that were sent while it lasted.
        answered: Searches that were answered.
        degraded: Answers that were degraded.
        errors: Searches that were not answered, by reason.
        reasons: Degraded answers, by reason.
        worst: The slowest search.
        sent: Documents that were sent to be written.
        acknowledged: Documents that were acknowledged.
        refusals: Documents that were not acknowledged, by reason.
        found: Acknowledged documents that are in the catalog and are found by search afterwards; None where that was not looked at.
        recovery: From the end of the fault until everything was as before: an answer that is not degraded and nothing that lags. None where
            nothing had to recover.
        checks: The promises.
        notes: What is to be known of the figures.
        health: What the services said of themselves while the fault was on, by name.
        skipped: Why the row was not run; None if it was.
    """

    row: str
    fault: str
    requests: int = 0
    answered: int = 0
    degraded: int = 0
    errors: Mapping[str, int] = field(default_factory=dict)
    reasons: Mapping[str, int] = field(default_factory=dict)
    worst: float = 0.0
    sent: int = 0
    acknowledged: int = 0
    refusals: Mapping[str, int] = field(default_factory=dict)
    found: int | None = None
    recovery: float | None = None
    checks: list[Check] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    health: Mapping[str, Health] = field(default_factory=dict)
    skipped: str | None = None

    @property
    def broken(self) -> Sequence[Check]:
        """Promises that were not kept."""
        return [check for check in self.checks if not check.kept]

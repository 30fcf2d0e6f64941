"""What came of the calls that were made while a fault was on. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True, slots=True)
class Asked:
    """One search.

    Attributes:
        at: When it was sent, on the event loop's clock.
        seconds: Until the answer or the error.
        reasons: Why the answer is degraded; empty if it is whole.
        error: Reason of the error, `EMPTY` for an answer without a hit; None if it was answered.
    """

    at: float
    seconds: float
    reasons: tuple[str, ...] = ()
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Wrote:
    """One document that was sent to be written; `error` is the reason of the refusal, None if it was acknowledged."""

    number: int
    seconds: float
    error: str | None = None


@dataclass(slots=True)
class Tally:
    """All of them."""

    asked: list[Asked] = field(default_factory=list)
    wrote: list[Wrote] = field(default_factory=list)

    @property
    def requests(self) -> int:
        """Searches that were sent."""
        return len(self.asked)

    @property
    def answered(self) -> int:
        """Searches with an answer, degraded or not."""
        return sum(one.error is None for one in self.asked)

    @property
    def degraded(self) -> int:
        """Searches with a degraded answer."""
        return sum(bool(one.reasons) for one in self.asked)

    @property
    def errors(self) -> Counter[str]:
        """Searches without an answer, by reason."""
        return Counter(one.error for one in self.asked if one.error is not None)

    @property
    def reasons(self) -> Counter[str]:
        """Degraded answers by reason."""
        return Counter(reason for one in self.asked for reason in one.reasons)

    @property
    def worst(self) -> float:
        """Seconds of the slowest search, answered or not; 0 if there was none."""
        return max((one.seconds for one in self.asked), default=0.0)

    @property
    def acknowledged(self) -> Sequence[int]:
        """Numbers of the documents that were acknowledged."""
        return [one.number for one in self.wrote if one.error is None]

    @property
    def refusals(self) -> Counter[str]:
        """Documents that were not acknowledged, by reason."""
        return Counter(one.error for one in self.wrote if one.error is not None)

    @property
    def worst_write(self) -> float:
        """Seconds of the slowest write, acknowledged or not; 0 if there was none."""
        return max((one.seconds for one in self.wrote), default=0.0)


def percentile(seconds: Sequence[float], share: float) -> float:
    """The value below which `share` (0 to 1) of them lie; 0 if there are none."""
    return float(np.quantile(np.asarray(seconds), share)) if seconds else 0.0

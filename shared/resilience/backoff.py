"""How long to wait before the next attempt. Pure but for the dice."""

from __future__ import annotations

import random
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Backoff:
    """Exponential, with the upper half of each wait left to chance, so that many consumers do not come back at the same moment.

    Attributes:
        initial: seconds before the second attempt, at most.
        maximum: seconds before any attempt, at most.
    """

    initial: float = 0.2
    maximum: float = 10.0

    def seconds(self, failures: int) -> float:
        """The wait after that many failures in a row, at least one."""
        longest = min(self.maximum, self.initial * 2.0 ** min(failures - 1, 30))
        return random.uniform(longest / 2, longest)  # noqa: S311 # spreads load, keeps no secret

"""How hard and how long a stack is tried."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Plan:
    """What all rows have in common.

    Attributes:
        seconds: How long each fault lasts under load.
        recovery: Seconds that the breaker stays open (KB_BREAKER_RECOVERY).
        searches_per_second: Hybrid searches, each of them another; sent at fixed times, whether or not those before are answered.
        writes_per_second: Documents written, sent in the same way.
        deadline: Seconds that each call gets.
        patience: Seconds that full service may take to come back.
    """

    seconds: float = 10.0
    recovery: float = 10.0
    searches_per_second: float = 20.0
    writes_per_second: float = 4.0
    deadline: float = 2.0
    patience: float = 120.0

"""Spreads work over time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from shared.resilience.deadline import Clock
from shared.resilience.effort import note_pace


class Pace:
    """Lets through at most so many units a second. Time in which nothing is done is not saved up, so that no burst follows a pause.

    A piece is let through as soon as those before it have had their time; in any time there go at most `rate` units a second and one piece more.
    Used from one event loop.

    Args:
        rate: Units a second, more than 0.
        clock: Monotonic seconds.
        sleep: How to wait; takes seconds.
    """

    def __init__(self, rate: float, *, clock: Clock = time.monotonic, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        self._rate = rate
        self._clock = clock
        self._sleep = sleep
        self._free_at = clock()

    async def take(self, units: int) -> None:
        """Waits for its turn, and takes the time of so many units after it. Who gives up waiting has taken it all the same."""
        now = self._clock()
        wait = self._free_at - now
        self._free_at = max(self._free_at, now) + units / self._rate
        if wait > 0:
            await self._sleep(wait)
            note_pace(wait)

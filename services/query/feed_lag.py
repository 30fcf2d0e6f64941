"""For how long the replica has not had every change."""

from __future__ import annotations

import time
from collections.abc import Callable

from shared.resilience.deadline import Clock


class FeedLag:
    """Measures it from the moments at which somebody looked, and from the age of what was applied last. May be read by any thread.

    Args:
        has_all: whether the replica has every change of every project, as far as it has heard, and hears.
        as_of: up to when it has what was committed, in seconds since 1970, where more may be on its way; see `Follower.as_of`.
        clock: monotonic seconds.
        wall: seconds since 1970.
    """

    def __init__(
        self, has_all: Callable[[], bool], as_of: Callable[[], float | None], *, clock: Clock = time.monotonic, wall: Clock = time.time
    ) -> None:
        self._has_all = has_all
        self._as_of = as_of
        self._clock = clock
        self._wall = wall
        self._complete_at = clock()

    def seconds(self) -> float:
        """0 while it has every change; else since it was last seen to, or since when more may be on its way. Look often, so that this is true."""
        now, as_of = self._clock(), self._as_of()
        if self._has_all():
            self._complete_at = now
        return max(now - self._complete_at, 0.0 if as_of is None else self._wall() - as_of)

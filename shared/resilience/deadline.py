"""A point in time by which an answer must be there. On a monotonic clock, so that setting the wall clock moves none."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

_ROUNDING = 0.015

Clock = Callable[[], float]  # seconds from any fixed point, never going back


class HasTimeRemaining(Protocol):
    """What a deadline needs of `grpc.aio.ServicerContext`."""

    def time_remaining(self) -> float | None:
        """Seconds until the caller gives up; None if it never does."""


@dataclass(frozen=True, slots=True)
class Deadline:
    """When the time is over, in seconds on `clock`. Deadlines are compared only on the same clock."""

    at: float
    clock: Clock = field(default=time.monotonic, repr=False, compare=False)

    @classmethod
    def after(cls, seconds: float, clock: Clock = time.monotonic) -> Deadline:
        """The deadline that many seconds from now; a negative number gives one that is over."""
        return cls(clock() + seconds, clock)

    @classmethod
    def from_grpc(cls, context: HasTimeRemaining, *, default: float, cap: float, margin: float, clock: Clock = time.monotonic) -> Deadline:
        """The deadline of a request that is being served.

        Args:
            context: The servicer's context.
            default: Seconds for a client that set no deadline.
            cap: Seconds that a request gets at most.
            margin: Seconds kept back to send the answer in: an RPC's own deadline cancels the handler, so an answer must be there before it.
                Besides it, 1.5 % of the time is kept back, because gRPC rounds the client's timeout up, by as much as 1 %, to send it.
            clock: Where the time is read.
        """
        remaining = context.time_remaining()
        return cls.after(min(default if remaining is None else remaining * (1 - _ROUNDING), cap) - margin, clock)

    def remaining(self) -> float:
        """Seconds left; 0 when the time is over."""
        return max(0.0, self.at - self.clock())

    @property
    def expired(self) -> bool:
        """Whether the time is over."""
        return self.remaining() <= 0.0

    def within(self, cap: float) -> Deadline:
        """The earlier of this one and `cap` seconds from now: the time budget of one part of the work."""
        return Deadline(min(self.at, self.clock() + cap), self.clock)

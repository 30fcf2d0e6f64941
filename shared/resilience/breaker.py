"""A circuit breaker: after repeated failures a component is left alone, then tried with one call at a time.

                    `failure_threshold` failures within `window`
        CLOSED ───────────────────────────────────────────────▶ OPEN ◀──────────┐
           ▲                                                      │ `recovery`  │ the probe fails
           │                    the probe succeeds                ▼ is over     │
           └────────────────────────────────────────────────── HALF_OPEN ───────┘

While it is half-open exactly one call, the probe, holds a lease; all others are refused at once. A probe that is cancelled, or ends in an error
that is no failure, gives the lease back and the next call becomes the probe. A lease that is never given back expires.

Each transition and each probe begins a new era. A call belongs to the era in which it was let through, and its result counts only in that era: a
call that hung since before the breaker opened says nothing about now.
"""

from __future__ import annotations

import enum
import functools
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from math import inf
from typing import ParamSpec, TypeVar

import circuitbreaker

from shared.errors import CircuitOpenError, VectorStoreUnavailableError
from shared.observability import tracing
from shared.resilience.deadline import Clock

P = ParamSpec("P")
T = TypeVar("T")


class BreakerState(enum.StrEnum):
    """The values are those of the `circuitbreaker` library."""

    CLOSED = circuitbreaker.STATE_CLOSED
    OPEN = circuitbreaker.STATE_OPEN
    HALF_OPEN = circuitbreaker.STATE_HALF_OPEN


StateListener = Callable[[BreakerState, BreakerState], None]  # old and new state
RejectionListener = Callable[[], None]

NO_TIME = "NO_TIME"  # reason of the error when the time given does not do for an attempt
TOO_HASTY = "TOO_HASTY"  # reason of the error when an attempt ran out of a time that was too short to tell anything
HURRIED = frozenset({NO_TIME, TOO_HASTY})


def vector_store_failed(error: BaseException) -> bool:
    """Whether an error speaks against the vector store: it did not answer, though it was given time to.

    Neither its refusals nor an open circuit do, nor a caller in such a hurry that its time was over before anybody could have answered.
    """
    return isinstance(error, VectorStoreUnavailableError) and not isinstance(error, CircuitOpenError) and error.reason not in HURRIED


class Breaker(circuitbreaker.CircuitBreaker):  # type: ignore[misc] # circuitbreaker ships no types
    """The breaker of one component, for coroutine functions, in one event loop.

    The library's own breaker counts failures in a row, lets every waiting call through when it is half-open, and takes a cancelled probe for a
    success; so how it counts and admits is replaced here.

    Args:
        name: What is called through it.
        failure_threshold: Failures that open it.
        window: Seconds within which they must fall.
        recovery_timeout: Seconds that it stays open.
        probe_lease: Seconds after which a probe counts as lost. Longer than the time limit of any call through it.
        is_failure: Which errors count; all others, and cancellation, are neutral.
        clock: Monotonic seconds.
        on_state_change: Called after each transition; must not raise. HALF_OPEN is announced when the first probe is let through.
        on_rejection: Called for each call that is refused; must not raise.
    """

    def __init__(  # noqa: PLR0913 - thresholds and listeners, all by name and with defaults
        self,
        name: str = "chromadb",
        *,
        failure_threshold: int = 5,
        window: float = 60.0,
        recovery_timeout: float = 30.0,
        probe_lease: float = 30.0,
        is_failure: Callable[[BaseException], bool] = vector_store_failed,
        clock: Clock = time.monotonic,
        on_state_change: Sequence[StateListener] = (),
        on_rejection: Sequence[RejectionListener] = (),
    ) -> None:
        super().__init__(failure_threshold, recovery_timeout, lambda _type, error: is_failure(error), name)
        self._window = window
        self._probe_lease = probe_lease
        self._clock = clock
        self._state_listeners = tuple(on_state_change)
        self._rejection_listeners = tuple(on_rejection)
        self._announced = BreakerState.CLOSED
        self._failure_times: deque[float] = deque(maxlen=failure_threshold)
        self._era = 0
        self._open_until = -inf
        self._lease_until = -inf
        self._since = datetime.now(UTC)
        self._rejections = 0

    async def call_async(self, func: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
        """Calls the function if the breaker lets it. Raises CircuitOpenError at once if not, and whatever the function raises."""
        era = self._admit()
        try:
            result = await func(*args, **kwargs)
        except Exception as error:
            if self.is_failure(type(error), error):
                self._failed(era)
            else:
                self._neutral(era)
            raise
        except BaseException:
            self._neutral(era)
            raise
        self._succeeded(era)
        return result

    def decorate(self, function: Callable[P, Awaitable[T]]) -> Callable[P, Awaitable[T]]:
        """The coroutine function behind this breaker; what `@breaker` does."""

        @functools.wraps(function)
        async def guarded(*args: P.args, **kwargs: P.kwargs) -> T:
            return await self.call_async(function, *args, **kwargs)

        return guarded

    def __enter__(self) -> None:
        raise TypeError("this breaker guards coroutine functions alone, through call_async or as a decorator")

    def reset(self) -> None:
        """Closes it and forgets the failures."""
        self._failure_times.clear()
        self._change(BreakerState.CLOSED)

    @property
    def state(self) -> BreakerState:
        """The state now: HALF_OPEN as soon as the time of being open is over, also before a probe."""
        if self._announced is BreakerState.OPEN and self._clock() >= self._open_until:
            return BreakerState.HALF_OPEN
        return self._announced

    @property
    def failures(self) -> int:
        """Failures within the window that ends now; those that opened it are kept until it closes."""
        if self._announced is not BreakerState.CLOSED:
            return len(self._failure_times)
        oldest = self._clock() - self._window
        return sum(moment >= oldest for moment in self._failure_times)

    @property
    def rejections(self) -> int:
        """Calls that were refused since it was made."""
        return self._rejections

    @property
    def since(self) -> datetime:
        """Since when (UTC) it is closed, or, open or half-open, since when it is not closed: when the outage was noticed."""
        return self._since

    @property
    def retry_after(self) -> float:
        """Seconds until a call can be let through: until the end of being open or, at the latest, of the probe's lease. 0 if now."""
        if self._announced is BreakerState.CLOSED:
            return 0.0
        return max(0.0, max(self._open_until, self._lease_until) - self._clock())

    @property
    def failure_count(self) -> int:
        """The library's name of `failures`."""
        return self.failures

    @property
    def open_remaining(self) -> float:
        """The library's name of `retry_after`."""
        return self.retry_after

    @property
    def open_until(self) -> datetime:
        """When `retry_after` is over, UTC."""
        return datetime.now(UTC) + timedelta(seconds=self.retry_after)

    def _admit(self) -> int:
        """The era of a call that is let through; its result is handed in with it."""
        if self._announced is BreakerState.CLOSED:
            return self._era
        if (wait := self.retry_after) > 0.0:
            self._rejections += 1
            for listener in self._rejection_listeners:
                listener()
            tracing.event("breaker.rejected", {"kb.breaker": str(self.name), "kb.breaker.retry_after_seconds": wait})
            raise CircuitOpenError("The vector store failed repeatedly and is left alone for now.", retry_after=wait)
        self._lease_until = self._clock() + self._probe_lease
        self._change(BreakerState.HALF_OPEN)
        return self._era

    def _succeeded(self, era: int) -> None:
        if era == self._era and self._announced is not BreakerState.CLOSED:
            self.reset()

    def _failed(self, era: int) -> None:
        if era != self._era:
            return
        now = self._clock()
        self._failure_times.append(now)
        full = len(self._failure_times) == self._failure_times.maxlen
        if self._announced is BreakerState.HALF_OPEN or (full and now - self._failure_times[0] <= self._window):
            self._open_until = now + self._recovery_timeout
            self._change(BreakerState.OPEN)

    def _neutral(self, era: int) -> None:
        if era == self._era:
            self._lease_until = -inf

    def _change(self, new: BreakerState) -> None:
        """Begins a new era, in another state or with another probe."""
        old, self._announced = self._announced, new
        self._era += 1
        if new is not BreakerState.HALF_OPEN:
            self._lease_until = -inf
        if old is new:
            return
        if BreakerState.CLOSED in {old, new}:
            self._since = datetime.now(UTC)
        for listener in self._state_listeners:
            listener(old, new)

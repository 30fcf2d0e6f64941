"""Retries of calls that may be repeated: few, with growing waits, never past the deadline, and only a share of the traffic.

Attempts and waits are tenacity's. The budget is Finagle's (`RetryBudget`): a fifth of the requests, plus a few a second for quiet times, so that
an outage cannot multiply the load on what is already in trouble.
"""

from __future__ import annotations

import asyncio
import enum
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import tenacity

from shared.errors import KnowledgeBeastError
from shared.observability import tracing
from shared.resilience.breaker import vector_store_failed
from shared.resilience.deadline import Clock, Deadline
from shared.resilience.effort import note_retry

T = TypeVar("T")


class RetryOutcome(enum.StrEnum):
    """How a call with retries ended."""

    SUCCEEDED = "succeeded"  # at the first attempt
    RECOVERED = "recovered"  # at a later one
    NOT_RETRYABLE = "not_retryable"  # an error for which another attempt makes no sense
    ATTEMPTS_SPENT = "attempts_spent"
    NO_TIME = "no_time"  # the next wait would have passed the deadline
    NO_BUDGET = "no_budget"
    CANCELLED = "cancelled"


def _note(state: tenacity.RetryCallState) -> None:
    """Says on the running span that a call will be made again, after how long, and why."""
    note_retry()
    error = state.outcome.exception() if state.outcome is not None else None
    reason = error.reason if isinstance(error, KnowledgeBeastError) else type(error).__name__
    tracing.event("retry", {"kb.retry.attempt": state.attempt_number + 1, "kb.retry.wait_seconds": state.upcoming_sleep, "error.type": reason})


class RetryBudget:
    """A bucket of retries that all callers share. It starts full, holds `capacity` at most, and belongs to one event loop.

    Args:
        ratio: Retries that each request adds.
        per_second: Retries that each second adds.
        capacity: Retries that can be saved up; the default is ten seconds of `per_second`, as in Finagle.
        clock: Monotonic seconds.
    """

    def __init__(self, *, ratio: float = 0.2, per_second: float = 10.0, capacity: float = 100.0, clock: Clock = time.monotonic) -> None:
        self._ratio = ratio
        self._per_second = per_second
        self._capacity = capacity
        self._clock = clock
        self._tokens = capacity
        self._filled = clock()

    def deposit(self) -> None:
        """Notes a request."""
        self._fill()
        self._tokens = min(self._capacity, self._tokens + self._ratio)

    def withdraw(self) -> bool:
        """Takes one retry, if there is one."""
        self._fill()
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True

    @property
    def available(self) -> float:
        """Retries that can be made now. Changes nothing, so another thread may read it."""
        return self._at(self._clock())

    def _at(self, now: float) -> float:
        return min(self._capacity, self._tokens + (now - self._filled) * self._per_second)

    def _fill(self) -> None:
        """Adds what time has brought."""
        now = self._clock()
        self._tokens, self._filled = self._at(now), now


class RetryPolicy:
    """When to try again. Holds no state of a call, so one serves all.

    Args:
        attempts: Calls at most, the first included.
        initial: Seconds before the second attempt.
        multiplier: Each further wait is this many times as long.
        max_wait: Seconds that a wait lasts at most, jitter included.
        jitter: Up to this many random seconds are added to a wait, so that callers that failed together do not come back together; None is half of
            `initial`.
        is_retryable: Which errors are worth another attempt. The default leaves out an open circuit and refusals.
        on_outcome: Called at the end of each call with the number of attempts; must not raise.
        sleep: How to wait; takes seconds.
    """

    def __init__(
        self,
        *,
        attempts: int = 3,
        initial: float = 1.0,
        multiplier: float = 2.0,
        max_wait: float = 10.0,
        jitter: float | None = None,
        is_retryable: Callable[[BaseException], bool] = vector_store_failed,
        on_outcome: Callable[[RetryOutcome, int], None] = lambda _outcome, _attempts: None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._initial = initial
        self._stop_after = tenacity.stop_after_attempt(attempts)
        self._wait = tenacity.wait_exponential_jitter(
            multiplier=initial, max=max_wait, exp_base=multiplier, jitter=initial / 2 if jitter is None else jitter
        )
        self._is_retryable = is_retryable
        self._on_outcome = on_outcome
        self._sleep = sleep

    async def call(self, function: Callable[[], Awaitable[T]], *, deadline: Deadline, budget: RetryBudget) -> T:
        """Calls the function until it succeeds or another attempt is not worth it or not allowed; then its last error is raised.

        `deadline` bounds the waits; the time of each attempt is the function's own matter.
        """
        budget.deposit()
        if deadline.remaining() <= self._initial:
            return await self._call_once(function)
        outcome = RetryOutcome.NOT_RETRYABLE
        attempts = 0

        def stop(state: tenacity.RetryCallState) -> bool:
            nonlocal outcome
            if self._stop_after(state):
                outcome = RetryOutcome.ATTEMPTS_SPENT
            elif state.upcoming_sleep >= deadline.remaining():  # tenacity's stop_before_delay, on the deadline's clock
                outcome = RetryOutcome.NO_TIME
            elif not budget.withdraw():
                outcome = RetryOutcome.NO_BUDGET
            else:
                return False
            return True

        async def attempt() -> T:  # tenacity awaits coroutine functions alone; `function` may be any callable that returns an awaitable
            nonlocal attempts
            attempts += 1
            return await function()

        retrying = tenacity.AsyncRetrying(
            stop=stop,
            wait=self._wait,
            retry=tenacity.retry_if_exception(self._is_retryable),
            sleep=self._sleep,
            before_sleep=_note,
            reraise=True,
        )
        try:
            result: T = await retrying(attempt)
        except asyncio.CancelledError:
            outcome = RetryOutcome.CANCELLED
            raise
        else:
            outcome = RetryOutcome.SUCCEEDED if attempts == 1 else RetryOutcome.RECOVERED
            return result
        finally:
            self._on_outcome(outcome, attempts)

    async def _call_once(self, function: Callable[[], Awaitable[T]]) -> T:
        """The only attempt that there is time for. A search pays for it on every call, so it is made without tenacity (a tenth of a millisecond)."""
        try:
            result = await function()
        except asyncio.CancelledError:
            self._on_outcome(RetryOutcome.CANCELLED, 1)
            raise
        except BaseException as error:
            self._on_outcome(RetryOutcome.NO_TIME if self._is_retryable(error) else RetryOutcome.NOT_RETRYABLE, 1)
            raise
        self._on_outcome(RetryOutcome.SUCCEEDED, 1)
        return result

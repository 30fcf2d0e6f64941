"""The loop that background work runs in: do what there is, wait for more, survive failures."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from typing import TypeVar

from services.indexer.application.signals import Signals, wait
from shared.errors import CircuitOpenError, KnowledgeBeastError, UnavailableError, VectorStoreUnavailableError
from shared.observability.logging import get_logger
from shared.resilience.backoff import Backoff

T = TypeVar("T")

# A change that was not signalled (there is none known) would be picked up after this long.
_IDLE_SECONDS = 5.0
_BACKOFF = Backoff(initial=0.2, maximum=10.0)

_log = get_logger(__name__)


async def for_each(items: Sequence[T], work: Callable[[T], Awaitable[object]], named: Callable[[T], Mapping[str, str]]) -> None:
    """Does the work for every item, one after another; an item that fails does not keep the others waiting.

    `named` is what a line of the log calls an item.

    If all failed, the first failure is raised, so that the caller backs off; else failures are logged, and the items have their turn again in
    the next round. What the others would meet too is raised at once: an open breaker, a model that is missing. A vector store that does not answer
    may be one damaged collection, so the others have their turn; if it is down, the breaker opens after a few of them.
    """
    failures: list[KnowledgeBeastError] = []
    for item in items:
        try:
            await work(item)
        except KnowledgeBeastError as error:
            if isinstance(error, CircuitOpenError) or (isinstance(error, UnavailableError) and not isinstance(error, VectorStoreUnavailableError)):
                raise
            _log.warning("work on a project failed, will retry", **named(item), reason=error.reason, error=error.message)
            failures.append(error)
    if failures and len(failures) == len(items):
        raise failures[0]


class Worker:
    """Calls `step` until it has nothing left to do, then waits for the subject or for `idle_seconds`; backs off while it fails.

    `step` returns whether there may be more to do; it is called first after `delay` seconds. `failures` counts the failures in a row.
    """

    def __init__(
        self,
        name: str,
        step: Callable[[], Awaitable[bool]],
        signals: Signals,
        subject: Hashable,
        *,
        delay: float = 0.0,
        idle_seconds: float = _IDLE_SECONDS,
        on_failure: Callable[[], None] = lambda: None,
    ) -> None:
        self._name = name
        self._step = step
        self._signals = signals
        self._subject = subject
        self._delay = delay
        self._idle_seconds = idle_seconds
        self._on_failure = on_failure
        self.failures = 0

    async def run(self) -> None:
        """Runs until cancelled."""
        await asyncio.sleep(self._delay)
        while True:
            changed = self._signals.event(self._subject)
            try:
                more = await self._step()
            except KnowledgeBeastError as error:
                await self._back_off(error)
                continue
            if self.failures:
                _log.info("worker recovered", worker=self._name, failures=self.failures)
                self.failures = 0
            if not more:
                await wait(changed, self._idle_seconds)

    async def _back_off(self, error: KnowledgeBeastError) -> None:
        self.failures += 1
        self._on_failure()
        seconds = _BACKOFF.seconds(self.failures)
        # The first failure is news, the hundredth of the same outage is not.
        report = _log.warning if self.failures in {1, 10, 100} else _log.debug
        report(
            "worker failed, will retry",
            worker=self._name,
            failures=self.failures,
            retry_in_s=round(seconds, 2),
            reason=error.reason,
            error=error.message,
        )
        await asyncio.sleep(seconds)

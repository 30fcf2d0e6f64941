"""Single flight: identical calls that are under way at the same time share one computation.

The name is that of Go's `golang.org/x/sync/singleflight`. No dependency of this project has it, and `asyncio.shield` around a shared future does
not end a computation that nobody waits for any more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from shared.observability import metrics
from shared.resilience.admission import idle

KeyT = TypeVar("KeyT", bound=Hashable)
ValueT = TypeVar("ValueT")
ErrorT = TypeVar("ErrorT", bound=BaseException)


@dataclass(slots=True, eq=False)
class _Flight(Generic[ValueT]):
    """A computation and the number of those who wait for it."""

    task: asyncio.Task[ValueT]
    waiting: int = 0


class Flights(Generic[KeyT, ValueT]):
    """Computations that are under way, by key. Use it from one event loop.

    Nothing is kept of a computation that has ended, so there are never more entries than callers.
    """

    def __init__(self) -> None:
        self._flights: dict[KeyT, _Flight[ValueT]] = {}
        # A task that nobody waits for any more still has to run until it notices: the event loop alone does not keep it from being collected.
        self._tasks: set[asyncio.Task[ValueT]] = set()

    def __len__(self) -> int:
        """Keys whose computation is under way and waited for."""
        return len(self._flights)

    async def run(self, key: KeyT, make: Callable[[], Coroutine[Any, Any, ValueT]]) -> tuple[ValueT, bool]:
        """The value of `make()`, and whether it is that of an equal call which came before.

        The computation runs in a task of its own, with the context variables of the first caller. A caller that is cancelled leaves the others
        alone; when the last one leaves, the task is cancelled, and a later call begins anew. So does a caller whose computation was cancelled by
        somebody else.

        Raises what `make` raises: every caller a copy of its own, because raising one exception in many places mixes up their tracebacks.
        """
        while True:
            task, shared = await self._join(key, make)
            if not task.cancelled():
                break
        error = task.exception()
        if error is not None:
            raise _copy(error)
        return task.result(), shared

    async def _join(self, key: KeyT, make: Callable[[], Coroutine[Any, Any, ValueT]]) -> tuple[asyncio.Task[ValueT], bool]:
        """Waits for the computation under this key, which is begun unless one is under way; the task that has ended, and whether it was another's."""
        flight = self._flights.get(key)
        shared = flight is not None and not flight.task.done()
        if flight is None or not shared:
            flight = self._begin(key, make)
        else:
            metrics.SEARCHES_SHARED.inc()
        flight.waiting += 1
        try:
            # Whoever waits for another's computation does nothing; the one who began it is at work in it.
            with idle() if shared else nullcontext():
                await asyncio.wait((flight.task,))  # other than awaiting the task, this does not cancel it together with the caller
        finally:
            flight.waiting -= 1
            if not flight.waiting:
                self._forget(key, flight)
                flight.task.cancel()  # of no effect on a task that is done
        return flight.task, shared

    def _begin(self, key: KeyT, make: Callable[[], Coroutine[Any, Any, ValueT]]) -> _Flight[ValueT]:
        flight = _Flight(asyncio.create_task(make()))
        self._flights[key] = flight
        self._tasks.add(flight.task)
        flight.task.add_done_callback(self._ended)
        return flight

    def _forget(self, key: KeyT, flight: _Flight[ValueT]) -> None:
        """Drops a flight, unless another has taken its place."""
        if self._flights.get(key) is flight:
            del self._flights[key]

    def _ended(self, task: asyncio.Task[ValueT]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # looked at, so that the event loop does not report that of a task which everybody has left


def _copy(error: ErrorT) -> ErrorT:
    """An equal exception with the traceback and cause of the original. Constructors are left out: they may ask for more than `args` has."""
    twin = type(error).__new__(type(error), *error.args)
    twin.__dict__.update(error.__dict__)
    twin.__cause__, twin.__context__, twin.__suppress_context__ = error.__cause__, error.__context__, error.__suppress_context__
    return twin.with_traceback(error.__traceback__)

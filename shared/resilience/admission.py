"""Admission: so many at a time, the next few wait in a short queue, the rest is refused at once, so that what is admitted stays quick.

A service that takes more than it can do makes everybody wait, until nobody gets an answer in time. Refusing costs a twentieth of an answer, and the
client that is told when to come back can try another replica.

What counts is work in this process. A request that only waits for somebody else (a vector store that hangs, a write that it asked to see) says so
with `idle` and gives its place to another meanwhile: else a handful of waiting requests would keep out all those that could be answered.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from shared.errors import ResourceExhaustedError

OVERLOADED = "OVERLOADED"  # reason of the error when there is too much to do

# Requests that only wait, for each that works. Each holds some kilobytes; beyond it something is wrong that more of them would not mend.
_IDLE_FACTOR = 32
# Seconds after which a refused client may come back, spread so that those refused together do not come together.
_RETRY_AFTER = (0.5, 1.5)

_current: ContextVar[Ticket | None] = ContextVar("admission_ticket", default=None)


def retry_after() -> float:
    """Seconds after which somebody who is refused because there is too much to do may come back."""
    return random.uniform(*_RETRY_AFTER)  # noqa: S311 # spreads load, keeps no secret


@dataclass(frozen=True, slots=True)
class Limit:
    """How much is admitted.

    Attributes:
        concurrency: requests that work at a time.
        queue: requests that wait for a place at most.
        patience: seconds that one waits at most.
        yields: whether a request gives its place away while it is `idle`.
    """

    concurrency: int
    queue: int
    patience: float
    yields: bool = False


class Admission:
    """The places of one kind of work. Use it from one event loop."""

    def __init__(self, limit: Limit) -> None:
        self._limit = limit
        self._working = 0
        self._admitted = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def admitted(self) -> int:
        """Requests that were let in and have not ended, idle ones too."""
        return self._admitted

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return len(self._waiting)

    async def enter(self) -> Ticket:
        """Lets a request in, at once or when it is its turn; close the ticket when the request has ended.

        Raises ResourceExhaustedError (reason OVERLOADED) if the queue is full, or the request waited in it for too long.
        """
        if self._admitted + len(self._waiting) >= self._limit.concurrency * _IDLE_FACTOR:
            raise self._refusal()
        if self._working < self._limit.concurrency and not self._waiting:
            self._working += 1
        elif len(self._waiting) < self._limit.queue:
            await self._wait()
        else:
            raise self._refusal()
        self._admitted += 1
        return Ticket(self)

    async def _wait(self) -> None:
        place = asyncio.get_running_loop().create_future()
        self._waiting.append(place)
        try:
            await asyncio.wait((place,), timeout=self._limit.patience)
        except asyncio.CancelledError:
            if place.done():
                self.release()
            else:
                self._waiting.remove(place)
            raise
        if not place.done():
            self._waiting.remove(place)
            raise self._refusal()

    def resume(self) -> None:
        """An idle request works again: it does not queue a second time, so for a moment there may be more at work than the limit says."""
        self._working += 1

    def release(self) -> None:
        """A request has ended or is idle: its place goes to the first in the queue."""
        self._working -= 1
        while self._waiting and self._working < self._limit.concurrency:
            self._waiting.popleft().set_result(None)
            self._working += 1

    def leave(self) -> None:
        """A request has ended."""
        self._admitted -= 1

    @property
    def yields(self) -> bool:
        """Whether idle requests give their place away."""
        return self._limit.yields

    def _refusal(self) -> ResourceExhaustedError:
        return ResourceExhaustedError("too many requests at a time: retry, with growing pauses", retry_after=retry_after(), reason=OVERLOADED)


class Ticket:
    """What a request holds while it is let in."""

    __slots__ = ("_admission", "_idle", "_open")

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self._idle = 0
        self._open = True

    def close(self) -> None:
        """The request has ended."""
        self._open = False
        self._admission.leave()
        if not self._idle:
            self._admission.release()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Within, `idle` speaks of this ticket; closes it at the end."""
        token = _current.set(self)
        try:
            yield
        finally:
            _current.reset(token)
            self.close()

    @contextmanager
    def _away(self) -> Iterator[None]:
        """Gives the place away. Parts of a request may be away at the same time: the first to go gives it away, the last to come back takes one."""
        self._idle += 1
        if self._idle == 1:
            self._admission.release()
        try:
            yield
        finally:
            self._idle -= 1
            # A request may end before a part of it does, when others wait for that part, too.
            if not self._idle and self._open:
                self._admission.resume()

    @contextmanager
    def idle(self) -> Iterator[None]:
        """See the function of that name."""
        if not self._open or not self._admission.yields:
            yield
            return
        with self._away():
            yield


@contextmanager
def idle() -> Iterator[None]:
    """Within, the request that is being served only waits for somebody else. Of no effect where no request is served."""
    ticket = _current.get()
    if ticket is None:
        yield
        return
    with ticket.idle():
        yield

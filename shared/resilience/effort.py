"""What a piece of work has cost below the ports that it calls: waits of a pace, and calls that were made again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(slots=True)
class Effort:
    """Attributes are `paced`, seconds spent waiting for a pace, and `retries`, attempts beyond the first of each call."""

    paced: float = 0.0
    retries: int = 0


_current: ContextVar[Effort | None] = ContextVar("effort", default=None)


@contextmanager
def effort() -> Iterator[Effort]:
    """What is noted within the block, by the same task."""
    noted = Effort()
    token = _current.set(noted)
    try:
        yield noted
    finally:
        _current.reset(token)


def note_pace(seconds: float) -> None:
    """Somebody has waited for a pace."""
    noted = _current.get()
    if noted is not None:
        noted.paced += seconds


def note_retry() -> None:
    """A call is made again."""
    noted = _current.get()
    if noted is not None:
        noted.retries += 1

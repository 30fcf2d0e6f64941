"""Keeps what measures and traces from breaking what it measures: its errors are logged, each kind once, and go no further."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from prometheus_client import Gauge

from shared.observability.logging import get_logger

_told: Final[set[str]] = set()

_log: Final = get_logger(__name__)


@contextmanager
def guarded(what: str) -> Iterator[None]:
    """A block that tells of something, and has no say in it.

    Args:
        what: names the block in the log; a constant, because what has been logged is remembered by it.
    """
    try:
        yield
    except Exception:  # noqa: BLE001 - whatever a library raises; it is logged with its stack
        if what not in _told:
            _told.add(what)
            _log.exception("something could not be measured or traced; said once", what=what)


def read_at_scrape(gauge: Gauge, function: Callable[[], float]) -> None:
    """Has a gauge, one that has its labels, read whenever it is shown; it is NaN where that fails, which would else cost the whole scrape."""
    name = next(iter(gauge.describe())).name

    def value() -> float:
        with guarded(name):
            return function()
        return math.nan

    gauge.set_function(value)

"""Ctrl-C and its like, for commands that have something to put in order first."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def handled_signals(handler: Callable[[], None]) -> Iterator[None]:
    """Within it, Ctrl-C, SIGTERM and a closed terminal call `handler` in the running loop, instead of interrupting whatever runs."""
    loop = asyncio.get_running_loop()
    for number in _SIGNALS:
        loop.add_signal_handler(number, handler)
    try:
        yield
    finally:
        for number in _SIGNALS:
            loop.remove_signal_handler(number)

"""Finds an event loop that stands still, from a thread beside it."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Final

from shared.observability import metrics
from shared.observability.logging import get_logger

_log: Final = get_logger(__name__)

_LONGEST_BEAT: Final = 1.0  # seconds
_BEATS_A_STALL: Final = 4


class LoopWatchdog:
    """Has the loop beat, and looks from its own thread whether it does.

    Only time in which the thread itself ran is held against the loop: when the whole process stood still (SIGSTOP, a frozen machine), neither beat
    nor look happened, and the loop gets all of its time afterwards.

    Args:
        stall: seconds without a beat after which the loop counts as standing still.
        on_change: called from the thread with False when the loop stands still, with True when it runs again; must not raise.
    """

    def __init__(self, stall: float, on_change: Callable[[bool], None]) -> None:
        self._stall = stall
        self._on_change = on_change
        self._interval = min(_LONGEST_BEAT, stall / _BEATS_A_STALL)
        self._beats = 0
        self._next: asyncio.TimerHandle | None = None
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="loop-watchdog", daemon=True)

    def start(self) -> None:
        """Begins to watch the running loop; called in its thread."""
        self._loop = asyncio.get_running_loop()
        self._loop_thread = threading.get_ident()
        self._schedule()
        self._thread.start()

    def stop(self) -> None:
        """Ends the watch; called in the loop's thread. The watching thread ends within one look, and says nothing more."""
        self._ending.set()
        if self._next is not None:
            self._next.cancel()

    def _schedule(self) -> None:
        due = self._loop.time() + self._interval
        self._next = self._loop.call_at(due, self._beat, due)

    def _beat(self, due: float) -> None:
        self._beats += 1
        metrics.EVENT_LOOP_DELAY.observe(max(0.0, self._loop.time() - due))  # asyncio may be early by its clock's resolution
        self._schedule()

    def _watch(self) -> None:
        seen, silent, looked, alive = self._beats, 0.0, time.monotonic(), True
        while not self._ending.wait(self._interval):
            now = time.monotonic()
            waited, looked = min(now - looked, 2 * self._interval), now
            if self._beats != seen:
                seen = self._beats
                if not alive:
                    alive = True
                    self._on_change(True)
                    _log.warning("the event loop runs again", stood_still_s=round(silent, 1))
                silent = 0.0
                continue
            silent += waited
            if alive and silent >= self._stall + self._interval:  # the last beat may have come just after the look before
                alive = False
                self._on_change(False)  # before the log: its stream may be what the loop waits for
                _log.error("the event loop stands still", for_s=round(silent, 1), stack=self._stack())

    def _stack(self) -> str:
        """Where the loop's thread is now."""
        frame = sys._current_frames().get(self._loop_thread)
        return "" if frame is None else "".join(traceback.format_stack(frame))

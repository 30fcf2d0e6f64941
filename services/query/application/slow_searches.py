"""Writes slow searches into the log, with where their time went and never what was asked."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from shared.domain import ProjectId
from shared.observability import metrics
from shared.observability.logging import get_logger
from shared.search import SearchAnswer, Timings

# Lines a second, and how many may come at once: in a bad minute every search is slow, and a thousand such lines say no more than a few.
_LINES_A_SECOND: Final = 2.0
_AT_ONCE: Final = 10

_STAGES: Final = ("wait", "embed", "vector", "keyword", "assemble", "rerank")

_log: Final = get_logger(__name__)


class SlowSearches:
    """Counts slow searches, and logs as many of them as a reader can use; the next line says how many were left out. Use it from one event loop.

    Args:
        threshold: seconds from which a search is slow; 0: none is.
        timer: the clock, in seconds.
    """

    def __init__(self, threshold: float, *, timer: Callable[[], float] = time.monotonic) -> None:
        self._threshold = threshold or float("inf")
        self._timer = timer
        self._room = float(_AT_ONCE)
        self._filled = timer()
        self._left_out = 0

    def note(self, method: str, project_id: ProjectId, answer: SearchAnswer, *, top_k: int, candidates: int | None, filtered: bool) -> None:
        """Looks at an answer that is about to be given.

        Args:
            method: what was called: `search` or `similar`.
            project_id: whose documents.
            answer: with its timings.
            top_k: hits that were wanted.
            candidates: of each leg; None where that is not asked for.
            filtered: whether there was a filter.
        """
        if answer.timings.total < self._threshold:
            return
        metrics.SLOW_SEARCHES.inc()
        if not self._may_write():
            self._left_out += 1
            return
        _log.warning(
            "slow search",
            method=method,
            project=project_id,
            mode=answer.mode.value,
            total_ms=_milliseconds(answer.timings.total),
            **_stages(answer.timings),
            cached=answer.cached,
            degraded=[degradation.reason.value for degradation in answer.degradations],
            top_k=top_k,
            candidates=candidates,
            filtered=filtered,
            left_out=self._left_out,
        )
        self._left_out = 0

    def _may_write(self) -> bool:
        now = self._timer()
        self._room = min(float(_AT_ONCE), self._room + (now - self._filled) * _LINES_A_SECOND)
        self._filled = now
        if self._room < 1:
            return False
        self._room -= 1
        return True


def _stages(timings: Timings) -> dict[str, float]:
    """The stages that the search had. They overlap, and `wait` is for freshness: they need not add up to the total."""
    spent = {name: getattr(timings, name) for name in _STAGES}
    return {f"{name}_ms": _milliseconds(seconds) for name, seconds in spent.items() if seconds is not None}


def _milliseconds(seconds: float) -> float:
    return round(seconds * 1e3, 3)

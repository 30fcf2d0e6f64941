"""Keeps the last whole answer to each question for when vectors cannot be searched, in a bounded number of bytes and for a bounded time.

Other than what `results.py` keeps, it outlives changes of the project: whoever takes one must check that what it says still stands. The answers are
the same objects that the result cache has, so what is in both is in memory once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from sys import getsizeof

from cachetools import TTLCache

from services.query.application.results import Question
from services.query.application.sizes import size_of
from shared.observability import metrics
from shared.search import Degradation, SearchAnswer, Timings

# Of an entry beside its question and its answer: the records of the cache, the key and the times, as measured with tracemalloc.
_ENTRY = 550


@dataclass(frozen=True, slots=True)
class LastAnswer:
    """An answer, and when it was found."""

    answer: SearchAnswer
    found_time: datetime

    def again(self, degradations: Sequence[Degradation], timings: Timings) -> SearchAnswer:
        """The answer as it is given in place of one that could not be had, with what is missing from it and where the time went."""
        return replace(self.answer, degradations=degradations, timings=timings, served_from_cache=True, found_time=self.found_time)


class LastAnswers:
    """The last answer by question; the least recently used make room for new ones. Use it from one event loop.

    Args:
        max_bytes: Bound of all answers, questions included; 0 keeps nothing.
        ttl: Seconds after which an answer is too old.
        timer: The clock, in seconds.
    """

    def __init__(self, max_bytes: int, ttl: float, *, timer: Callable[[], float] = time.monotonic) -> None:
        self._entries: TTLCache[Question, tuple[LastAnswer, int]] = TTLCache(max_bytes, ttl, timer, getsizeof=lambda entry: entry[1])
        metrics.LAST_ANSWERS_BYTES.set(0)

    @property
    def size_bytes(self) -> int:
        """Bytes that the answers take which are kept now, estimated."""
        return int(self._entries.currsize)

    def get(self, question: Question) -> LastAnswer | None:
        """The last answer, which counts as used now; None when there is none, or it is too old."""
        entry = self._entries.get(question)
        return None if entry is None else entry[0]

    def put(self, question: Question, answer: SearchAnswer) -> None:
        """Keeps an answer that was found now in place of the one before, unless it is alone larger than the bound."""
        size = _ENTRY + getsizeof(question.form) + size_of(answer)
        if size <= self._entries.maxsize:
            self._entries[question] = (LastAnswer(answer, datetime.now(UTC)), size)
            metrics.LAST_ANSWERS_BYTES.set(self.size_bytes)

    def drop(self, question: Question) -> None:
        """Forgets an answer that does not stand any more."""
        self._entries.pop(question, None)
        metrics.LAST_ANSWERS_BYTES.set(self.size_bytes)

"""The log of slow searches."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from services.query.application.slow_searches import SlowSearches
from shared.domain import ProjectId, SequenceNumber, VectorSequence
from shared.observability import logging, metrics
from shared.search import Degradation, DegradationReason, Freshness, SearchAnswer, SearchMode, Timings

Lines = Callable[[], list[dict[str, Any]]]
P = ProjectId("notes")
FRESHNESS = Freshness("e1", SequenceNumber(1), VectorSequence(1), SequenceNumber(1), None)


@pytest.fixture
def lines() -> Iterator[Lines]:
    """A function that returns the lines so far, as JSON."""
    stream = io.StringIO()
    logging.configure("query", "info", "json", stream=stream)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    logging.configure("tests")


class Clock:
    """Seconds, moved by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        """What `time.monotonic` would say."""
        return self.now


def answer(total: float, **timings: float) -> SearchAnswer:
    """A degraded answer that took so long."""
    missing = (Degradation(DegradationReason.VECTOR_STORE_UNAVAILABLE, "chromadb", "down", None),)
    return SearchAnswer((), SearchMode.HYBRID, missing, FRESHNESS, Timings(total=total, **timings))


def note(slow: SlowSearches, total: float, **timings: float) -> None:
    """Tells of a search that took so long."""
    slow.note("search", P, answer(total, **timings), top_k=7, candidates=100, filtered=True)


def count() -> float:
    """Slow searches so far."""
    return metrics.REGISTRY.get_sample_value("kb_slow_searches_total") or 0.0


def test_a_slow_search_is_one_line_with_its_stages(lines: Lines) -> None:
    """What took how long in milliseconds, what was asked for, what was missing; a stage that there was none of is not there."""
    before = count()
    slow = SlowSearches(0.5)
    note(slow, 0.4999)
    note(slow, 0.5, embed=0.01, vector=0.4, wait=0.05)
    (line,) = lines()
    assert (line["level"], line["event"], line["project"], line["mode"], line["method"]) == ("warning", "slow search", "notes", "hybrid", "search")
    assert {key: value for key, value in line.items() if key.endswith("_ms")} == {
        "total_ms": 500.0,
        "wait_ms": 50.0,
        "embed_ms": 10.0,
        "vector_ms": 400.0,
    }
    assert (line["cached"], line["degraded"], line["top_k"], line["candidates"], line["filtered"]) == (
        False,
        ["vector_store_unavailable"],
        7,
        100,
        True,
    )
    assert count() == before + 1


def test_a_slow_minute_does_not_fill_the_log(lines: Lines) -> None:
    """Ten lines at once and two a second after that; the next line says how many were left out, and all are counted."""
    before, clock = count(), Clock()
    slow = SlowSearches(0.1, timer=clock)
    for _ in range(1_000):
        note(slow, 1.0)
    assert [line["left_out"] for line in lines()] == [0] * 10
    clock.now += 0.5
    note(slow, 1.0)
    note(slow, 1.0)
    assert [line["left_out"] for line in lines()[10:]] == [990]
    clock.now += 3_600.0
    note(slow, 1.0)
    assert [line["left_out"] for line in lines()[11:]] == [1]
    assert count() == before + 1_003


def test_zero_switches_it_off(lines: Lines) -> None:
    """No search is slow then."""
    before = count()
    note(SlowSearches(0.0), 3_600.0)
    assert (lines(), count()) == ([], before)

"""Exemplars: the trace that one observation of a histogram came from, so that a point on a chart leads to a request.

Only traces that are recorded are named: another one could be found nowhere.
"""

from __future__ import annotations

import re
import time
from types import TracebackType
from typing import Final

from opentelemetry import trace
from prometheus_client import Histogram

from shared.domain import TraceContext

# A `traceparent` whose flags, the last two digits, are odd: https://www.w3.org/TR/trace-context/#sampled-flag
_RECORDED: Final = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f][13579bdf](?:-.*)?")


def current() -> dict[str, str] | None:
    """The trace that runs now; None if it is not recorded."""
    return of_span(trace.get_current_span())


def of_span(span: trace.Span) -> dict[str, str] | None:
    """The trace of a span; None if it is not recorded."""
    context = span.get_span_context()
    return {"trace_id": format(context.trace_id, "032x")} if context.trace_flags.sampled else None


def of(context: TraceContext) -> dict[str, str] | None:
    """The trace of the request that `context` names; None if it is not recorded, or the header is malformed."""
    match = _RECORDED.fullmatch(context.traceparent)
    return {"trace_id": match[1]} if match else None


class Timed:
    """A block whose seconds are observed, with the trace that it runs in. Also one that raises counts: its caller waited, too.

    Args:
        histogram: one that has its labels.
    """

    __slots__ = ("_histogram", "_started")

    def __init__(self, histogram: Histogram) -> None:
        self._histogram = histogram

    def __enter__(self) -> None:
        self._started = time.perf_counter()

    def __exit__(self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None) -> None:
        self._histogram.observe(time.perf_counter() - self._started, current())

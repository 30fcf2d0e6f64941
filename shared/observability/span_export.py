"""Hands finished spans to a trace collector from a thread of its own, in bounded memory and time, and counts those that are lost.

In place of the SDK's BatchSpanProcessor, which logs from the request's thread when its queue is full, does not say how many spans it lost, and waits
30 seconds at the end for a collector that hangs (docs/adr/0020-spans-of-a-write.md).
"""

from __future__ import annotations

import threading
from collections import deque
from contextlib import suppress
from typing import Final

from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from shared.observability import metrics
from shared.observability.logging import get_logger

# Spans that wait at most: 6 MB, as a search makes them.
_QUEUE: Final = 2_048
# Spans an export: encoding them takes some ten milliseconds, in which the event loop competes for the interpreter.
_BATCH: Final = 256
# Seconds that a span waits at most to be exported with others.
_DELAY: Final = 1.0
# Seconds at the end in which what waits is exported, and after which an export that hangs is given up.
_DRAIN: Final = 2.0
_GIVE_UP: Final = 1.0

_EXPORTED: Final = metrics.SPANS_EXPORTED
_QUEUE_FULL: Final = metrics.SPANS_DROPPED.labels("queue_full")
_EXPORT_FAILED: Final = metrics.SPANS_DROPPED.labels("export_failed")

_log = get_logger(__name__)


class SpanExport(SpanProcessor):
    """Queues spans for an exporter. Ending a span never waits: what does not fit into the queue is dropped and counted.

    Args:
        exporter: Takes batches; has a time limit of its own. It belongs to the thread from now on.
        queue: Spans that wait at most.
    """

    def __init__(self, exporter: SpanExporter, *, queue: int = _QUEUE) -> None:
        self._exporter = exporter
        self._limit = queue
        self._queue: deque[ReadableSpan] = deque()
        self._wake = threading.Event()
        self._closing = False  # the thread ends when nothing waits
        self._closed = False  # nobody exports any more
        self._failing = False
        self._thread = threading.Thread(target=self._run, name="span-export", daemon=True)
        self._thread.start()

    def on_end(self, span: ReadableSpan) -> None:
        """Queues a span. May be called by any thread; a few that come at once may pass the limit together."""
        if len(self._queue) >= self._limit:
            _QUEUE_FULL.inc()
            return
        self._queue.append(span)
        if self._closed:
            self._give_up()
        elif len(self._queue) >= _BATCH and not self._wake.is_set():
            self._wake.set()

    def shutdown(self) -> None:
        """Exports what waits, for 2 seconds, and gives up an export that hangs after that: blocks for 3 seconds at most."""
        self._closing = True
        self._wake.set()
        self._thread.join(_DRAIN)
        self._exporter.shutdown()  # ends a call that hangs; those that would follow fail at once
        self._thread.join(_GIVE_UP)
        self._closed = True
        self._give_up()

    def _run(self) -> None:
        while not self._closing:
            self._wake.wait(_DELAY)
            self._wake.clear()
            while spans := self._take():
                self._export(spans)

    def _take(self) -> list[ReadableSpan]:
        """The spans that have waited longest, a batch at most. Others may take some meanwhile."""
        spans: list[ReadableSpan] = []
        with suppress(IndexError):
            while len(spans) < _BATCH:
                spans.append(self._queue.popleft())
        return spans

    def _give_up(self) -> None:
        while spans := self._take():
            _EXPORT_FAILED.inc(len(spans))

    def _export(self, spans: list[ReadableSpan]) -> None:
        try:
            taken = self._exporter.export(spans) is SpanExportResult.SUCCESS
        except Exception:  # noqa: BLE001 - a thread that ends in silence would lose all later spans
            _log.exception("spans could not be exported", spans=len(spans))
            taken = False
        (_EXPORTED if taken else _EXPORT_FAILED).inc(len(spans))
        # Said when it changes, not with every batch.
        if taken and self._failing:
            _log.info("the trace collector takes spans again")
        elif not taken and not self._failing and not self._closing:
            _log.warning("the trace collector takes no spans: they are dropped and counted until it does", spans=len(spans))
        self._failing = not taken

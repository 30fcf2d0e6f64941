"""Spans on their way to a collector: each that ends is exported or counted as lost, whatever happens at the end."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from shared.observability import metrics
from shared.observability.span_export import SpanExport

SPAN = ReadableSpan("work")


class Exporter(SpanExporter):
    """Takes everything, unless it is held: then it hangs until it is let go, whoever shuts it down."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.answers = threading.Event()
        self.answers.set()
        self.taken = 0
        self.at_shutdown: Callable[[], None] = lambda: None

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """See SpanExporter."""
        self.taken += len(spans)
        self.asked.set()
        self.answers.wait()
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        """See SpanExporter."""
        self.at_shutdown()


def exported() -> float:
    """Spans so far that an exporter took."""
    return metrics.REGISTRY.get_sample_value("kb_spans_exported_total") or 0.0


def lost() -> float:
    """Spans so far that none took."""
    return metrics.REGISTRY.get_sample_value("kb_spans_dropped_total", {"reason": "export_failed"}) or 0.0


def test_what_ends_while_the_service_does_is_exported_or_lost() -> None:
    """What waits is exported; what ends when nobody exports any more, before the shutdown is over or after that, is counted."""
    before, exporter = (exported(), lost()), Exporter()
    export = SpanExport(exporter)
    exporter.at_shutdown = lambda: export.on_end(SPAN)
    for _ in range(600):
        export.on_end(SPAN)
    export.shutdown()
    assert (exported(), lost()) == (before[0] + 600, before[1] + 1)
    export.on_end(SPAN)
    assert (exported(), lost()) == (before[0] + 600, before[1] + 2)


def test_what_waits_behind_an_export_that_hangs_for_ever_is_lost() -> None:
    """The one batch that the exporter has is its own matter; the others are counted when the shutdown has waited long enough."""
    before, exporter = lost(), Exporter()
    exporter.answers.clear()
    export = SpanExport(exporter)
    for _ in range(600):
        export.on_end(SPAN)
    assert exporter.asked.wait(10)
    export.shutdown()
    assert lost() == before + 600 - exporter.taken
    exporter.answers.set()

"""Which spans are made."""

from __future__ import annotations

from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, ParentBased, Sampler

from shared.observability import tracing


def tracer(root: Sampler) -> tuple[tracing.Tracer, InMemorySpanExporter]:
    """A tracer whose traces are recorded as `root` decides, and what it has recorded."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(sampler=ParentBased(root), shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return tracing.get_tracer("tests", provider), exporter


def test_spans_of_a_recorded_trace_are_children_of_one_another() -> None:
    """Inside a recorded span each block is a span of its own, with its attributes, as its current one."""
    making, exporter = tracer(ALWAYS_ON)
    with making.start_as_current_span("outer") as outer, making.start_as_current_span("inner", attributes={"a": 1}) as inner:
        assert trace.get_current_span() is inner
    first, second = exporter.get_finished_spans()
    assert (first.name, dict(first.attributes or {}), second.name) == ("inner", {"a": 1}, "outer")
    assert first.parent is not None
    assert first.parent.span_id == outer.get_span_context().span_id


def test_a_trace_that_is_not_recorded_has_one_span() -> None:
    """Its outermost span has ids, for logs and for what is called; blocks inside it run in that span."""
    making, exporter = tracer(ALWAYS_OFF)
    with making.start_as_current_span("outer") as outer, making.start_as_current_span("inner", attributes={"a": 1}) as inner:
        assert inner is outer is trace.get_current_span()
        assert outer.get_span_context().is_valid
        carrier: dict[str, str] = {}
        tracing.inject(carrier)
    assert carrier["traceparent"].startswith(f"00-{outer.get_span_context().trace_id:032x}-{outer.get_span_context().span_id:016x}-")
    assert exporter.get_finished_spans() == ()


def test_blocks_after_a_span_have_a_trace_of_their_own() -> None:
    """The end of a span ends its trace, recorded or not."""
    making, _ = tracer(ALWAYS_OFF)
    with making.start_as_current_span("one") as one:
        pass
    with making.start_as_current_span("two") as two:
        assert two.get_span_context().trace_id != one.get_span_context().trace_id

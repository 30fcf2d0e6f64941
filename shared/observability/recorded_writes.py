"""What the trace of a write is told once the request is over: when its documents were where, in spans that begin with their commit."""

from __future__ import annotations

from dataclasses import dataclass

from opentelemetry.trace import Link, Span

from shared.domain import SequenceNumber, TraceContext
from shared.observability import tracing
from shared.observability.guarded import guarded


@dataclass(frozen=True, slots=True)
class RecordedWrite:
    """A request that changed documents and whose trace is recorded.

    Attributes:
        trace: Of the request.
        commit_time: Of the first of the documents, in seconds since 1970.
        sequence: Of the last of the documents.
        documents: How many of them are meant.
    """

    trace: TraceContext
    commit_time: float
    sequence: SequenceNumber
    documents: int


def tell(tracer: tracing.Tracer, name: str, write: RecordedWrite, now: float, batch: Span, attributes: dict[str, str | int | float]) -> None:
    """Adds a span to the trace of a write: what is `now` (seconds since 1970), with a link to `batch`, the span of the work. Raises nothing."""
    context = batch.get_span_context()
    links = [Link(context)] if context.trace_flags.sampled else []
    of_write = {"kb.sequence": int(write.sequence), "kb.documents": write.documents}
    with guarded(name):
        tracer.record(name, tracing.parent(write.trace), write.commit_time, now, {**attributes, **of_write}, links)

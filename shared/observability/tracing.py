"""Traces: an OpenTelemetry SDK provider in every process, so that each request has a trace id in its logs; exported only with an endpoint.

The trace context travels as W3C `traceparent` and `tracestate` (https://www.w3.org/TR/trace-context/); baggage is not passed on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import Any, Final

from opentelemetry import context as otel_context
from opentelemetry import propagate, trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import SERVICE_INSTANCE_ID, SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import SpanLimits, TracerProvider
from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import Attributes

from shared.domain import TraceContext
from shared.errors import KnowledgeBeastError
from shared.observability.sampling import sampler
from shared.observability.span_export import SpanExport
from shared.version import VERSION

# Requests that a span of work for several of them is linked to at most.
MAX_LINKS: Final = 16

_PROPAGATOR: Final = TraceContextTextMapPropagator()
_EXPORT_TIMEOUT: Final = 5.0  # seconds that one export may take, its repetitions included
# What a span may hold, so that those that wait to be exported are bounded in memory.
_LIMITS: Final = SpanLimits(
    max_attributes=64, max_events=64, max_links=MAX_LINKS, max_event_attributes=16, max_link_attributes=4, max_attribute_length=2_000
)
_ODD: Final = frozenset("13579bdf")

_provider: TracerProvider | None = None


def configure(service: str, endpoint: str = "", sample_ratio: float = 0.01, *, instance: str = "") -> TracerProvider:
    """Installs the provider of this process; a second call changes nothing, because OpenTelemetry allows one provider a process.

    Args:
        service: `service.name` of the spans.
        endpoint: OTLP/gRPC collector; `https://` is TLS, `http://` or a bare `host:port` is plaintext. Empty: nothing is exported.
        sample_ratio: share of new traces that are recorded, 0 to 1. A trace that came in recorded stays so. Without an endpoint no new
            trace is recorded; it still has an id.
        instance: `service.instance.id`, for example the address that the service listens on.
    """
    global _provider  # noqa: PLW0603 - OpenTelemetry's provider is global to the process
    if _provider is not None:
        return _provider
    propagate.set_global_textmap(_PROPAGATOR)
    attributes = {SERVICE_NAME: service, SERVICE_VERSION: VERSION, **({SERVICE_INSTANCE_ID: instance} if instance else {})}
    provider = TracerProvider(
        sampler=sampler(sample_ratio if endpoint else 0.0),
        resource=Resource.create(attributes),
        shutdown_on_exit=False,  # `shutdown` is a stage of the service's own end
        span_limits=_LIMITS,
    )
    if endpoint:
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter  # noqa: PLC0415 - a third of a second, seldom needed

        exporter = OTLPSpanExporter(endpoint=endpoint, insecure=not endpoint.startswith("https://"), timeout=_EXPORT_TIMEOUT)
        provider.add_span_processor(SpanExport(exporter))
    trace.set_tracer_provider(provider)
    _provider = provider
    return provider


def shutdown() -> None:
    """Exports what is waiting and stops. Blocks for 3 seconds at most: call it through `asyncio.to_thread`."""
    if _provider is not None:
        _provider.shutdown()


class Tracer:
    """Starts spans, but none within a span that is not recorded.

    The sampler decides for whole traces (`ParentBased`), so such a span would not be recorded either; making it all the same costs several
    times what a search can spare, and nothing would ever show it. Inside a request that is not recorded, the span's id in logs is the request's.

    Attributes that cost something to make belong behind `if span.is_recording()`.
    """

    def __init__(self, inner: trace.Tracer) -> None:
        self._inner = inner

    def start_span(self, name: str, context: Context | None = None, kind: SpanKind = SpanKind.INTERNAL) -> Span:
        """A span that the caller ends; `context` has its parent, None is what runs now. It is made in any case, so that a request has ids."""
        return self._inner.start_span(name, context, kind)

    def start_as_current_span(
        self,
        name: str,
        *,
        kind: SpanKind = SpanKind.INTERNAL,
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,
        end_on_exit: bool = True,
        **_options: Any,  # noqa: ANN401 - what else OpenTelemetry's method of this name takes: how errors are recorded, which is `record_error`'s here
    ) -> AbstractContextManager[Span]:
        """Runs the block in a span, a child of what runs now; in what runs now if that is not recorded. Records an error that leaves the block."""
        current = trace.get_current_span()
        if not current.is_recording() and current.get_span_context().is_valid:
            return nullcontext(current)
        return _Running(self._inner.start_span(name, None, kind, attributes, links), end_on_exit=end_on_exit)

    def record(
        self, name: str, parent: Context, start: float, end: float, attributes: Attributes, links: Sequence[Link] | None = None, *, error: str = ""
    ) -> None:
        """A span of something that is over already.

        Args:
            name: of the span.
            parent: has its parent.
            start: seconds since 1970.
            end: the same; before `start` it counts as `start`, because clocks of different machines differ.
            attributes: of the span.
            links: of the span.
            error: what went wrong, in one word; empty if nothing did.
        """
        span = self._inner.start_span(name, parent, attributes=attributes, links=links, start_time=int(start * 1e9))
        if error:
            span.set_attribute("error.type", error)
            span.set_status(Status(StatusCode.ERROR, error))
        span.end(int(max(start, end) * 1e9))


class _Running(AbstractContextManager[Span]):
    """A span that is the current one within the block."""

    __slots__ = ("_end_on_exit", "_span", "_token")

    def __init__(self, span: Span, *, end_on_exit: bool) -> None:
        self._span = span
        self._end_on_exit = end_on_exit

    def __enter__(self) -> Span:
        self._token = otel_context.attach(trace.set_span_in_context(self._span))
        return self._span

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        otel_context.detach(self._token)
        if error is not None:
            record_error(self._span, error)
        if self._end_on_exit:
            self._span.end()


def get_tracer(name: str, provider: trace.TracerProvider | None = None) -> Tracer:
    """A tracer; `name` is usually `__name__`. It may be made before `configure`. `provider` replaces that of the process."""
    return Tracer(trace.get_tracer(name, VERSION, provider))


def record_error(span: Span, error: BaseException) -> None:
    """Notes on a span that is running what went wrong: the kind of error alone, because messages and stacks may quote texts. Those are in the log.

    A span that was cancelled is no error: nobody waited for it any more.
    """
    if not span.is_recording():
        return
    if not isinstance(error, Exception):
        span.set_attribute("kb.cancelled", value=True)
        return
    summary = error.reason if isinstance(error, KnowledgeBeastError) else _name(error)
    span.add_event("exception", {"exception.type": _name(error)})
    span.set_attribute("error.type", summary)
    span.set_status(Status(StatusCode.ERROR, summary))


def note_error(error: Exception) -> None:
    """Notes on the running span, if that is recorded, which error the caller makes an answer of. That the span failed is not said by that."""
    event("exception", {"exception.type": _name(error)})
    if isinstance(error, KnowledgeBeastError):
        attribute("kb.reason", error.reason)


def _name(error: BaseException) -> str:
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def attribute(name: str, value: str | int | float | bool) -> None:
    """Sets an attribute of the running span, if that is recorded."""
    span = trace.get_current_span()
    if span.is_recording():
        span.set_attribute(name, value)


def event(name: str, attributes: Mapping[str, str | int | float | bool]) -> None:
    """Notes something on the running span, if that is recorded."""
    span = trace.get_current_span()
    if span.is_recording():
        span.add_event(name, attributes)


def current() -> TraceContext:
    """The trace context of the running request; empty when it is not traced."""
    if not trace.get_current_span().get_span_context().is_valid:
        return TraceContext()
    carrier: dict[str, str] = {}
    _PROPAGATOR.inject(carrier)
    return TraceContext(carrier.get("traceparent", ""), carrier.get("tracestate", ""))


def is_recorded(context: TraceContext) -> bool:
    """Whether the request that `context` names is in a trace that is recorded."""
    # The last digit first, which is cheap: of an odd one the lowest flag is set, "sampled".
    return context.traceparent[-1:] in _ODD and _span_context(context).trace_flags.sampled


def link(context: TraceContext) -> Link | None:
    """A link to the request that `context` names; None when that was not traced, or the header is malformed."""
    span = _span_context(context)
    return Link(span) if span.is_valid else None


def links(contexts: Iterable[TraceContext]) -> list[Link]:
    """Links to different requests, at most 16."""
    found = (link(context) for context in dict.fromkeys(contexts) if context.traceparent)
    return [each for each in found if each is not None][:MAX_LINKS]


def parent(context: TraceContext) -> Context:
    """What makes a span a child of the request that `context` names."""
    return extract({"traceparent": context.traceparent, "tracestate": context.tracestate})


def _span_context(context: TraceContext) -> trace.SpanContext:
    return trace.get_current_span(parent(context)).get_span_context()


def extract(carrier: Mapping[str, str]) -> Context:
    """The context of a caller from its headers (lower-case names); an empty context when there is none. Ignores what runs here now."""
    return _PROPAGATOR.extract(carrier, context=Context())


def inject(carrier: MutableMapping[str, str]) -> None:
    """Adds the headers of the running span to `carrier`; adds nothing outside a trace."""
    _PROPAGATOR.inject(carrier)

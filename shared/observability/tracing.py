"""Traces: an OpenTelemetry SDK provider in every process, so that each request has a trace id in its logs; exported only with an endpoint.

The trace context travels as W3C `traceparent` and `tracestate` (https://www.w3.org/TR/trace-context/); baggage is not passed on.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final

from opentelemetry import propagate, trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import SERVICE_INSTANCE_ID, SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import Link, Span, SpanKind
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import Attributes

from shared.domain import TraceContext
from shared.version import VERSION

_PROPAGATOR: Final = TraceContextTextMapPropagator()
_EXPORT_TIMEOUT: Final = 5.0  # seconds that one export may take; spans that a dead collector refuses are dropped
_QUEUE: Final = 4096  # spans that wait for export at most; later ones are dropped

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
        sampler=ParentBased(TraceIdRatioBased(sample_ratio if endpoint else 0.0)),
        resource=Resource.create(attributes),
        shutdown_on_exit=False,  # `shutdown` is a stage of the service's own end
    )
    if endpoint:
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter  # noqa: PLC0415 - a third of a second, seldom needed

        exporter = OTLPSpanExporter(endpoint=endpoint, insecure=not endpoint.startswith("https://"), timeout=_EXPORT_TIMEOUT)
        provider.add_span_processor(BatchSpanProcessor(exporter, max_queue_size=_QUEUE))
    trace.set_tracer_provider(provider)
    _provider = provider
    return provider


def shutdown() -> None:
    """Exports what is waiting and stops. Blocks up to the exporter's time limit: call it through `asyncio.to_thread`."""
    if _provider is not None:
        _provider.shutdown()


class Tracer:
    """Starts spans, but none within a span that is not recorded.

    The sampler decides for whole traces (`ParentBased`), so such a span would not be recorded either; making it all the same costs several
    times what a search can spare, and nothing would ever show it. Inside a request that is not recorded, the span's id in logs is the request's.
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
        **options: Any,  # noqa: ANN401 - further arguments of OpenTelemetry's method of this name
    ) -> AbstractContextManager[Span]:
        """Runs the block in a span, a child of what runs now; in what runs now if that is not recorded."""
        current = trace.get_current_span()
        if not current.is_recording() and current.get_span_context().is_valid:
            return nullcontext(current)
        return self._inner.start_as_current_span(name, kind=kind, attributes=attributes, links=links, **options)


def get_tracer(name: str, provider: trace.TracerProvider | None = None) -> Tracer:
    """A tracer; `name` is usually `__name__`. It may be made before `configure`. `provider` replaces that of the process."""
    return Tracer(trace.get_tracer(name, VERSION, provider))


def current() -> TraceContext:
    """The trace context of the running request; empty when it is not traced."""
    if not trace.get_current_span().get_span_context().is_valid:
        return TraceContext()
    carrier: dict[str, str] = {}
    _PROPAGATOR.inject(carrier)
    return TraceContext(carrier.get("traceparent", ""), carrier.get("tracestate", ""))


def link(context: TraceContext) -> trace.Link | None:
    """A link to the request that `context` names; None when that was not traced, or the header is malformed."""
    span = trace.get_current_span(extract({"traceparent": context.traceparent, "tracestate": context.tracestate})).get_span_context()
    return trace.Link(span) if span.is_valid else None


def extract(carrier: Mapping[str, str]) -> Context:
    """The context of a caller from its headers (lower-case names); an empty context when there is none. Ignores what runs here now."""
    return _PROPAGATOR.extract(carrier, context=Context())


def inject(carrier: MutableMapping[str, str]) -> None:
    """Adds the headers of the running span to `carrier`; adds nothing outside a trace."""
    _PROPAGATOR.inject(carrier)

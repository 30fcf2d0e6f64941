"""Traces: an OpenTelemetry SDK provider in every process, so that each request has a trace id in its logs; exported only with an endpoint.

The trace context travels as W3C `traceparent` and `tracestate` (https://www.w3.org/TR/trace-context/); baggage is not passed on.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from typing import Final

from opentelemetry import propagate, trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import SERVICE_INSTANCE_ID, SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

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


def get_tracer(name: str) -> trace.Tracer:
    """A tracer; `name` is usually `__name__`. It may be made before `configure`."""
    return trace.get_tracer(name, VERSION)


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

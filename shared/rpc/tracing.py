"""Server spans: one a call, child of the caller's span.

Name and attributes are those of opentelemetry-instrumentation-grpc. What makes the span and wraps the call is our own, because the library's
wrapper reports an uncaught error or a cancelled call as OK, cannot serve methods that write through their context, detaches its context in
another task when a stream is cancelled (docs/adr/0013-server-spans-of-our-own.md), and collects the attributes of spans that nobody records.
"""

from __future__ import annotations

import time
from typing import Any, Final
from urllib.parse import unquote

import grpc
from opentelemetry import context as otel_context
from opentelemetry.context import Context as TraceParent
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, set_span_in_context

from shared.observability import tracing
from shared.rpc.call import Behaviour, Context, Method, status_code
from shared.rpc.status import SERVER_FAULTS

_NO_PARENT: Final = TraceParent()
_LOCAL: Final = frozenset({"127.0.0.1", "[::1]"})


class Tracing:
    """Runs each call in a server span. Health checks and reflection are not traced."""

    def __init__(self) -> None:
        self._tracer = tracing.get_tracer(__name__)

    def wrap(self, method: Method, proceed: Behaviour) -> Behaviour:
        """See `Middleware`."""
        if method.routine:
            return proceed
        name = f"/{method.path}"
        start_span = self._tracer.start_span

        async def call(request: Any, context: Context) -> Any:  # noqa: ANN401 - messages of any type
            started = time.perf_counter()
            remote = _remote(context)
            span = start_span(name, remote, SpanKind.SERVER)
            recorded = span.is_recording()
            if recorded:
                span.set_attributes(_attributes(method, context))
            token = otel_context.attach(set_span_in_context(span, remote))
            try:
                response = await proceed(request, context)
            except BaseException as error:
                if recorded:
                    _finish(span, status_code(context, error, time.perf_counter() - started), error)
                raise
            else:
                if recorded:
                    _finish(span, status_code(context, None, 0), None)
                return response
            finally:
                otel_context.detach(token)
                span.end()

        return call


def _remote(context: Context) -> TraceParent:
    """The caller's trace context; an empty one when the call brings none."""
    metadata: dict[str, Any] = dict(context.invocation_metadata() or ())
    return tracing.extract(metadata) if "traceparent" in metadata else _NO_PARENT


def _attributes(method: Method, context: Context) -> dict[str, str | int]:
    """What opentelemetry-instrumentation-grpc 0.66b2 states of a call."""
    attributes: dict[str, str | int] = {
        "rpc.system": "grpc",
        "rpc.grpc.status_code": grpc.StatusCode.OK.value[0],
        "rpc.method": method.name,
        "rpc.service": method.service,
    }
    metadata: dict[str, Any] = dict(context.invocation_metadata() or ())
    if "user-agent" in metadata:
        attributes["rpc.user_agent"] = metadata["user-agent"]
    # `ipv4:127.0.0.1:57284`, `ipv6:%5B::1%5D:57284`, or a socket's path, which has no address
    kind, _, address = context.peer().partition(":")
    if kind in {"ipv4", "ipv6"}:
        host, _, port = address.partition(",")[0].rpartition(":")
        ip = unquote(host)
        attributes |= {"net.peer.ip": ip, "net.peer.port": port}
        if ip in _LOCAL:
            attributes["net.peer.name"] = "localhost"
    return attributes


def _finish(span: Span, code: grpc.StatusCode, error: BaseException | None) -> None:
    """The outcome, by the conventions for servers: only the server's own faults make a span an error.

    `error` is what came out of the chain: what a servicer raised has become an `AbortError` there, which says nothing that the code does not.
    """
    span.set_attribute("rpc.grpc.status_code", code.value[0])
    if isinstance(error, Exception) and not isinstance(error, grpc.aio.BaseError):
        tracing.record_error(span, error)
    if code in SERVER_FAULTS:
        span.set_attribute("error.type", code.name)
        span.set_status(Status(StatusCode.ERROR, code.name))

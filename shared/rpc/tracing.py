"""Server spans: one a call, child of the caller's span.

Name, attributes and remote context are those of opentelemetry-instrumentation-grpc. What wraps the call is our own, because the library's
wrapper reports an uncaught error or a cancelled call as OK, cannot serve methods that write through their context, and detaches its context
in another task when a stream is cancelled (docs/adr/0008-own-rpc-span-wrappers.md).
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import grpc
from opentelemetry.instrumentation.grpc._aio_server import OpenTelemetryAioServerInterceptor
from opentelemetry.trace import Span, Status, StatusCode

from shared.observability.tracing import get_tracer
from shared.rpc.call import Behaviour, Context, Method, status_code
from shared.rpc.status import SERVER_FAULTS


@dataclass(frozen=True, slots=True)
class _Details:
    """What the library needs of `grpc.HandlerCallDetails`."""

    method: str


class Tracing(OpenTelemetryAioServerInterceptor):
    """Runs each call in a server span. Health checks and reflection are not traced."""

    def __init__(self) -> None:
        super().__init__(get_tracer(__name__))  # type: ignore[no-untyped-call] # the library has no annotations

    def wrap(self, method: Method, proceed: Behaviour) -> Behaviour:
        """See `Middleware`."""
        if method.routine:
            return proceed
        details = _Details(f"/{method.path}")

        async def call(request: Any, context: Context) -> Any:  # noqa: ANN401 - messages of any type
            started = time.perf_counter()
            with self._set_remote_context(context), self._start_span(details, context) as span:  # type: ignore[no-untyped-call] # same
                try:
                    response = await proceed(request, context)
                except BaseException as error:
                    _finish(span, status_code(context, error, time.perf_counter() - started))
                    raise
                _finish(span, status_code(context, None, 0))
                return response

        return call


def _finish(span: Span, code: grpc.StatusCode) -> None:
    """The outcome, by the conventions for servers: only the server's own faults make a span an error."""
    if not span.is_recording():
        return
    span.set_attribute("rpc.grpc.status_code", code.value[0])
    if code in SERVER_FAULTS:
        span.set_status(Status(StatusCode.ERROR, code.name))

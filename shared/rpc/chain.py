"""THE order of what stands before a servicer, with the reason for each place."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import grpc
import grpc.aio

from shared.resilience.admission import Limit
from shared.rpc.access_log import AccessLog
from shared.rpc.call import Context, Method, Middleware, innermost, method_of, rebuild
from shared.rpc.error_mapping import ErrorMapping
from shared.rpc.limits import Limits
from shared.rpc.metrics import Metrics
from shared.rpc.request_id import RequestId
from shared.rpc.tracing import Tracing

_UNKNOWN = Method("unknown", "unknown", request_streaming=True, response_streaming=True)


def middlewares(limits: Limits | None = None) -> tuple[Middleware, ...]:
    """The layers, outermost first. `limits`: the last one; methods have the standard limits if it is None."""
    return (
        Tracing(),  # first, so that everything behind it, the logs too, has the trace and is inside the span's time
        RequestId(),  # before all that logs, and before errors, which name it
        Metrics(),  # outside the access log, so that writing the line is measured; inside tracing, for exemplars
        AccessLog(),  # outside the error mapping, to see the code that the client gets
        ErrorMapping(),  # outside all that raises our errors; all others must see what became of them
        limits or Limits(),  # last: what is refused is measured and logged like any other call, and costs no more than that
    )


def interceptors(layers: Sequence[Middleware] | None = None, *, limits: Mapping[str, Limit] | None = None) -> list[grpc.aio.ServerInterceptor]:
    """What `create_server` takes: all layers as one interceptor. `layers` replaces the standard ones, whose limits are `limits`."""
    return [Chain(middlewares(Limits(limits)) if layers is None else layers)]


class Chain(grpc.aio.ServerInterceptor):
    """All layers in one interceptor. A method is wrapped when it is first called, and kept: per call there is one look-up."""

    def __init__(self, layers: Sequence[Middleware]) -> None:
        self.layers = tuple(layers)
        # Keyed by what is registered, so bounded by it: a path that no servicer has is not kept.
        self._wrapped: dict[str, tuple[grpc.RpcMethodHandler[Any, Any], grpc.RpcMethodHandler[Any, Any]]] = {}
        self._unknown = self._wrap(grpc.stream_stream_rpc_method_handler(_unknown), _UNKNOWN)

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any]:
        """Returns the wrapped handler of the method; of a method that does not exist, one that says so and is measured like any other."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return self._unknown
        path = handler_call_details.method
        kept = self._wrapped.get(path)
        if kept is not None and kept[0] is handler:
            return kept[1]
        wrapped = self._wrap(handler, method_of(path, handler))
        self._wrapped[path] = (handler, wrapped)
        return wrapped

    def _wrap(self, handler: grpc.RpcMethodHandler[Any, Any], method: Method) -> grpc.RpcMethodHandler[Any, Any]:
        behaviour = innermost(handler)
        for layer in reversed(self.layers):
            behaviour = layer.wrap(method, behaviour)
        return rebuild(handler, behaviour)


async def _unknown(_requests: object, context: Context) -> None:
    """Answers calls of methods that do not exist."""
    await context.abort(grpc.StatusCode.UNIMPLEMENTED, "there is no such method")

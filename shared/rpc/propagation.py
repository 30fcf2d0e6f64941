"""Client interceptors: each call carries the trace and the request id of the request that it serves, is a client span, and is measured.

Name, attributes and headers of the span are those of opentelemetry-instrumentation-grpc. What wraps the call is our own, because the library's
interceptors return a generator instead of gRPC's call, so that `cancel()` does not reach the server
(docs/adr/0013-server-spans-of-our-own.md). grpc.aio sorts interceptors by base class and takes one kind of each, hence four classes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

import grpc
import grpc.aio
from opentelemetry.instrumentation.grpc._aio_client import _BaseAioClientInterceptor
from opentelemetry.trace import Span, Status, StatusCode

from shared.observability import tracing
from shared.rpc import request_id
from shared.rpc.metrics import Ended, start_outgoing

_library: Final = _BaseAioClientInterceptor(tracing.get_tracer(__name__))
_ending: Final[set[asyncio.Task[None]]] = set()  # keeps tasks alive until they are done; bounded by the calls that just ended

Proceed = Callable[..., Awaitable[Any]]


async def _call(proceed: Proceed, details: grpc.aio.ClientCallDetails, request: object) -> Any:  # noqa: ANN401 - gRPC's call objects of four kinds
    with _library._start_interceptor_span(details.method) as span:
        traced = _library.propagate_trace_in_details(_identified(details))
        measured = start_outgoing(_path(details))
        try:
            call = await proceed(traced, request)
        except BaseException as error:
            tracing.record_error(span, error)
            span.end()
            if measured is not None:
                measured(grpc.StatusCode.CANCELLED if isinstance(error, asyncio.CancelledError) else grpc.StatusCode.UNKNOWN)
            raise
    if measured is not None or span.is_recording():
        call.add_done_callback(lambda done: _end_soon(span, measured, done))
    return call


def _path(details: grpc.aio.ClientCallDetails) -> str:
    """`/package.Service/Method`; it may be bytes, whatever its type says (https://github.com/grpc/grpc/issues/31092)."""
    method: str | bytes = details.method
    return method.decode() if isinstance(method, bytes) else method


def _identified(details: grpc.aio.ClientCallDetails) -> grpc.aio.ClientCallDetails:
    """The call with the request id of the request that runs now, if there is one."""
    identifier = request_id.current()
    if not identifier:
        return details
    metadata = grpc.aio.Metadata(*(pair for pair in details.metadata or () if pair[0] != request_id.HEADER), (request_id.HEADER, identifier))
    return grpc.aio.ClientCallDetails(details.method, details.timeout, metadata, details.credentials, details.wait_for_ready)


def _end_soon(span: Span, measured: Ended | None, call: grpc.aio.Call) -> None:
    task = asyncio.get_running_loop().create_task(_end(span, measured, call))
    _ending.add(task)
    task.add_done_callback(_ending.discard)


async def _end(span: Span, measured: Ended | None, call: grpc.aio.Call) -> None:
    """Ends span and measurement with the outcome. The call is done, so this does not wait; but its code can only be had from a coroutine."""
    code = await call.code()
    if measured is not None:
        measured(code)
    span.set_attribute("rpc.grpc.status_code", code.value[0])
    if code is not grpc.StatusCode.OK:
        span.set_attribute("error.type", code.name)
        span.set_status(Status(StatusCode.ERROR, code.name))
    span.end()


class _UnaryUnary(grpc.aio.UnaryUnaryClientInterceptor):
    async def intercept_unary_unary(self, continuation: Proceed, client_call_details: grpc.aio.ClientCallDetails, request: object) -> Any:  # noqa: ANN401
        return await _call(continuation, client_call_details, request)


class _UnaryStream(grpc.aio.UnaryStreamClientInterceptor):
    async def intercept_unary_stream(self, continuation: Proceed, client_call_details: grpc.aio.ClientCallDetails, request: object) -> Any:  # noqa: ANN401
        return await _call(continuation, client_call_details, request)


class _StreamUnary(grpc.aio.StreamUnaryClientInterceptor):
    async def intercept_stream_unary(self, continuation: Proceed, client_call_details: grpc.aio.ClientCallDetails, request_iterator: object) -> Any:  # noqa: ANN401 - gRPC's call object
        return await _call(continuation, client_call_details, request_iterator)


class _StreamStream(grpc.aio.StreamStreamClientInterceptor):
    async def intercept_stream_stream(self, continuation: Proceed, client_call_details: grpc.aio.ClientCallDetails, request_iterator: object) -> Any:  # noqa: ANN401 - gRPC's call object
        return await _call(continuation, client_call_details, request_iterator)


def client_interceptors() -> list[grpc.aio.ClientInterceptor]:
    """One interceptor for each of the four kinds of calls."""
    return [_UnaryUnary(), _UnaryStream(), _StreamUnary(), _StreamStream()]

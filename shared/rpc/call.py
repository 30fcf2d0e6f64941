"""One form for a call of any of the four kinds, so that each interceptor is written once.

grpc.aio accepts a coroutine for every kind: of a streaming response it writes the messages through its context. `innermost` turns any
servicer method into such a coroutine, and middlewares wrap it as plain coroutines. So an interceptor sees the whole call including the
iteration of its streams, costs nothing per message, runs in the call's own task from beginning to end (context variables and their
clean-up stay in one context), and a servicer's generator is closed in that task as soon as the call ends, also when it is cancelled.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from shared.errors import InvalidArgumentError

Context = grpc.aio.ServicerContext[Any, Any]
Behaviour = Callable[[Any, Context], Awaitable[Any]]
"""Takes the request (or the iterator of requests) and the context; returns the response, or None after writing a stream of them."""


@dataclass(frozen=True, slots=True)
class Method:
    """What is known of a method before it is called."""

    service: str  # full name, for example knowledgebeast.query.v1.QueryService
    name: str
    request_streaming: bool
    response_streaming: bool

    @property
    def type(self) -> str:
        """The kind, in the words of go-grpc-middleware."""
        return kind(request_streaming=self.request_streaming, response_streaming=self.response_streaming)

    @property
    def path(self) -> str:
        """`service/method`."""
        return f"{self.service}/{self.name}"

    @property
    def routine(self) -> bool:
        """Health checks and reflection: called all the time, of no interest one by one."""
        return self.service.startswith("grpc.")


class Middleware(Protocol):
    """A layer around calls. `wrap` is called once a method, what it returns once a call."""

    def wrap(self, method: Method, proceed: Behaviour) -> Behaviour:
        """A coroutine function that awaits `proceed` and lets its errors through."""


def kind(*, request_streaming: bool, response_streaming: bool) -> str:
    """`unary`, `client_stream`, `server_stream` or `bidi_stream`."""
    if request_streaming:
        return "bidi_stream" if response_streaming else "client_stream"
    return "server_stream" if response_streaming else "unary"


def method_of(path: str, handler: grpc.RpcMethodHandler[Any, Any]) -> Method:
    """The method of a path like `/package.Service/Method`."""
    service, _, name = path.removeprefix("/").partition("/")
    return Method(service, name, bool(handler.request_streaming), bool(handler.response_streaming))


def innermost(handler: grpc.RpcMethodHandler[Any, Any]) -> Behaviour:
    """The servicer's method as a coroutine from raw request to raw response.

    Single messages are decoded and encoded here, inside all middlewares: a message that cannot be is an error like any other, and its text
    does not reach the client.
    """
    function = _function(handler)
    decode = _decoder(handler) if not handler.request_streaming else None
    encode = handler.response_serializer

    async def unary(request: Any, context: Context) -> Any:  # noqa: ANN401 - messages of any type
        response = await function(decode(request) if decode else request, context)
        return encode(response) if encode else response

    async def stream(request: Any, context: Context) -> None:  # noqa: ANN401 - messages of any type
        responses = function(decode(request) if decode else request, context)
        if not isinstance(responses, AsyncIterator):
            await responses  # it writes through the context by itself, as the health service does
            return
        try:
            async for response in responses:
                await context.write(response)
        finally:
            close = getattr(responses, "aclose", None)
            if close is not None:
                await close()

    return stream if handler.response_streaming else unary


def rebuild(handler: grpc.RpcMethodHandler[Any, Any], behaviour: Behaviour) -> grpc.RpcMethodHandler[Any, Any]:
    """A handler of the same kind that runs `behaviour`; the part of decoding and encoding that `innermost` does is taken out."""
    make: Callable[..., grpc.RpcMethodHandler[Any, Any]] = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, False): grpc.stream_unary_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }[bool(handler.request_streaming), bool(handler.response_streaming)]
    return make(
        behaviour,
        request_deserializer=_decoder(handler) if handler.request_streaming else None,
        response_serializer=handler.response_serializer if handler.response_streaming else None,
    )


def status_code(context: Context, error: BaseException | None, elapsed: float) -> grpc.StatusCode:
    """How a call ended, as seen from outside of the error mapping.

    Args:
        context: the call's context.
        error: what came out of the call, or None.
        elapsed: seconds since the call began.
    """
    if error is None or isinstance(error, grpc.aio.AbortError):
        return context.code() or grpc.StatusCode.OK
    if isinstance(error, asyncio.CancelledError | grpc.aio.BaseError):
        # A deadline reaches the handler as a cancellation. The client's clock runs out first by the time that the request was on the way, and
        # gRPC rounds a deadline up by at most 1 % on the wire: within that of the deadline, it was the deadline.
        remaining = context.time_remaining()
        late = remaining is not None and remaining <= 0.01 + 0.01 * (elapsed + remaining)
        return grpc.StatusCode.DEADLINE_EXCEEDED if late else grpc.StatusCode.CANCELLED
    return grpc.StatusCode.UNKNOWN


def _function(handler: grpc.RpcMethodHandler[Any, Any]) -> Callable[..., Any]:
    function = handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
    if function is None:
        raise TypeError("a handler without a function")
    return function


def _decoder(handler: grpc.RpcMethodHandler[Any, Any]) -> Callable[[bytes], Any] | None:
    decode = handler.request_deserializer
    if decode is None:
        return None

    def checked(raw: bytes) -> Any:  # noqa: ANN401 - messages of any type
        try:
            return decode(raw)
        except DecodeError as error:
            raise InvalidArgumentError("the request is not a message of the type that this method takes", reason="MALFORMED_REQUEST") from error

    return checked

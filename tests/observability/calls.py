"""A process of its own that makes calls of every kind and outcome, to a server in it, and exports their spans.

    python -m tests.observability.calls ENDPOINT

Prints a JSON object: the trace id of each case.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from contextlib import aclosing, suppress
from typing import Any

import grpc.aio
from google.protobuf.wrappers_pb2 import StringValue

from shared.client.endpoint import Endpoint
from shared.observability import tracing
from shared.rpc import chain
from shared.rpc.server import bind, create_server, serving
from tests.integration.test_rpc_chain import KINDS, LIMIT, SERVICE, Client, Echo, handler

_LATE = 0.3  # seconds; the deadline of calls that hang


async def _ended(client: Client, kind: str, text: str, **options: Any) -> None:  # noqa: ANN401 - gRPC's own options
    with suppress(grpc.aio.AioRpcError):
        await client.call(kind, text, **options)


async def _cancelled(client: Client, echo: Echo, kind: str) -> None:
    echo.entered.clear()
    echo.closed.clear()
    call = client.start(kind, "hang")
    finishing = asyncio.ensure_future(client.finish(kind, call))
    await asyncio.wait_for(echo.entered.wait(), 10)
    call.cancel()
    await asyncio.wait_for(echo.closed.wait(), 10)
    with suppress(asyncio.CancelledError):
        await finishing


async def _abandoned(endpoint: Endpoint, echo: Echo) -> None:
    """A stream of which somebody reads the beginning, and no more."""
    echo.closed.clear()
    method = endpoint.channel.unary_stream(
        f"/{SERVICE}/server_stream", request_serializer=StringValue.SerializeToString, response_deserializer=StringValue.FromString
    )
    stream: Any = endpoint.stream(method, StringValue(value="endless"))
    async with aclosing(stream) as answers:
        async for _ in answers:
            break
    await asyncio.wait_for(echo.closed.wait(), 10)


async def _unknown(client: Client) -> None:
    channel: Any = client.channel
    with suppress(grpc.aio.AioRpcError):
        await channel.unary_unary(f"/{SERVICE}/nope")(b"", timeout=10)


def _cases(client: Client, endpoint: Endpoint, echo: Echo) -> dict[str, Callable[[], Awaitable[None]]]:
    cases: dict[str, Callable[[], Awaitable[None]]] = {}
    for kind in KINDS:
        for text in ("hello", "domain", "bug", "abort"):
            cases[f"{kind} {text}"] = lambda kind=kind, text=text: _ended(client, kind, text)  # type: ignore[misc] # a default is not inferred
        cases[f"{kind} deadline"] = lambda kind=kind: _ended(client, kind, "hang", timeout=_LATE)  # type: ignore[misc] # same
        cases[f"{kind} cancel"] = lambda kind=kind: _cancelled(client, echo, kind)  # type: ignore[misc] # same
    return {**cases, "abandoned": lambda: _abandoned(endpoint, echo), "unknown": lambda: _unknown(client)}


async def _run() -> dict[str, str]:
    tracer, traces, echo = tracing.get_tracer(__name__), dict[str, str](), Echo()
    server = create_server(interceptors=chain.interceptors(), max_message_bytes=LIMIT)
    server.add_generic_rpc_handlers((handler(echo),))
    port = bind(server, "127.0.0.1", 0)
    endpoint = Endpoint("echo", f"127.0.0.1:{port}", 20.0)
    async with serving(server, grace=5), endpoint.channel as channel:
        for name, call in _cases(Client(channel), endpoint, echo).items():
            with tracer.start_as_current_span(name) as span:
                traces[name] = format(span.get_span_context().trace_id, "032x")
                await call()
    return traces


if __name__ == "__main__":
    tracing.configure("calls", sys.argv[1], 1.0)
    answer = asyncio.run(_run())
    tracing.shutdown()
    sys.stdout.write(json.dumps(answer) + "\n")

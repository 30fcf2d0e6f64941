"""The interceptor chain as clients and operators see it: real servers and channels on loopback, calls of all four kinds."""

from __future__ import annotations

import asyncio
import io
import json
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.wrappers_pb2 import StringValue
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from shared.errors import CircuitOpenError, FieldViolation, InvalidArgumentError, KnowledgeBeastError, NotFoundError
from shared.observability import logging, metrics
from shared.rpc import chain
from shared.rpc.access_log import AccessLog, bind_project
from shared.rpc.call import Context
from shared.rpc.channel import create_channel
from shared.rpc.error_mapping import ErrorMapping
from shared.rpc.limits import Limits
from shared.rpc.metrics import Metrics
from shared.rpc.request_id import RequestId
from shared.rpc.server import bind, create_server, serving
from shared.rpc.status import from_rpc_error
from shared.rpc.tracing import Tracing
from tests.fixtures.collector import Collector, SpanContext
from tests.fixtures.spans import Recorder

ROOT = Path(__file__).parents[2]
SERVICE = "tests.Echo"
KINDS = ("unary", "server_stream", "client_stream", "bidi_stream")
LIMIT = 1024 * 1024
INTERNAL_TEXT = "where the database is"


@dataclass
class Echo:
    """Answers with what it was sent; some texts make it fail or hang. Every kind of call runs the same script."""

    entered: asyncio.Event = field(default_factory=asyncio.Event)
    closed: asyncio.Event = field(default_factory=asyncio.Event)
    closing_task_is_the_calls: bool = False

    async def _script(self, text: str, context: Context) -> StringValue:
        bind_project(f"project-{text}")
        match text:
            case "domain":
                raise NotFoundError("there is no such thing", reason="THING_NOT_FOUND")
            case "invalid":
                raise InvalidArgumentError("bad field", tuple(FieldViolation(f"documents[{n}].metadata.year", "é" * 250) for n in range(1000)))
            case "open":
                raise CircuitOpenError("the vector store is left alone", retry_after=12.5)
            case "bug":
                raise RuntimeError(INTERNAL_TEXT)
            case "abort":
                await context.abort(grpc.StatusCode.PERMISSION_DENIED, "not you")
            case "hang":
                task = asyncio.current_task()
                self.entered.set()
                try:
                    await asyncio.Event().wait()
                finally:
                    self.closing_task_is_the_calls = asyncio.current_task() is task
                    self.closed.set()
        return StringValue(value=text)

    async def unary(self, request: StringValue, context: Context) -> StringValue:
        """One message, one answer."""
        return await self._script(request.value, context)

    async def server_stream(self, request: StringValue, context: Context) -> AsyncIterator[StringValue]:
        """One message, a first answer and then the script's; `endless` never ends."""
        yield StringValue(value="first")
        if request.value == "endless":
            try:
                while True:
                    self.entered.set()
                    yield StringValue(value="x" * 10_000)
            finally:
                self.closed.set()
        yield await self._script(request.value, context)

    async def client_stream(self, requests: AsyncIterator[StringValue], context: Context) -> StringValue:
        """All messages, one answer to the last."""
        last = [request async for request in requests][-1]
        return await self._script(last.value, context)

    async def bidi_stream(self, requests: AsyncIterator[StringValue], context: Context) -> AsyncIterator[StringValue]:
        """An answer to each message."""
        async for request in requests:
            yield await self._script(request.value, context)


class Client:
    """Calls each kind in the same way: one text in, the last text out."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel

    def start(self, kind: str, text: str, **options: Any) -> Any:  # noqa: ANN401 - a call object of any kind
        """Starts a call with a time limit of 20 s unless `options` say otherwise."""
        make: Any = {
            "unary": self.channel.unary_unary,
            "server_stream": self.channel.unary_stream,
            "client_stream": self.channel.stream_unary,
            "bidi_stream": self.channel.stream_stream,
        }[kind]
        call = make(f"/{SERVICE}/{kind}", request_serializer=StringValue.SerializeToString, response_deserializer=StringValue.FromString)
        request = StringValue(value=text)
        return call(iter([request]) if kind in {"client_stream", "bidi_stream"} else request, **{"timeout": 20, **options})

    async def finish(self, kind: str, call: Any) -> str:  # noqa: ANN401 - a call object of any kind
        """The last text of the answer."""
        if kind in {"unary", "client_stream"}:
            return str((await call).value)
        return [str(response.value) async for response in call][-1]

    async def call(self, kind: str, text: str, **options: Any) -> str:  # noqa: ANN401 - gRPC's own options
        """Starts and finishes a call."""
        return await self.finish(kind, self.start(kind, text, **options))


@dataclass
class Running:
    """A server, a client of it, and what they logged and traced."""

    echo: Echo
    client: Client
    log: io.StringIO
    spans: Recorder
    port: int

    def lines(self, event: str) -> list[dict[str, Any]]:
        """The log lines of this event."""
        return [line for line in map(json.loads, self.log.getvalue().splitlines()) if line["event"] == event]

    async def access_line(self, count: int = 1) -> dict[str, Any]:
        """The newest access line, once there are `count`: the server writes it after the client has its answer."""
        await eventually(lambda: len(self.lines("rpc")) >= count)
        return self.lines("rpc")[-1]


async def eventually(condition: Callable[[], bool]) -> None:
    """Returns once the condition holds, which other tasks bring about; fails after 10 s."""
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.002)


def handler(echo: Echo) -> grpc.GenericRpcHandler:
    """The service as generated code would register it."""
    coding: dict[str, Any] = {"request_deserializer": StringValue.FromString, "response_serializer": StringValue.SerializeToString}
    return grpc.method_handlers_generic_handler(
        SERVICE,
        {
            "unary": grpc.unary_unary_rpc_method_handler(echo.unary, **coding),
            "server_stream": grpc.unary_stream_rpc_method_handler(echo.server_stream, **coding),
            "client_stream": grpc.stream_unary_rpc_method_handler(echo.client_stream, **coding),
            "bidi_stream": grpc.stream_stream_rpc_method_handler(echo.bidi_stream, **coding),
        },
    )


@asynccontextmanager
async def stack(recorded: Recorder) -> AsyncIterator[Running]:
    """A running server with the whole chain, in a trace that is recorded."""
    log = io.StringIO()
    logging.configure("tests", "info", "json", stream=log)
    server = create_server(interceptors=chain.interceptors(), max_message_bytes=LIMIT)
    echo = Echo()
    server.add_generic_rpc_handlers((handler(echo),))
    health_pb2_grpc.add_HealthServicer_to_server(health.aio.HealthServicer(), server)
    port = bind(server, "127.0.0.1", 0)
    async with serving(server, grace=0), create_channel(f"127.0.0.1:{port}", max_message_bytes=LIMIT) as channel:
        yield Running(echo, Client(channel), log, recorded, port)


@pytest.fixture
async def running(everything_recorded: Recorder) -> AsyncIterator[Running]:
    """A server with the whole chain and a client of it."""
    async with stack(everything_recorded) as both:
        yield both


def handled(kind: str, code: str) -> float:
    """How many calls of this kind have ended with this code."""
    labels = {"grpc_type": kind, "grpc_service": SERVICE, "grpc_method": kind, "grpc_code": code}
    return metrics.REGISTRY.get_sample_value("grpc_server_handled_total", labels) or 0.0


async def failure(running: Running, kind: str, text: str, **options: Any) -> grpc.aio.AioRpcError:  # noqa: ANN401 - gRPC's own options
    """Makes a call that must fail."""
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await running.client.call(kind, text, **options)
    return raised.value


def test_the_layers_stand_in_the_documented_order() -> None:
    """Tracing, request id, metrics, access log, error mapping: each must be inside the one before it."""
    assert [type(layer) for layer in chain.middlewares()] == [Tracing, RequestId, Metrics, AccessLog, ErrorMapping, Limits]


@pytest.mark.parametrize("kind", KINDS)
async def test_a_successful_call_is_answered_counted_and_logged(running: Running, kind: str) -> None:
    """A call of each kind gives its answer, one OK in the metrics and one access line with its project."""
    before = handled(kind, "OK")
    assert await running.client.call(kind, "hello") == "hello"
    line = await running.access_line()
    assert (line["method"], line["code"], line["level"]) == (f"{SERVICE}/{kind}", "OK", "info")
    assert line["project"] == "project-hello"
    assert 0 < line["duration_ms"] < 20_000
    assert 0 < line["deadline_ms"] <= 20_200  # gRPC rounds a deadline up by at most 1 % to send it
    assert line["peer"].startswith("ipv4:127.0.0.1:")
    assert handled(kind, "OK") == before + 1


@pytest.mark.parametrize("kind", KINDS)
async def test_an_error_of_our_tree_reaches_the_client_as_it_was(running: Running, kind: str) -> None:
    """Type, message and reason survive the way to the client, and the code is counted and logged."""
    before = handled(kind, "NotFound")
    error = from_rpc_error(await failure(running, kind, "domain"))
    assert (type(error), error.message, error.reason) == (NotFoundError, "there is no such thing", "THING_NOT_FOUND")
    line = await running.access_line()
    assert (line["code"], line["level"], line["reason"]) == ("NOT_FOUND", "info", "THING_NOT_FOUND")
    assert handled(kind, "NotFound") == before + 1


@pytest.mark.parametrize("kind", KINDS)
async def test_an_unknown_error_tells_the_client_nothing_but_the_request_id(running: Running, kind: str) -> None:
    """An uncaught exception is INTERNAL with the request id; its text and stack are in the log alone."""
    error = await failure(running, kind, "bug", metadata=(("x-request-id", "r-1"),))
    assert (error.code(), error.details()) == (grpc.StatusCode.INTERNAL, "internal error; request id r-1")
    assert dict(error.trailing_metadata() or ())["x-request-id"] == "r-1"
    assert INTERNAL_TEXT not in repr(error) + repr(list(error.trailing_metadata() or ()))
    line = await running.access_line()
    assert (line["code"], line["level"], line["request_id"]) == ("INTERNAL", "warning", "r-1")
    (failed,) = running.lines("rpc failed")
    assert f"RuntimeError: {INTERNAL_TEXT}" in failed["exception"]
    assert failed["request_id"] == "r-1"


@pytest.mark.parametrize("kind", KINDS)
async def test_an_abort_of_the_servicer_passes_through(running: Running, kind: str) -> None:
    """A status that the servicer chose itself is not touched."""
    error = await failure(running, kind, "abort")
    assert (error.code(), error.details()) == (grpc.StatusCode.PERMISSION_DENIED, "not you")
    assert (await running.access_line())["code"] == "PERMISSION_DENIED"


@pytest.mark.parametrize("kind", KINDS)
async def test_cancelling_a_call_reaches_the_servicer_and_is_recorded_as_cancelled(running: Running, kind: str) -> None:
    """`cancel()` on the client ends the servicer's work, in the call's own task, and counts as CANCELLED."""
    before = handled(kind, "Cancelled")
    call = running.client.start(kind, "hang")
    finishing = asyncio.ensure_future(running.client.finish(kind, call))
    await asyncio.wait_for(running.echo.entered.wait(), 10)
    call.cancel()
    await asyncio.wait_for(running.echo.closed.wait(), 10)
    with pytest.raises(asyncio.CancelledError):
        await finishing
    assert running.echo.closing_task_is_the_calls
    assert (await running.access_line())["code"] == "CANCELLED"
    assert handled(kind, "Cancelled") == before + 1


@pytest.mark.parametrize("kind", KINDS)
async def test_a_deadline_is_recorded_as_deadline_exceeded(running: Running, kind: str) -> None:
    """A deadline cancels the servicer; client, log and metrics call it by its name."""
    before = handled(kind, "DeadlineExceeded")
    error = await failure(running, kind, "hang", timeout=0.2)
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    line = await running.access_line()
    assert (line["code"], line["level"]) == ("DEADLINE_EXCEEDED", "warning")
    assert handled(kind, "DeadlineExceeded") == before + 1


async def test_a_stream_that_is_cancelled_between_messages_is_closed_at_once(running: Running) -> None:
    """A generator that waits at its `yield` while gRPC writes is closed when the client goes away."""
    call = running.client.start("server_stream", "endless")
    async for _ in call:
        if running.echo.entered.is_set():
            break
    call.cancel()
    await asyncio.wait_for(running.echo.closed.wait(), 10)
    assert (await running.access_line())["code"] == "CANCELLED"
    assert running.lines("rpc failed") == []


async def test_thousands_of_violations_fit_into_what_a_client_accepts(running: Running) -> None:
    """A status with 1,000 violations is cut to fit into gRPC's limit on headers, and says that it was."""
    error = from_rpc_error(await failure(running, "unary", "invalid"))
    assert isinstance(error, InvalidArgumentError)
    assert error.violations[0].field == "documents[0].metadata.year"
    assert error.violations[-1].description.startswith("1000 violations in all")


async def test_the_time_to_retry_and_the_component_reach_the_client(running: Running) -> None:
    """An open circuit is UNAVAILABLE with RetryInfo and the component at fault."""
    error = from_rpc_error(await failure(running, "unary", "open"))
    assert isinstance(error, CircuitOpenError)
    assert (error.retry_after, error.component) == (12.5, "chromadb")


@pytest.mark.parametrize("kind", ["unary", "bidi_stream"])
async def test_bytes_that_are_no_message_are_an_invalid_argument(running: Running, kind: str) -> None:
    """A request that cannot be decoded is the client's fault and says nothing of our decoder."""
    path = f"/{SERVICE}/{kind}"
    channel: Any = running.client.channel
    raw = channel.unary_unary(path)(b"\xff", timeout=10) if kind == "unary" else channel.stream_stream(path)(iter([b"\xff"]), timeout=10)
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await running.client.finish(kind, raw)
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert from_rpc_error(raised.value).reason == "MALFORMED_REQUEST"
    assert "Decode" not in str(raised.value.details())


async def test_a_request_id_is_kept_returned_and_bound_to_one_call(running: Running) -> None:
    """A sane id comes back in the trailing metadata; the next call has another, and nothing of the first one's context."""
    call = running.client.start("unary", "one", metadata=(("x-request-id", "mine-1"),))
    await call
    assert dict(await call.trailing_metadata())["x-request-id"] == "mine-1"
    assert (await running.access_line())["request_id"] == "mine-1"
    failing = await failure(running, "server_stream", "abort")
    made = dict(failing.trailing_metadata() or ())["x-request-id"]
    assert len(made) == 32
    line = await running.access_line(2)
    assert (line["request_id"], line["project"]) == (made, "project-abort")


@pytest.mark.parametrize("given", ["", "x" * 129])
async def test_an_unusable_request_id_is_replaced(running: Running, given: str) -> None:
    """An empty or oversized id does not reach the logs."""
    call = running.client.start("unary", "one", metadata=(("x-request-id", given),))
    await call
    assert len(dict(await call.trailing_metadata())["x-request-id"]) == 32


async def test_a_call_made_while_serving_carries_the_request_id_on(running: Running) -> None:
    """What a service calls on behalf of a request has the same request id, without anyone passing it."""
    ids: list[str] = []

    async def forward(request: StringValue, context: Context) -> StringValue:
        call = running.client.start("unary", request.value)
        answer: StringValue = await call
        ids.append(dict(await call.trailing_metadata())["x-request-id"])
        return answer

    server = create_server(interceptors=chain.interceptors(), max_message_bytes=LIMIT)
    coding: dict[str, Any] = {"request_deserializer": StringValue.FromString, "response_serializer": StringValue.SerializeToString}
    forwarding: Any = forward
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(SERVICE, {"unary": grpc.unary_unary_rpc_method_handler(forwarding, **coding)}),)
    )
    port = bind(server, "127.0.0.1", 0)
    async with serving(server, grace=0), create_channel(f"127.0.0.1:{port}", max_message_bytes=LIMIT) as channel:
        await Client(channel).call("unary", "x", metadata=(("x-request-id", "outer"),))
    assert ids == ["outer"]


@pytest.mark.parametrize("kind", KINDS)
async def test_client_span_server_span_and_log_are_one_trace(running: Running, kind: str) -> None:
    """The server's span is the child of the client's, and its log lines carry the same trace id."""
    await running.client.call(kind, "hello")
    await eventually(lambda: len(running.spans.get_finished_spans()) == 2)
    by_kind = {span.kind.name: span for span in running.spans.get_finished_spans()}
    client, server = by_kind["CLIENT"], by_kind["SERVER"]
    assert server.name == client.name == f"/{SERVICE}/{kind}"
    assert server.parent is not None
    assert client.context is not None
    assert server.parent.span_id == client.context.span_id
    assert (await running.access_line())["trace_id"] == format(client.context.trace_id, "032x")


async def test_a_server_span_says_what_was_called_and_by_whom(running: Running) -> None:
    """A recorded call has the attributes that opentelemetry-instrumentation-grpc gives its server spans."""
    await running.client.call("unary", "hello")
    await eventually(lambda: len(running.spans.get_finished_spans()) == 2)
    (server,) = (span for span in running.spans.get_finished_spans() if span.kind.name == "SERVER")
    attributes = dict(server.attributes or {})
    assert str(attributes.pop("rpc.user_agent")).startswith("grpc-python-asyncio/")
    assert int(str(attributes.pop("net.peer.port"))) > 0
    assert attributes == {
        "rpc.system": "grpc",
        "rpc.grpc.status_code": 0,
        "rpc.method": "unary",
        "rpc.service": SERVICE,
        "net.peer.ip": "127.0.0.1",
        "net.peer.name": "localhost",
    }


@pytest.mark.parametrize(("text", "number", "status"), [("bug", 13, "ERROR"), ("domain", 5, "UNSET"), ("hello", 0, "UNSET")])
async def test_the_server_span_has_the_code_that_the_client_got(running: Running, text: str, number: int, status: str) -> None:
    """Only the server's own faults make a server span an error; every code is on it."""
    with pytest.raises(grpc.aio.AioRpcError) if number else nullcontext():
        await running.client.call("bidi_stream", text)
    await eventually(lambda: len(running.spans.get_finished_spans()) == 2)
    (server,) = [span for span in running.spans.get_finished_spans() if span.kind.name == "SERVER"]
    assert server.attributes is not None
    assert (server.attributes["rpc.grpc.status_code"], server.status.status_code.name) == (number, status)


async def test_a_method_that_does_not_exist_is_counted_under_one_name(running: Running) -> None:
    """Unknown paths are UNIMPLEMENTED; a caller cannot make new metric series with them."""
    channel: Any = running.client.channel
    for path in ("/tests.Echo/nope", "/made.Up/name"):
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await channel.unary_unary(path)(b"", timeout=10)
        assert raised.value.code() is grpc.StatusCode.UNIMPLEMENTED
    line = await running.access_line(2)
    assert line["method"] == "unknown/unknown"
    assert "made.Up" not in str([sample for family in metrics.REGISTRY.collect() for sample in family.samples])


async def test_health_checks_work_through_the_chain_and_are_quiet(running: Running) -> None:
    """Check and Watch (which writes through its context) are served, counted, and not logged at info."""
    stub: Any = health_pb2_grpc.HealthStub(running.client.channel)
    request = health_pb2.HealthCheckRequest()
    assert (await stub.Check(request, timeout=10)).status == health_pb2.HealthCheckResponse.SERVING
    watch = stub.Watch(request, timeout=10)
    assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
    watch.cancel()
    labels = {"grpc_type": "server_stream", "grpc_service": "grpc.health.v1.Health", "grpc_method": "Watch", "grpc_code": "Cancelled"}
    await eventually(lambda: (metrics.REGISTRY.get_sample_value("grpc_server_handled_total", labels) or 0) >= 1)
    assert running.lines("rpc") == []
    assert running.spans.get_finished_spans() == () or all(span.kind.name == "CLIENT" for span in running.spans.get_finished_spans())


async def test_a_message_over_the_limit_is_refused(running: Running) -> None:
    """Requests above `max_message_bytes` do not reach the servicer."""
    error = await failure(running, "unary", "x" * (LIMIT + 1))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_a_server_that_is_not_there_is_unavailable_by_name(running: Running) -> None:
    """A connection that fails becomes UnavailableError with the component that the caller named."""
    async with create_channel("127.0.0.1:1", max_message_bytes=LIMIT) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await Client(channel).call("unary", "x")
    error = from_rpc_error(raised.value, "indexer")
    assert getattr(error, "component", "") == "indexer"
    assert isinstance(error, KnowledgeBeastError)


EXPORTING = """
import sys
from shared.observability import tracing
tracing.configure("query", sys.argv[1], 1.0)
with tracing.get_tracer("tests").start_as_current_span("outer"):
    cause = tracing.current()
with tracing.get_tracer("tests").start_as_current_span("follower", links=[tracing.link(cause)]):
    pass
tracing.shutdown()
print(cause.traceparent)
"""


async def test_spans_are_exported_to_the_endpoint_with_their_links(collector: Collector) -> None:
    """A collector gets the spans of a process with its service name, and a link leads to the cause."""
    async with asyncio.timeout(30):
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", EXPORTING, collector.endpoint, cwd=ROOT, stdout=asyncio.subprocess.PIPE)
        out, _ = await process.communicate()
    spans = {span.name: span for span in collector.spans()}
    _, trace_id, span_id, _ = out.decode().strip().split("-")
    assert {span.service for span in spans.values()} == {"query"}
    assert spans["outer"].context == SpanContext(trace_id, span_id)
    assert spans["follower"].links == [spans["outer"].context]
    assert spans["follower"].context.trace_id != trace_id

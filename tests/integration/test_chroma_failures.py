"""What the ChromaDB adapter makes of servers that answer badly: a small TCP server that says exactly what it is told."""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import numpy as np
import orjson
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, StatusCode, TraceFlags

from services.cli.stack.process import free_port
from shared.chroma.client import ChromaClient
from shared.domain import ChunkId
from shared.errors import CollectionNotFoundError, VectorStoreError, VectorStoreUnavailableError

ID = "41897600-b594-40ea-8644-0996decfe20e"
VECTOR = np.ones(3, np.float32)
HITS = orjson.dumps({"ids": [["a", "b"]], "distances": [[0.25, 1.0]]})
UNAVAILABLE, REFUSED, NOT_FOUND = VectorStoreUnavailableError, VectorStoreError, CollectionNotFoundError


def http(status: int, body: bytes = b"", headers: str = "", length: int | None = None) -> bytes:
    """An answer; `length` states another length than the body has."""
    return f"HTTP/1.1 {status} X\r\nContent-Length: {len(body) if length is None else length}\r\n{headers}\r\n".encode() + body


class Server:
    """Answers the resolving of a name properly, and everything else with `answer`; keeps the requests.

    An answer of None is never given; `reset` ends the connection with RST after the answer.
    """

    def __init__(self) -> None:
        self.answer: bytes | None = http(200, HITS)
        self.reset = False
        self.requests: list[str] = []
        self.asked = asyncio.Event()
        self.connections = 0
        self.most_connections = 0
        self.port = 0

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        self.connections += 1
        self.most_connections = max(self.most_connections, self.connections)
        try:
            while await self._exchange(reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError):
            return  # the client has closed the connection
        finally:
            self.connections -= 1
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One request; whether another may follow."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        fields = {key.lower(): value for key, _, value in (line.partition(": ") for line in head.split("\r\n")[1:])}
        await reader.readexactly(int(fields.get("content-length", "0")))
        self.requests.append(head)
        if head.startswith("GET ") and "/collections/kb_" in head:
            writer.write(http(200, orjson.dumps({"id": ID, "name": "kb_a_g1"})))
            return True
        self.asked.set()
        if self.answer is None:
            await reader.read()
            return False
        writer.write(self.answer)
        await writer.drain()
        if self.reset:
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return not self.reset and self.answer.startswith(b"HTTP/1.1 2")


@asynccontextmanager
async def running(server: Server) -> AsyncIterator[Server]:
    """The server on a port of its own."""
    listener = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    server.port = listener.sockets[0].getsockname()[1]
    async with listener:
        yield server


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    """A server that answers two hits until it is told otherwise."""
    async with running(Server()) as started:
        yield started


@pytest.fixture
async def client(server: Server) -> AsyncIterator[ChromaClient]:
    """The adapter on it."""
    opened = ChromaClient(server.url)
    yield opened
    await opened.close()


async def query(client: ChromaClient, timeout: float = 10.0) -> list[tuple[str, float]]:
    """A query that knows nothing but two hits."""
    return [(hit.chunk_id, hit.score) for hit in await client.query("kb_a_g1", VECTOR, 5, timeout=timeout)]


async def test_a_proper_answer_is_decoded(client: ChromaClient) -> None:
    """The control of all that follows: distance becomes similarity."""
    assert await query(client) == [("a", 0.75), ("b", 0.0)]


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        pytest.param(http(500, b"secret"), UNAVAILABLE, id="500"),
        pytest.param(http(502), UNAVAILABLE, id="502"),
        pytest.param(http(503, b"secret"), UNAVAILABLE, id="503"),
        pytest.param(http(504), UNAVAILABLE, id="504"),
        pytest.param(http(408), UNAVAILABLE, id="408"),
        pytest.param(http(429, b"secret"), UNAVAILABLE, id="429"),
        pytest.param(http(400, b"secret"), REFUSED, id="400"),
        pytest.param(http(401), REFUSED, id="401"),
        pytest.param(http(403), REFUSED, id="403"),
        pytest.param(http(413), REFUSED, id="413"),
        pytest.param(http(422, b"\xff\xfe"), REFUSED, id="422, not UTF-8"),
        pytest.param(http(302, headers="Location: http://127.0.0.1:1/elsewhere\r\n"), REFUSED, id="a redirect, not followed"),
        pytest.param(http(404, b"secret"), NOT_FOUND, id="404"),
        pytest.param(b"", UNAVAILABLE, id="nothing"),
        pytest.param(b"220 mail.example.org ESMTP\r\n\r\n", UNAVAILABLE, id="another protocol"),
        pytest.param(b"\x00\xff" * 5_000, UNAVAILABLE, id="binary"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Le", UNAVAILABLE, id="half a head"),
        pytest.param(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 100_000, UNAVAILABLE, id="an endless head"),
        pytest.param(http(200, HITS[:20], length=len(HITS)), UNAVAILABLE, id="half a body"),
        pytest.param(b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{"ids\r\nzz\r\n', UNAVAILABLE, id="broken chunks"),
        pytest.param(http(200, b"<html>secret</html>"), UNAVAILABLE, id="not JSON"),
        pytest.param(http(200, HITS[:-3]), UNAVAILABLE, id="cut JSON"),
        pytest.param(http(200), UNAVAILABLE, id="an empty body"),
        pytest.param(http(200, b"[]"), UNAVAILABLE, id="a list"),
        pytest.param(http(200, b"{}"), UNAVAILABLE, id="other fields"),
        pytest.param(http(200, b'{"ids": [["a"]], "distances": null}'), UNAVAILABLE, id="no distances"),
        pytest.param(http(200, b'{"ids": [["a", "b"]], "distances": [[0.1]]}'), UNAVAILABLE, id="fewer distances than ids"),
        pytest.param(http(200, b'{"ids": [["a"]], "distances": [[null]]}'), UNAVAILABLE, id="a null distance"),
        pytest.param(http(200, b'{"ids": [[7]], "distances": [[0.1]]}'), UNAVAILABLE, id="an id that is a number"),
    ],
)
async def test_each_bad_answer_is_one_of_our_errors(server: Server, client: ChromaClient, answer: bytes, expected: type[Exception]) -> None:
    """Statuses, torn and foreign answers map as the table says; the message keeps the inside to itself, the cause tells it."""
    server.answer, server.reset = answer, not answer.endswith(b"}")
    with pytest.raises(VectorStoreError if expected is not UNAVAILABLE else UNAVAILABLE) as raised:
        await query(client)

    assert type(raised.value) is expected
    assert "127.0.0.1" not in raised.value.message
    assert "secret" not in raised.value.message
    assert str(raised.value.__cause__).startswith("chromadb.query: ")


async def test_a_connection_reset_in_mid_answer_is_unavailability(server: Server, client: ChromaClient) -> None:
    """RST after half of the body; the next call on a new connection works."""
    server.answer, server.reset = http(200, HITS[:10], length=len(HITS)), True
    with pytest.raises(VectorStoreUnavailableError):
        await query(client)

    server.answer, server.reset = http(200, HITS), False
    assert len(await query(client)) == 2


@pytest.mark.parametrize(("header", "seconds"), [("7", 7.0), ("100000", 60.0), ("soon", 1.0), ("", 1.0)])
async def test_the_server_may_say_when_to_come_back(server: Server, client: ChromaClient, header: str, seconds: float) -> None:
    """Retry-After is passed on in seconds, at most a minute; without a usable one it is a second."""
    server.answer = http(429, headers=f"Retry-After: {header}\r\n" if header else "")
    with pytest.raises(VectorStoreUnavailableError) as raised:
        await query(client)

    assert raised.value.retry_after == seconds


@pytest.mark.parametrize(
    "answer", [None, http(200, HITS[:10], length=len(HITS)), b"HTTP/1.1 200 OK\r\n"], ids=["silence", "half a body", "half a head"]
)
async def test_every_wait_ends_at_the_timeout(server: Server, client: ChromaClient, answer: bytes | None) -> None:
    """Silence before the answer, or in the middle of it, costs the timeout and no more."""
    server.answer = answer
    begin = time.monotonic()
    with pytest.raises(VectorStoreUnavailableError) as raised:
        await query(client, timeout=0.3)

    assert 0.25 < time.monotonic() - begin < 1.5
    assert "TimeoutError" in str(raised.value.__cause__)


async def test_waiting_for_a_connection_counts(server: Server) -> None:
    """The pool is bounded, and a call that finds it taken waits no longer than its timeout."""
    server.answer = None
    client = ChromaClient(server.url, pool_size=3)
    begin = time.monotonic()
    results = await asyncio.gather(*(query(client, timeout=0.3) for _ in range(30)), return_exceptions=True)
    await client.close()

    assert [type(result) for result in results] == [VectorStoreUnavailableError] * 30
    assert time.monotonic() - begin < 1.5
    assert server.most_connections <= 3


async def test_nobody_listens() -> None:
    """A refused connection is unavailability, at once."""
    client = ChromaClient(f"http://127.0.0.1:{free_port()}")
    begin = time.monotonic()
    with pytest.raises(VectorStoreUnavailableError):
        await client.ping(timeout=10.0)
    await client.close()

    assert time.monotonic() - begin < 2.0


async def test_connecting_has_a_limit_of_its_own() -> None:
    """A host that lets a connection wait (its queue is full) costs the connect timeout, not the whole time."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        address = listener.getsockname()
        waiting = [socket.socket() for _ in range(4)]
        for connection in waiting:
            connection.setblocking(False)
            connection.connect_ex(address)
        client = ChromaClient(f"http://127.0.0.1:{address[1]}", connect_timeout=0.2)
        begin = time.monotonic()
        with pytest.raises(VectorStoreUnavailableError) as raised:
            await client.ping(timeout=10.0)
        await client.close()
        for connection in waiting:
            connection.close()

    assert time.monotonic() - begin < 2.0
    assert "ConnectionTimeoutError" in str(raised.value.__cause__)


async def test_another_server_is_not_chromadb(server: Server, client: ChromaClient) -> None:
    """200 from something else does not pass for a heartbeat."""
    server.answer = http(200, b'{"status": "fine"}')
    with pytest.raises(VectorStoreUnavailableError):
        await client.ping(timeout=10.0)
    server.answer = http(404)
    with pytest.raises(VectorStoreUnavailableError):
        await client.ping(timeout=10.0)


async def test_a_missing_path_is_not_a_missing_collection(server: Server, client: ChromaClient) -> None:
    """404 on a call that is about no collection in particular is a refusal: another tenant, another server."""
    server.answer = http(404)
    with pytest.raises(VectorStoreError) as raised:
        await client.ensure_collection("kb_a_g1", timeout=10.0)

    assert type(raised.value) is VectorStoreError


async def test_plain_text_does_not_pass_for_tls(server: Server) -> None:
    """An https address never falls back to an unverified connection."""
    client = ChromaClient(server.url.replace("http:", "https:"), headers={"x-chroma-token": "secret"})
    with pytest.raises(VectorStoreUnavailableError):
        await client.ping(timeout=10.0)
    await client.close()

    assert server.requests == []


async def test_cancelling_is_not_an_error_of_the_store(server: Server, client: ChromaClient) -> None:
    """CancelledError comes through as it is, and the connection that was under way is not used again."""
    server.answer = None
    task = asyncio.create_task(query(client))
    await server.asked.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    server.answer = http(200, HITS)
    assert len(await query(client)) == 2


async def test_headers_and_place_are_sent_with_every_request(server: Server) -> None:
    """Token, tenant and database of a hosted ChromaDB."""
    client = ChromaClient(server.url + "/base/", tenant="a b", database="c/d", headers={"x-chroma-token": "t0ken"})
    await query(client)
    await client.close()

    assert [request.split("\r\n")[0] for request in server.requests] == [
        "GET /base/api/v2/tenants/a%20b/databases/c%2Fd/collections/kb_a_g1 HTTP/1.1",
        f"POST /base/api/v2/tenants/a%20b/databases/c%2Fd/collections/{ID}/query HTTP/1.1",
    ]
    assert all("x-chroma-token: t0ken" in request for request in server.requests)


async def test_the_name_is_resolved_once(server: Server, client: ChromaClient) -> None:
    """Later calls go straight to the id, over the same connection."""
    for _ in range(3):
        await query(client)

    assert [request.split()[0] for request in server.requests] == ["GET", "POST", "POST", "POST"]
    assert server.most_connections == 1


async def test_batches_are_no_larger_than_told(server: Server) -> None:
    """Twelve hundred vectors go in three requests of at most 500, and nothing goes for none."""
    server.answer = http(201, b"{}")
    client = ChromaClient(server.url)
    names = [ChunkId(str(n)) for n in range(1_200)]
    await client.add("kb_a_g1", names, np.ones((1_200, 3), np.float32), timeout=10.0)
    await client.delete("kb_a_g1", names, timeout=10.0)
    await client.delete("kb_a_g1", [], timeout=10.0)
    await client.close()

    paths = [request.split()[1].rsplit("/", 1)[1] for request in server.requests]
    assert paths == ["kb_a_g1", "add", "add", "add", "delete", "delete", "delete"]


async def test_the_trace_goes_on_in_chromadb(server: Server, client: ChromaClient) -> None:
    """Requests carry the current W3C trace context, also when this process records no spans."""
    context = SpanContext(0x0AF7651916CD43DD8448EB211C80319C, 0xB7AD6B7169203331, is_remote=True, trace_flags=TraceFlags(TraceFlags.SAMPLED))
    with trace.use_span(NonRecordingSpan(context)):
        await query(client)

    assert all("traceparent: 00-0af7651916cd43dd8448eb211c80319c-" in request for request in server.requests)


async def test_each_call_is_a_span(server: Server) -> None:
    """One client span an HTTP call, named by the operation, with status and collection; a failed one is marked."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    client = ChromaClient(server.url, tracer_provider=provider)
    await query(client)
    server.answer = http(503)
    with pytest.raises(VectorStoreUnavailableError):
        await query(client)
    await client.close()

    spans = exporter.get_finished_spans()
    assert [span.name for span in spans] == ["chromadb.get_collection", "chromadb.query", "chromadb.query"]
    assert {span.kind for span in spans} == {SpanKind.CLIENT}
    assert [span.status.status_code for span in spans] == [StatusCode.UNSET, StatusCode.UNSET, StatusCode.ERROR]
    attributes = dict(spans[2].attributes or {})
    assert attributes["http.response.status_code"] == 503
    assert (attributes["db.system.name"], attributes["db.collection.name"], attributes["server.port"]) == ("chromadb", "kb_a_g1", server.port)
    assert f"-{spans[1].context.span_id:016x}-" in server.requests[1] if spans[1].context else False

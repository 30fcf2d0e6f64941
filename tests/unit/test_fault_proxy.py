"""The proxy that faults are injected with: each fault as a client sees it, and nothing left behind."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TypeVar

import pytest

from services.cli.chaos.proxy import Proxy
from services.cli.chaos.wire_faults import Answer, BlackHole, Delay, Pass, Refuse, Reset, Trickle
from tests.waiting import eventually

T = TypeVar("T")

BODY = b"x" * 2_000


class Upstream:
    """An HTTP server that answers every request with 2,000 bytes; keeps the requests."""

    def __init__(self) -> None:
        self.requests: list[bytes] = []
        self.port = 0
        self._open: set[asyncio.StreamWriter] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        self._open.add(writer)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0]) if b"content-length" in head.lower() else 0
                self.requests.append(head + await reader.readexactly(length))
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(BODY), BODY))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            self._open.discard(writer)
            writer.close()

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self._open)


@asynccontextmanager
async def running(upstream: Upstream) -> AsyncIterator[Proxy]:
    """The server with a proxy before it."""
    server = await asyncio.start_server(upstream.serve, "127.0.0.1", 0)
    upstream.port = server.sockets[0].getsockname()[1]
    async with server, Proxy(upstream.port) as proxy:
        yield proxy


@pytest.fixture
def upstream() -> Upstream:
    """What the proxy leads to."""
    return Upstream()


@pytest.fixture
async def proxy(upstream: Upstream) -> AsyncIterator[Proxy]:
    """A proxy that lets everything through until it is told otherwise."""
    async with running(upstream) as started:
        yield started


class Client:
    """One connection through the proxy."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def to(cls, proxy: Proxy) -> Client:
        """Connects."""
        return cls(*await asyncio.open_connection("127.0.0.1", proxy.port))

    async def ask(self, body: bytes = b"", path: str = "/") -> tuple[int, bytes]:
        """Status and body of an answer. Raises what the connection meets."""
        self.writer.write(b"POST %s HTTP/1.1\r\nContent-Length: %d\r\n\r\n%s" % (path.encode(), len(body), body))
        head = await self.reader.readuntil(b"\r\n\r\n")
        length = int(head.split(b"Content-Length: ")[1].split(b"\r\n")[0])
        return int(head.split(b" ")[1]), await self.reader.readexactly(length)

    def close(self) -> None:
        """Ends the connection."""
        self.writer.close()


async def test_everything_passes_until_told_otherwise(proxy: Proxy, upstream: Upstream) -> None:
    """Requests on a kept connection arrive whole, also one that is larger than a read, and so do their answers."""
    client = await Client.to(proxy)
    large = b"y" * 300_000

    assert await client.ask(b"small") == (200, BODY)
    assert await client.ask(large) == (200, BODY)

    assert upstream.requests[1].endswith(large)
    client.close()


async def test_requests_are_remembered_with_the_time_of_their_answer(proxy: Proxy) -> None:
    """Each request's first line is there, answered after it began; a body in several pieces is one request."""
    client = await Client.to(proxy)
    await client.ask(path="/first")
    await client.ask(b"y" * 200_000, path="/second")

    first, second = proxy.exchanges

    assert (first.line, second.line) == ("POST /first HTTP/1.1", "POST /second HTTP/1.1")
    assert first.answered is not None
    assert first.began <= first.answered <= second.began
    client.close()


async def test_refusing_resets_what_is_open_and_lets_nobody_in(proxy: Proxy) -> None:
    """As when a process is killed; on the same port everything passes again afterwards."""
    client, port = await Client.to(proxy), proxy.port
    await client.ask()

    await proxy.set(Refuse())

    with pytest.raises(ConnectionResetError):
        await client.reader.readexactly(1)
    with pytest.raises(ConnectionRefusedError):
        await Client.to(proxy)
    await proxy.set(Pass())
    assert proxy.port == port
    again = await Client.to(proxy)
    assert (await again.ask())[0] == 200
    again.close()


async def test_a_black_hole_accepts_and_never_answers(proxy: Proxy, upstream: Upstream) -> None:
    """Nothing goes through on old and on new connections; when it ends, both are reset, and new ones work."""
    old = await Client.to(proxy)
    await old.ask()
    await proxy.set(BlackHole())
    new = await Client.to(proxy)

    for client in (old, new):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(client.ask(), 0.1)
    assert len(upstream.requests) == 1

    await proxy.set(Pass())
    for client in (old, new):
        with pytest.raises(ConnectionResetError):
            await client.reader.readexactly(1)
    fresh = await Client.to(proxy)
    assert (await fresh.ask())[0] == 200
    fresh.close()


async def test_a_black_hole_keeps_no_connection_that_its_client_has_given_up(proxy: Proxy) -> None:
    """Clients that time out and close leave nothing behind, though nobody answers them."""
    await proxy.set(BlackHole())
    clients = [await Client.to(proxy) for _ in range(20)]
    for client in clients:
        client.writer.write(b"GET / HTTP/1.1\r\n\r\n")
    await eventually(lambda: _now(proxy.connections), lambda seen: seen == 20, seconds=5)

    for client in clients:
        client.close()

    await eventually(lambda: _now(proxy.connections), lambda seen: seen == 0, seconds=5)


async def test_a_delay_holds_each_direction_up_once(proxy: Proxy) -> None:
    """A request and its answer take twice the delay, also when they are of many pieces; so does each request after the first."""
    await proxy.set(Delay(0.1))
    client = await Client.to(proxy)

    for _ in range(2):
        began = time.monotonic()
        assert await client.ask(b"y" * 500_000) == (200, BODY)
        assert 0.2 <= time.monotonic() - began < 0.6
    client.close()


async def test_a_reset_cuts_an_answer_off_in_the_middle(proxy: Proxy) -> None:
    """So many bytes come, then the connection is reset; so it is for the next answer."""
    await proxy.set(Reset(50))
    for _ in range(2):
        client = await Client.to(proxy)
        client.writer.write(b"GET / HTTP/1.1\r\n\r\n")
        assert len(await client.reader.readexactly(50)) == 50
        with pytest.raises(ConnectionResetError):
            await client.reader.readexactly(1)


async def test_a_share_of_requests_is_answered_with_a_status(proxy: Proxy, upstream: Upstream) -> None:
    """About three of ten fail, the connection stays, and those that failed have not reached the server."""
    await proxy.set(Answer(503, share=0.3))
    client = await Client.to(proxy)

    statuses = [(await client.ask(b"some body"))[0] for _ in range(200)]

    assert 30 <= statuses.count(503) <= 90
    assert len(upstream.requests) == statuses.count(200)
    client.close()


async def test_only_requests_with_certain_bytes_are_answered_with_a_status(proxy: Proxy, upstream: Upstream) -> None:
    """Wherever in the request they stand, also behind many reads."""
    await proxy.set(Answer(400, containing=b"poison"))
    client = await Client.to(proxy)

    assert (await client.ask(b"y" * 200_000 + b"poison"))[0] == 400
    assert (await client.ask(b"y" * 200_000))[0] == 200

    assert len(upstream.requests) == 1
    client.close()


async def test_answers_trickle(proxy: Proxy) -> None:
    """2,000 bytes at 10,000 a second take their time; when the fault ends, the rest comes at once."""
    await proxy.set(Trickle(10_000))
    client = await Client.to(proxy)
    began = time.monotonic()
    assert await client.ask() == (200, BODY)
    assert time.monotonic() - began >= 0.15

    await proxy.set(Trickle(1))
    asking = asyncio.create_task(client.ask())
    await eventually(lambda: _now(proxy.exchanges[-1].answered), lambda seen: seen is not None, seconds=5)
    await proxy.set(Pass())
    assert await asyncio.wait_for(asking, 2) == (200, BODY)
    client.close()


async def test_a_proxy_without_an_upstream_resets_its_clients(upstream: Upstream) -> None:
    """What is not there does not answer, and says so at once."""
    async with running(upstream) as proxy:
        pass
    async with Proxy(upstream.port) as proxy:
        client = await Client.to(proxy)
        with pytest.raises(ConnectionResetError):
            await client.reader.readexactly(1)


async def test_nothing_is_left_behind(upstream: Upstream) -> None:
    """After its end there is no task, no connection to the upstream and no open port, whatever the faults were and clients did."""
    before = asyncio.all_tasks()
    async with running(upstream) as proxy:
        clients = [await Client.to(proxy) for _ in range(5)]
        for client in clients:
            await client.ask()
        for fault in (BlackHole(), Delay(5), Trickle(1), Reset(1), Answer(500), Refuse(), BlackHole(), Pass()):
            await proxy.set(fault)
            if fault != Refuse():
                client = await Client.to(proxy)
                client.writer.write(b"GET / HTTP/1.1\r\n\r\n")
                clients.append(client)
        port = proxy.port
    assert proxy.connections == 0
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", port)
    await eventually(lambda: _now(upstream.connections), lambda seen: seen == 0, seconds=5)
    for client in clients:
        client.close()
    await eventually(lambda: _now(asyncio.all_tasks() - before), lambda seen: not seen, seconds=5)


async def _now(value: T) -> T:
    return value

"""A TCP proxy between a service and what it depends on, whose traffic can be disturbed while it runs.

It knows as much of HTTP/1.1 as the faults need: a request begins with the first bytes that a client sends on a new connection or after an answer
(ChromaDB's clients do not pipeline). What is not HTTP/1.1, like the feed, passes all the same; only `Answer` is not for it.
"""

from __future__ import annotations

import asyncio
import random
import socket
import struct
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NoReturn, Self

from services.cli.chaos.delay_line import DelayLine
from services.cli.chaos.http_request import canned_answer, read_request
from services.cli.chaos.wire_faults import Answer, BlackHole, Delay, Pass, Refuse, Reset, Trickle, WireFault

_HOST = "127.0.0.1"
_READ_BYTES = 64 * 1024
_CONNECT_TIMEOUT = 5.0  # seconds; the upstream is on the loopback interface
_EXCHANGES = 20_000  # remembered at most, about 5 MB
_LINE_BYTES = 300  # of a request's first line
_TRICKLE_TICK = 0.05  # seconds between two pieces of an answer that trickles
_ABORT = struct.pack("ii", 1, 0)  # SO_LINGER with 0 seconds: closing sends RST


@dataclass(slots=True)
class Exchange:
    """A request that was seen: its first line, and when it began and when its answer began, in seconds of the event loop's clock."""

    line: str
    began: float
    answered: float | None = None


class _Connection:
    """One client's connection and, unless the fault keeps it from being made, the one to the upstream."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.upstream: asyncio.StreamWriter | None = None
        self.fresh = True  # the next bytes from the client begin a request
        self.answered_bytes = 0
        self.exchange: Exchange | None = None

    async def close(self) -> None:
        """Closes both sides after what waits to be written."""
        for writer in filter(None, (self.writer, self.upstream)):
            writer.close()
            await writer.wait_closed()

    def abort(self) -> None:
        """Resets both sides; what waits to be written is dropped."""
        for writer in filter(None, (self.writer, self.upstream)):
            raw: socket.socket | None = writer.get_extra_info("socket")
            if raw is not None and raw.fileno() >= 0:
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ABORT)
            writer.transport.abort()


class Proxy:
    """Listens on a free port of the loopback interface and passes connections on to another; an async context manager.

    Args:
        upstream: Port on the loopback interface.
        seed: Of what is left to chance (`Answer.share`), so that a run can be repeated.
    """

    def __init__(self, upstream: int, *, seed: int = 1) -> None:
        self._upstream = upstream
        self._chance = random.Random(seed)  # noqa: S311 - which request fails is no secret
        self._fault: WireFault = Pass()
        self._changed = asyncio.Event()
        self._server: asyncio.Server | None = None
        self._port = 0
        self._holder: socket.socket
        self._connections: dict[asyncio.Task[None], _Connection] = {}
        self._exchanges: deque[Exchange] = deque(maxlen=_EXCHANGES)

    async def __aenter__(self) -> Self:
        # Bound and never listening: while the proxy refuses connections, nobody else is given its port.
        self._holder = _socket(0)
        self._port = self._holder.getsockname()[1]
        await self._listen()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stop()
        self._holder.close()

    @property
    def port(self) -> int:
        """Where it listens; the same for as long as it lives."""
        return self._port

    @property
    def address(self) -> str:
        """`host:port`."""
        return f"{_HOST}:{self._port}"

    @property
    def url(self) -> str:
        """For clients of HTTP."""
        return f"http://{self.address}"

    @property
    def fault(self) -> WireFault:
        """What is done to the traffic now."""
        return self._fault

    @property
    def connections(self) -> int:
        """Clients that are connected."""
        return len(self._connections)

    @property
    def exchanges(self) -> Sequence[Exchange]:
        """The HTTP requests that were seen, the oldest first; the last 20,000."""
        return tuple(self._exchanges)

    async def set(self, fault: WireFault) -> None:
        """Changes what is done, also to what is under way. Connections that a black hole has swallowed something of are reset."""
        before, self._fault = self._fault, fault
        self._changed.set()
        self._changed = asyncio.Event()
        if isinstance(fault, Refuse):
            await self._stop()
            return
        if isinstance(before, BlackHole):
            await self._drop_all()
        await self._listen()

    async def _listen(self) -> None:
        if self._server is None:
            self._server = await asyncio.start_server(self._accept, sock=_socket(self._port))

    async def _stop(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            server.close()
            await self._drop_all()
            await server.wait_closed()

    async def _drop_all(self) -> None:
        tasks = list(self._connections)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = _Connection(reader, writer)
        task = asyncio.get_running_loop().create_task(self._serve(connection))
        self._connections[task] = connection
        task.add_done_callback(self._connections.pop)

    async def _serve(self, connection: _Connection) -> None:
        """One connection, until either side ends it or a fault does. What a side has closed properly is closed so on the other side."""
        try:
            if isinstance(self._fault, BlackHole):
                await _swallow(connection.reader)
            async with asyncio.timeout(_CONNECT_TIMEOUT):
                upstream, connection.upstream = await asyncio.open_connection(_HOST, self._upstream)
            await _first_to_end(self._requests(connection, connection.upstream), self._answers(connection, upstream))
            await connection.close()
        except (OSError, TimeoutError, EOFError):
            return  # a side has gone without a word, the upstream is not there, or the fault wants a reset
        finally:
            connection.abort()

    async def _requests(self, connection: _Connection, upstream: asyncio.StreamWriter) -> None:
        async def read(line: DelayLine) -> None:
            while data := await connection.reader.read(_READ_BYTES):
                if isinstance(self._fault, BlackHole):
                    await _swallow(connection.reader)
                if connection.fresh:
                    self._begin(connection, data)
                    if isinstance(self._fault, Answer):
                        data = await read_request(connection.reader, data)
                        if self._is_answered_here(self._fault, data):
                            connection.fresh = True
                            connection.writer.write(canned_answer(self._fault.status))
                            await connection.writer.drain()
                            continue
                await line.put(data, self._delay)

        async def receive(data: bytes) -> None:
            upstream.write(data)
            await upstream.drain()

        await _carry(read, receive)

    async def _answers(self, connection: _Connection, upstream: asyncio.StreamReader) -> None:
        async def read(line: DelayLine) -> None:
            while data := await upstream.read(_READ_BYTES):
                connection.fresh = True
                await line.put(data, self._delay)

        await _carry(read, lambda data: self._answer(connection, data))
        await self._held()

    async def _answer(self, connection: _Connection, data: bytes) -> None:
        """Gives a piece of an answer to the client, as the fault wants it."""
        await self._held()
        if connection.exchange is not None and connection.exchange.answered is None:
            connection.exchange.answered = asyncio.get_running_loop().time()
        match self._fault:
            case Reset(after_bytes):
                connection.writer.write(data[: max(0, after_bytes - connection.answered_bytes)])
                connection.answered_bytes += len(data)
                await _flushed(connection.writer)
                if connection.answered_bytes > after_bytes:
                    raise ConnectionResetError
            case Trickle(bytes_per_second):
                await self._trickle(connection.writer, data, bytes_per_second)
            case _:
                connection.writer.write(data)
                await connection.writer.drain()

    @property
    def _delay(self) -> float:
        return self._fault.seconds if isinstance(self._fault, Delay) else 0.0

    async def _held(self) -> None:
        """Does not come back from a black hole: its end resets the connection."""
        if isinstance(self._fault, BlackHole):
            await asyncio.Event().wait()

    def _begin(self, connection: _Connection, data: bytes) -> None:
        """Notes that a request begins with these bytes."""
        connection.fresh = False
        connection.answered_bytes = 0
        line = data[:_LINE_BYTES].split(b"\r\n", 1)[0].decode("latin-1")
        if line.endswith("HTTP/1.1"):
            connection.exchange = Exchange(line, asyncio.get_running_loop().time())
            self._exchanges.append(connection.exchange)

    def _is_answered_here(self, fault: Answer, request: bytes) -> bool:
        return fault.containing in request and self._chance.random() < fault.share

    async def _trickle(self, writer: asyncio.StreamWriter, data: bytes, bytes_per_second: float) -> None:
        """Passes data on piece by piece while the fault is this one, and the rest at once."""
        piece = max(1, int(bytes_per_second * _TRICKLE_TICK))
        for start in range(0, len(data), piece):
            if self._fault != Trickle(bytes_per_second):
                writer.write(data[start:])
                break
            writer.write(data[start : start + piece])
            await writer.drain()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), piece / bytes_per_second)
        await writer.drain()


def _socket(port: int) -> socket.socket:
    """Bound to the port of the loopback interface, 0 for any; several may be, as long as one of them alone listens."""
    bound = socket.socket()
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.bind((_HOST, port))
    return bound


async def _swallow(reader: asyncio.StreamReader) -> NoReturn:
    """Reads and forgets, because only so is it seen that the client gives up. Raises EOFError when it does."""
    while await reader.read(_READ_BYTES):
        continue
    raise EOFError


async def _flushed(writer: asyncio.StreamWriter) -> None:
    """Waits until everything is with the kernel: a reset drops what is not."""
    writer.transport.set_write_buffer_limits(high=0)
    await writer.drain()


async def _carry(read: Callable[[DelayLine], Awaitable[None]], receive: Callable[[bytes], Awaitable[None]]) -> None:
    """One direction, until its source ends and everything has arrived. Raises what either end raises."""
    line = DelayLine()

    async def send() -> None:
        await read(line)
        await line.put(b"", 0.0)
        await asyncio.Event().wait()  # what is under way arrives first: the end of the line is the end

    await _first_to_end(send(), line.deliver(receive))


async def _first_to_end(*pumps: Coroutine[Any, Any, None]) -> None:
    """Runs both until one ends, and cancels the other. Raises what the one raised."""
    tasks = {asyncio.create_task(pump) for pump in pumps}
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        task.result()

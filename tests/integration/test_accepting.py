"""The server takes several calls at a time, and is in every other way that of grpc.aio."""

from __future__ import annotations

import asyncio
import io
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.wrappers_pb2 import StringValue

from shared.observability import logging
from shared.rpc.accepting import accepting_server
from tests.waiting import eventually

SERVICE = "tests.Crowd"
CALLS = 48


@dataclass
class Crowd:
    """Counts who is there and lets nobody go before it is told to."""

    here: int = 0
    go: asyncio.Event = field(default_factory=asyncio.Event)

    async def wait(self, request: StringValue, _context: object) -> StringValue:
        """Waits with the others."""
        self.here += 1
        await self.go.wait()
        return request

    async def count(self, request: StringValue, _context: object) -> AsyncIterator[StringValue]:
        """A stream of answers."""
        for number in range(3):
            yield StringValue(value=f"{request.value}{number}")

    async def crash(self, _request: StringValue, _context: object) -> StringValue:
        """A defect."""
        raise RuntimeError("inside")


@dataclass
class Running:
    """A server and a channel to it."""

    server: grpc.aio.Server
    crowd: Crowd
    channel: grpc.aio.Channel

    def call(self, method: str, text: str = "", *, timeout: float = 20) -> Any:  # noqa: ANN401 - gRPC's call object
        """Starts a call."""
        make = self.channel.unary_stream if method == "count" else self.channel.unary_unary
        start: Any = make(f"/{SERVICE}/{method}", request_serializer=StringValue.SerializeToString, response_deserializer=StringValue.FromString)
        return start(StringValue(value=text), timeout=timeout)

    async def code(self, method: str) -> grpc.StatusCode:
        """How a call with little time ends."""
        try:
            await self.call(method, timeout=0.2)
        except grpc.aio.AioRpcError as error:
            return error.code()
        return grpc.StatusCode.OK

    async def here(self) -> int:
        """Calls that have come in."""
        return self.crowd.here


@asynccontextmanager
async def serving(server: grpc.aio.Server) -> AsyncIterator[Running]:
    """The server with its service on a free port."""
    crowd = Crowd()
    coding: dict[str, Any] = {"request_deserializer": StringValue.FromString, "response_serializer": StringValue.SerializeToString}
    methods = {
        "wait": grpc.unary_unary_rpc_method_handler(crowd.wait, **coding),
        "count": grpc.unary_stream_rpc_method_handler(crowd.count, **coding),
        "crash": grpc.unary_unary_rpc_method_handler(crowd.crash, **coding),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, methods),))
    server.add_registered_method_handlers(SERVICE, methods)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            await channel.channel_ready()
            yield Running(server, crowd, channel)
    finally:
        await server.stop(0)


async def turns_until_all_are_in(server: grpc.aio.Server) -> int:
    """Turns of a busy event loop between the first of many calls and the last."""
    async with serving(server) as running:
        calls = [running.call("wait") for _ in range(CALLS)]
        turns = 0
        async with asyncio.timeout(30):
            while running.crowd.here < CALLS:
                time.sleep(0.002)  # noqa: ASYNC251 - other work, which holds the loop up
                turns += running.crowd.here > 0
                await asyncio.sleep(0)
        running.crowd.go.set()
        await asyncio.gather(*calls)
        return turns


async def test_calls_come_in_several_at_a_time() -> None:
    """While the loop is busy, a crowd is let in within a fraction of the turns that the library alone needs."""
    ours = await turns_until_all_are_in(accepting_server((), ()))
    librarys = await turns_until_all_are_in(grpc.aio.server())
    assert ours * 2 < librarys, f"{ours} turns against {librarys}"


async def test_every_call_is_answered_once_and_with_its_own_answer() -> None:
    """Hundreds at the same time."""
    async with serving(accepting_server((), ())) as running:
        running.crowd.go.set()
        answers = await asyncio.gather(*(running.call("wait", str(number)) for number in range(300)))
        assert [answer.value for answer in answers] == [str(number) for number in range(300)]
        assert running.crowd.here == 300


async def test_streams_are_answered_too() -> None:
    """Each method has its own requests at the core."""
    async with serving(accepting_server((), ())) as running:
        streams = [running.call("count", str(number)) for number in range(50)]
        for number, stream in enumerate(streams):
            assert [answer.value async for answer in stream] == [f"{number}{part}" for part in range(3)]


async def test_a_client_that_cancels_ends_its_call() -> None:
    """The cancellation reaches the method."""
    async with serving(accepting_server((), ())) as running:
        calls = [running.call("wait") for _ in range(20)]
        await eventually(running.here, lambda here: here == 20)
        for call in calls:
            call.cancel()
        running.crowd.go.set()
        assert (await running.call("wait", "still there")).value == "still there"


async def test_a_method_that_does_not_exist_is_unimplemented() -> None:
    """As with the library."""
    async with serving(accepting_server((), ())) as running:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await running.call("nothing")
        assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_a_defect_ends_one_call() -> None:
    """And the server goes on, however often."""
    async with serving(accepting_server((), ())) as running:
        for _ in range(30):
            with pytest.raises(grpc.aio.AioRpcError):
                await running.call("crash")
        running.crowd.go.set()
        await running.call("wait")


class TroubledCore:
    """The server's core, which fails for a while when it is asked for a call of a method."""

    def __init__(self, core: Any) -> None:  # noqa: ANN401 - the library's core is of Cython
        self._core = core
        self.failing = True
        self.failed = self.taken = 0

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - same
        return getattr(self._core, name)

    async def _request_registered_call(self, path: bytes) -> Any:  # noqa: ANN401 - same
        if self.failing:
            self.failed += 1
            raise RuntimeError("the core has a defect")
        call = await self._core._request_registered_call(path)
        self.taken += 1
        return call


async def test_a_core_that_fails_is_asked_again_later_and_told_of() -> None:
    """Calls are answered meanwhile; no lane is lost, and none asks without a pause."""
    lines = io.StringIO()
    logging.configure("indexer", "info", "json", stream=lines)
    server: Any = accepting_server((), ())
    server._server = core = TroubledCore(server._server)
    async with serving(server) as running:
        running.crowd.go.set()
        lanes = core.failed
        assert (await running.call("wait", "meanwhile")).value == "meanwhile"

        async def failed() -> int:
            return core.failed

        await eventually(failed, lambda count: count >= 2 * lanes)
        rounds = core.failed
        for _ in range(20):
            await running.call("wait")
        assert core.failed - rounds <= 2 * lanes, "a lane asks again whenever the loop turns"
        core.failing = False

        async def taken() -> int:
            await asyncio.gather(*(running.call("wait") for _ in range(50)))
            return core.taken

        await eventually(taken, lambda count: count > 0)
    said = [json.loads(line) for line in lines.getvalue().splitlines()]
    assert {(line["event"], line["path"]) for line in said} == {("call_not_taken", f"/{SERVICE}/{name}") for name in ("wait", "count", "crash")}
    assert all("the core has a defect" in line["exception"] for line in said)


async def test_a_server_whose_core_fails_stops_at_once() -> None:
    """Nothing of it waits until it would ask again."""
    server: Any = accepting_server((), ())
    server._server = core = TroubledCore(server._server)
    before = asyncio.all_tasks()
    async with serving(server):
        assert core.failed
    for _ in range(10):
        await asyncio.sleep(0)
    assert len(asyncio.all_tasks() - before) <= 1


async def test_calls_that_are_under_way_finish_when_the_server_stops() -> None:
    """Within the grace; new ones are refused; the tasks end."""
    before = asyncio.all_tasks()
    async with serving(accepting_server((), ())) as running:
        calls = [running.call("wait") for _ in range(20)]
        await eventually(running.here, lambda here: here == 20)
        stopping = asyncio.create_task(running.server.stop(20))
        await eventually(lambda: running.code("wait"), lambda code: code is grpc.StatusCode.UNAVAILABLE)
        running.crowd.go.set()
        assert len(await asyncio.gather(*calls)) == 20
        await stopping

    async def left() -> int:
        return len(asyncio.all_tasks() - before)

    await eventually(left, lambda count: count <= 1, seconds=10)


async def test_a_server_may_be_started_and_stopped_many_times() -> None:
    """Nothing is left that would meet a server which is gone."""
    for _ in range(20):
        async with serving(accepting_server((), ())) as running:
            running.crowd.go.set()
            await running.call("wait")

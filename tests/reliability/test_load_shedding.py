"""Load shedding as clients see it: a real server with limits, and calls beyond them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio
import pytest
import pytest_asyncio
from google.protobuf.wrappers_pb2 import StringValue
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from shared.errors import ResourceExhaustedError
from shared.observability import metrics
from shared.resilience.admission import OVERLOADED, Limit
from shared.rpc import chain
from shared.rpc.channel import create_channel
from shared.rpc.server import bind, create_server, serving
from shared.rpc.status import from_rpc_error
from tests.waiting import eventually

SERVICE = "tests.Slow"
MESSAGE_BYTES = 1024 * 1024


@dataclass
class Slow:
    """Answers when it is told to."""

    go: asyncio.Event = field(default_factory=asyncio.Event)
    working: int = 0

    async def wait(self, request: StringValue, _context: object) -> StringValue:
        """Waits, then answers."""
        self.working += 1
        try:
            await self.go.wait()
        finally:
            self.working -= 1
        return request


@dataclass
class Running:
    """The server's behaviour and a client of it."""

    slow: Slow
    channel: grpc.aio.Channel

    def call(self, method: str = "limited", text: str = "", timeout: float = 20) -> Any:  # noqa: ANN401 - gRPC's call object
        """Starts a call."""
        start = self.channel.unary_unary(
            f"/{SERVICE}/{method}", request_serializer=StringValue.SerializeToString, response_deserializer=StringValue.FromString
        )
        return start(StringValue(value=text), timeout=timeout)

    async def fill(self, places: int) -> list[Any]:
        """Calls that hold every place."""
        calls = [self.call() for _ in range(places)]
        await eventually(self.at_work, lambda working: working == places)
        return calls

    async def at_work(self) -> int:
        """Calls that are being worked on."""
        return self.slow.working


@pytest_asyncio.fixture
async def running() -> AsyncIterator[Running]:
    """A server whose method `limited` has two places and a queue of one."""
    slow = Slow()
    coding: dict[str, Any] = {"request_deserializer": StringValue.FromString, "response_serializer": StringValue.SerializeToString}
    methods = {
        "limited": grpc.unary_unary_rpc_method_handler(slow.wait, **coding),
        "other": grpc.unary_unary_rpc_method_handler(slow.wait, **coding),
    }
    limits = {f"{SERVICE}/limited": Limit(concurrency=2, queue=1, patience=30.0)}
    server = create_server(interceptors=chain.interceptors(limits=limits), max_message_bytes=MESSAGE_BYTES)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, methods),))
    health_pb2_grpc.add_HealthServicer_to_server(health.aio.HealthServicer(), server)
    port = bind(server, "127.0.0.1", 0)
    async with serving(server, grace=0), create_channel(f"127.0.0.1:{port}", max_message_bytes=MESSAGE_BYTES) as channel:
        yield Running(slow, channel)


def sample(name: str) -> float:
    """A sample of the method `limited`."""
    return metrics.REGISTRY.get_sample_value(name, {"grpc_service": SERVICE, "grpc_method": "limited"}) or 0.0


async def waiting() -> float:
    """Calls in the queue, as operators see it."""
    return sample("kb_requests_waiting")


async def test_what_is_too_much_is_refused_at_once_and_told_when_to_come_back(running: Running) -> None:
    """RESOURCE_EXHAUSTED with reason and RetryInfo; it is counted; the ones before are answered all the same."""
    shed = sample("kb_requests_shed_total")
    admitted = await running.fill(2)
    admitted.append(running.call())
    await eventually(waiting, lambda count: count == 1)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await running.call(timeout=5)
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    error = from_rpc_error(refused.value)
    assert isinstance(error, ResourceExhaustedError)
    assert error.reason == OVERLOADED
    assert 0.5 <= error.retry_after <= 1.5
    assert sample("kb_requests_shed_total") == shed + 1
    running.slow.go.set()
    assert len(await asyncio.gather(*admitted)) == 3
    assert sample("kb_requests_in_flight") == 0


async def test_a_full_method_is_no_other_methods_concern(running: Running) -> None:
    """Limits are by method."""
    held = await running.fill(2)
    other = running.call("other")
    await eventually(running.at_work, lambda working: working == 3)
    running.slow.go.set()
    await asyncio.gather(other, *held)


async def test_health_is_never_shed(running: Running) -> None:
    """With every place and the queue taken, probes are answered."""
    held = [*await running.fill(2), running.call()]
    await eventually(waiting, lambda count: count == 1)
    stub: Any = health_pb2_grpc.HealthStub(running.channel)
    for _ in range(100):
        response = await stub.Check(health_pb2.HealthCheckRequest(), timeout=5)
        assert response.status == health_pb2.HealthCheckResponse.SERVING
    running.slow.go.set()
    await asyncio.gather(*held)


async def test_clients_that_give_up_in_the_queue_make_room(running: Running) -> None:
    """The queue holds only those that still wait."""
    held = await running.fill(2)
    impatient = running.call()
    await eventually(waiting, lambda count: count == 1)
    impatient.cancel()
    await eventually(waiting, lambda count: count == 0)
    patient = running.call()
    await eventually(waiting, lambda count: count == 1)
    running.slow.go.set()
    await asyncio.gather(patient, *held)

"""What a service says at grpc.health.v1 while it goes away."""

from __future__ import annotations

import asyncio
import enum
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2

_FIRST = 5.0  # seconds that the first word may take


class Serving(enum.IntEnum):
    """The values are those of grpc.health.v1."""

    UNKNOWN = health_pb2.HealthCheckResponse.UNKNOWN
    SERVING = health_pb2.HealthCheckResponse.SERVING
    NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
    SERVICE_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


async def says(address: str, service: str, *, timeout: float) -> Serving | None:
    """What the service at `address` says of `service` (`liveness`, `readiness`, …); None if nothing answers within `timeout` seconds."""
    async with grpc.aio.insecure_channel(address) as channel:
        check = channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )
        try:
            response = await check(health_pb2.HealthCheckRequest(service=service), timeout=timeout)
        except grpc.aio.AioRpcError:
            return None
        return Serving(response.status)


@asynccontextmanager
async def watching(address: str) -> AsyncIterator[list[Serving]]:
    """What the service at `address` says of `readiness`, from now on: a list that grows until the service is gone, or the end of the context."""
    said: list[Serving] = []
    first = asyncio.Event()

    async def listen(channel: grpc.aio.Channel) -> None:
        watch = channel.unary_stream(
            "/grpc.health.v1.Health/Watch",
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )
        try:
            async for response in watch(health_pb2.HealthCheckRequest(service="readiness")):
                said.append(Serving(response.status))
                first.set()
        except grpc.aio.AioRpcError:
            return  # it is gone

    async with grpc.aio.insecure_channel(address) as channel:
        listening = asyncio.create_task(listen(channel))
        try:
            await asyncio.wait_for(first.wait(), _FIRST)
            yield said
        finally:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)

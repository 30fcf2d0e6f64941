"""Asks a service over grpc.health.v1 whether it may be used."""

from __future__ import annotations

import grpc
from grpc_health.v1 import health_pb2

_TIMEOUT = 1.0  # seconds; a loopback answer takes a few milliseconds


async def is_ready(address: str, *, timeout: float = _TIMEOUT) -> bool:
    """Whether the service at `address` says SERVING for `readiness`; False also when nothing answers within `timeout` seconds.

    A channel a call: a kept one would wait out gRPC's reconnection backoff after the first refused connection.
    """
    async with grpc.aio.insecure_channel(address) as channel:
        # Not through the generated stub, whose type stub has no methods.
        check = channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )
        try:
            response = await check(health_pb2.HealthCheckRequest(service="readiness"), timeout=timeout)
        except grpc.aio.AioRpcError:
            return False
        return response.status == health_pb2.HealthCheckResponse.SERVING

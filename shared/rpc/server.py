"""A gRPC server with the limits that both services share."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

import grpc
import grpc.aio
from grpc_health.v1 import health
from grpc_reflection.v1alpha import reflection

from shared.errors import ConfigurationError
from shared.rpc.accepting import accepting_server
from shared.rpc.metrics import start_at_zero

# Clients ping every 30 s (channel.py); one that pings more often than every 10 s is disconnected.
SERVER_OPTIONS: Final = (
    ("grpc.so_reuseport", 0),  # by default a second server would share the port in silence
    ("grpc.keepalive_time_ms", 60_000),  # find clients that are gone without a word, whose streams would be kept for ever
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
)


def create_server(*, interceptors: Sequence[grpc.aio.ServerInterceptor], max_message_bytes: int) -> grpc.aio.Server:
    """A server without port and services. `interceptors` come from `chain.interceptors()`; messages are limited both ways."""
    limits = (("grpc.max_receive_message_length", max_message_bytes), ("grpc.max_send_message_length", max_message_bytes))
    return accepting_server(interceptors, (*SERVER_OPTIONS, *limits))


def bind(server: grpc.aio.Server | grpc.Server, host: str, port: int, *, setting: str = "") -> int:
    """Opens the port and returns it; 0 takes a free one. Call it before `server.start()`.

    Raises:
        ConfigurationError: when the port is taken or the host is not of this machine; the message names `setting`, for example `KB_QUERY_PORT`.
    """
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        return int(server.add_insecure_port(address))
    except RuntimeError as error:
        hint = f"; choose another with {setting}" if setting else ""
        raise ConfigurationError(f"cannot listen on {address}: the port is in use, or the host is not an address of this machine{hint}") from error


def describe(server: grpc.aio.Server, services: Sequence[str]) -> None:
    """Turns on reflection for these services (full names), so that grpcurl needs no proto files, and makes their metrics series."""
    reflection.enable_server_reflection((*services, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
    start_at_zero((*services, health.SERVICE_NAME))


@asynccontextmanager
async def serving(server: grpc.aio.Server, *, grace: float) -> AsyncIterator[grpc.aio.Server]:
    """Starts the server; at the end takes no new calls, and cancels those that are not done after `grace` seconds."""
    await server.start()
    try:
        yield server
    finally:
        await server.stop(grace)

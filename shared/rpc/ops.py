"""The services of `ops.v1`, which every process has, for whoever operates it."""

from __future__ import annotations

import grpc.aio

from shared.gen.knowledgebeast.ops.v1 import logging_pb2_grpc, status_pb2_grpc
from shared.health import HealthMonitor
from shared.observability.logging import levels_of_process
from shared.rpc.logging_service import LoggingServicer
from shared.rpc.status_service import StatusServicer


def add_ops_services(server: grpc.aio.Server, monitor: HealthMonitor) -> None:
    """Adds StatusService, from the monitor's checks, and LoggingService, over the levels of this process."""
    status_pb2_grpc.add_StatusServiceServicer_to_server(StatusServicer(monitor), server)
    logging_pb2_grpc.add_LoggingServiceServicer_to_server(LoggingServicer(levels_of_process), server)

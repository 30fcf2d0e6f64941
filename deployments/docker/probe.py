"""Health command of the images: `probe.py PORT [NAME]` asks grpc.health.v1 on this container's own loopback, and exits with 0 if it says SERVING.

NAME is `readiness` unless given; the others are those of `shared/serving.py`. It takes a tenth of a second. Kubernetes needs no such command: its
kubelet speaks the protocol itself.
"""

from __future__ import annotations

import sys
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

_TIMEOUT = 2.0  # seconds; less than the images' HEALTHCHECK allows


def main(port: str, name: str = "readiness") -> int:
    """The exit status: 0 for SERVING, 1 for any other answer, or none."""
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)  # its type stub has no methods
        try:
            answer = stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=_TIMEOUT)
        except grpc.RpcError as error:
            sys.stderr.write(f"{name} on port {port}: {error.code().name}\n")
            return 1
    state = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
    sys.stdout.write(f"{name} on port {port}: {state}\n")
    return 0 if answer.status == health_pb2.HealthCheckResponse.SERVING else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:3]))

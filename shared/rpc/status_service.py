"""ops.v1.StatusService over the health monitor."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from shared.gen.knowledgebeast.ops.v1 import status_pb2, status_pb2_grpc
from shared.health import ComponentStatus, HealthMonitor, ServiceStatus
from shared.rpc.convert import struct_from_metadata, timestamp
from shared.version import VERSION

SERVICE_NAME: Final = status_pb2.DESCRIPTOR.services_by_name["StatusService"].full_name

_SERVICE: Final[Mapping[ServiceStatus, status_pb2.ServiceStatus.ValueType]] = {
    ServiceStatus.HEALTHY: status_pb2.SERVICE_STATUS_HEALTHY,
    ServiceStatus.DEGRADED: status_pb2.SERVICE_STATUS_DEGRADED,
    ServiceStatus.UNHEALTHY: status_pb2.SERVICE_STATUS_UNHEALTHY,
}
_COMPONENT: Final[Mapping[ComponentStatus, status_pb2.ServiceStatus.ValueType]] = {
    ComponentStatus.UP: status_pb2.SERVICE_STATUS_HEALTHY,
    ComponentStatus.DEGRADED: status_pb2.SERVICE_STATUS_DEGRADED,
    ComponentStatus.DOWN: status_pb2.SERVICE_STATUS_UNHEALTHY,
}


class StatusServicer(status_pb2_grpc.StatusServiceServicer):
    """Answers from the last background checks."""

    def __init__(self, monitor: HealthMonitor) -> None:
        self._monitor = monitor

    async def GetStatus(self, request: status_pb2.GetStatusRequest, context: Any) -> status_pb2.GetStatusResponse:  # noqa: ANN401 - gRPC's names
        """See status.proto."""
        components = [
            status_pb2.ComponentStatus(
                name=name,
                status=_COMPONENT[report.status],
                message=report.message,
                check_time=timestamp(report.check_time),
                details=struct_from_metadata(report.details),
            )
            for name, report in self._monitor.reports().items()
        ]
        return status_pb2.GetStatusResponse(
            service=self._monitor.service,
            version=VERSION,
            status=_SERVICE[self._monitor.status],
            components=components,
            time=timestamp(datetime.now(UTC)),
            start_time=timestamp(self._monitor.start_time),
        )

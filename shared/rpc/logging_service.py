"""ops.v1.LoggingService: which lines this process logs, looked at and changed while it runs."""

from __future__ import annotations

from typing import Any, Final

from shared.errors import InvalidArgumentError
from shared.gen.knowledgebeast.ops.v1 import logging_pb2 as pb
from shared.gen.knowledgebeast.ops.v1 import logging_pb2_grpc
from shared.observability.log_levels import LogLevels
from shared.observability.logging import get_logger
from shared.rpc.log_levels import FROM_MESSAGE, TO_MESSAGE

SERVICE_NAME: Final = pb.DESCRIPTOR.services_by_name["LoggingService"].full_name

# Whoever makes a service quiet must be heard of, even if this logger is what they made quiet.
_log: Final = get_logger(__name__, always=True)


class LoggingServicer(logging_pb2_grpc.LoggingServiceServicer):
    """Shows and changes the levels of this process."""

    def __init__(self, levels: LogLevels) -> None:
        self._levels = levels

    async def GetLogLevels(self, request: pb.GetLogLevelsRequest, context: Any) -> pb.GetLogLevelsResponse:  # noqa: ANN401 - gRPC's context
        """See logging.proto."""
        return pb.GetLogLevelsResponse(levels=self._all())

    async def SetLogLevel(self, request: pb.SetLogLevelRequest, context: Any) -> pb.SetLogLevelResponse:  # noqa: ANN401 - same
        """See logging.proto."""
        if request.level != pb.LOG_LEVEL_UNSPECIFIED and request.level not in FROM_MESSAGE:
            raise InvalidArgumentError.of("level", "is not a LogLevel")
        before = self._levels.of(request.logger)
        self._levels.change(request.logger, FROM_MESSAGE.get(request.level))
        # `before` and `after` are None where the logger has no level of its own and that of the one above it holds.
        after = self._levels.of(request.logger)
        _log.warning("log level set", changed_logger=request.logger, before=before, after=after, peer=context.peer())
        return pb.SetLogLevelResponse(levels=self._all())

    def _all(self) -> list[pb.LoggerLevel]:
        return [pb.LoggerLevel(logger=each.logger, level=TO_MESSAGE[each.level], changed=each.changed) for each in self._levels.current()]

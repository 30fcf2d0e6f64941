"""Calls to LoggingService: which lines a service logs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from shared.client.endpoint import Endpoint
from shared.errors import InvalidArgumentError
from shared.gen.knowledgebeast.ops.v1 import logging_pb2 as pb
from shared.gen.knowledgebeast.ops.v1 import logging_pb2_grpc
from shared.observability.log_levels import LoggerLevel
from shared.rpc.log_levels import FROM_MESSAGE, TO_MESSAGE


class LoggingCalls:
    """What either service logs, looked at and changed. `timeout` is in seconds; None takes the client's."""

    _indexer: Endpoint
    _query: Endpoint

    async def log_levels(self, service: Literal["indexer", "query"], *, timeout: float | None = None) -> list[LoggerLevel]:
        """The loggers that have a level of their own; `root` first, which all others fall back on."""
        endpoint = self._endpoint(service)
        response = await endpoint.call(_stub(endpoint).GetLogLevels, pb.GetLogLevelsRequest(), timeout)
        return _levels(response.levels)

    async def set_log_level(
        self, service: Literal["indexer", "query"], logger: str, level: str | None, *, timeout: float | None = None
    ) -> list[LoggerLevel]:
        """Sets the level of a logger and those below it until the process ends; what `log_levels` gives after that.

        Args:
            service: whose logger.
            logger: its name, for example `services.query`, or `root`.
            level: debug, info, warning or error; None gives it back what the settings say.
            timeout: see the class.

        Raises InvalidArgumentError for a name or a level that cannot be, ResourceExhaustedError when 100 loggers have a level already.
        """
        if level is not None and level not in TO_MESSAGE:
            raise InvalidArgumentError.of("level", f"must be one of {', '.join(TO_MESSAGE)}")
        endpoint = self._endpoint(service)
        wanted = pb.LOG_LEVEL_UNSPECIFIED if level is None else TO_MESSAGE[level]
        response = await endpoint.call(_stub(endpoint).SetLogLevel, pb.SetLogLevelRequest(logger=logger, level=wanted), timeout)
        return _levels(response.levels)

    def _endpoint(self, service: Literal["indexer", "query"]) -> Endpoint:
        return self._indexer if service == "indexer" else self._query


def _stub(endpoint: Endpoint) -> logging_pb2_grpc.LoggingServiceAsyncStub:
    return logging_pb2_grpc.LoggingServiceStub(endpoint.channel)


def _levels(messages: Iterable[pb.LoggerLevel]) -> list[LoggerLevel]:
    return [LoggerLevel(each.logger, FROM_MESSAGE.get(each.level, "unknown"), each.changed) for each in messages]

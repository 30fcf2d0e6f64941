"""The levels of log lines as messages name them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from shared.gen.knowledgebeast.ops.v1 import logging_pb2 as pb

TO_MESSAGE: Final[Mapping[str, pb.LogLevel.ValueType]] = {
    "debug": pb.LOG_LEVEL_DEBUG,
    "info": pb.LOG_LEVEL_INFO,
    "warning": pb.LOG_LEVEL_WARNING,
    "error": pb.LOG_LEVEL_ERROR,
}
FROM_MESSAGE: Final[Mapping[pb.LogLevel.ValueType, str]] = {message: level for level, message in TO_MESSAGE.items()}

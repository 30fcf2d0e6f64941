"""Times as the catalog stores them: microseconds since 1970 UTC."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def now() -> int:
    """The present moment."""
    return time.time_ns() // 1_000


def to_datetime(microseconds: int) -> datetime:
    """The moment as an aware datetime."""
    return _EPOCH + timedelta(microseconds=microseconds)

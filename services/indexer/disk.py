"""Refuses what would fill the catalog's disk, while there is still room for everything else: deletes, the log of SQLite, the cursors."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

from shared.errors import ResourceExhaustedError
from shared.resilience.deadline import Clock

# How long an answer of the file system is good for. At 500 MB/s, half of the default reserve is written meanwhile.
_FRESH_SECONDS = 0.25
_RETRY_SECONDS = 30.0  # space is freed by people


class DiskSpace:
    """What is free on the disk of a folder. Satisfies `services.indexer.ports.Disk`.

    Args:
        folder: On the disk in question.
        reserve: Bytes that must be free; 0 asks for none.
        clock: Monotonic seconds.
    """

    def __init__(self, folder: Path, reserve: int, *, clock: Clock = time.monotonic) -> None:
        self._folder = folder
        self._clock = clock
        self.reserve = reserve
        self._free = 0
        self._looked_at = -_FRESH_SECONDS

    async def free(self) -> int:
        """Bytes that are free, as they were a moment ago."""
        if self._clock() - self._looked_at >= _FRESH_SECONDS:
            # In a thread: the file system may be slow to answer, and the event loop must not wait for it.
            status = await asyncio.to_thread(os.statvfs, self._folder)
            self._free = status.f_bavail * status.f_frsize
            self._looked_at = self._clock()
        return self._free

    async def require_room(self) -> None:
        """Raises ResourceExhaustedError (reason DISK_LOW) while less than the reserve is free."""
        free = await self.free()
        if free < self.reserve:
            raise ResourceExhaustedError(
                f"the catalog's disk has {free / 1e6:,.0f} MB free, and must have {self.reserve / 1e6:,.0f} MB for more to be written:"
                " free space, or lower KB_DISK_RESERVE_BYTES; deleting documents and searching go on",
                retry_after=_RETRY_SECONDS,
                reason="DISK_LOW",
            )

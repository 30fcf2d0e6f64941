"""Waiting until a project's copy has come far enough."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from dataclasses import dataclass

from shared.domain import Cursor, ProjectId


@dataclass(frozen=True, slots=True, eq=False)
class _Waiting:
    wanted: Cursor
    loop: asyncio.AbstractEventLoop
    done: asyncio.Future[None]


class Waiter:
    """Wakes coroutines, of any event loop, when a position is reached; `notify` may be called from any thread.

    Args:
        position: how far a project is now; None when it is not known yet.
    """

    def __init__(self, position: Callable[[ProjectId], Cursor | None]) -> None:
        self._position = position
        self._lock = threading.Lock()
        self._waiting: dict[ProjectId, set[_Waiting]] = {}

    async def wait_for(self, project_id: ProjectId, wanted: Cursor, deadline_seconds: float) -> bool:
        """Returns True as soon as the project is at `wanted` or beyond, in the same epoch; False when `deadline_seconds` pass first."""
        loop = asyncio.get_running_loop()
        entry = _Waiting(wanted, loop, loop.create_future())
        with self._lock:  # looked at under the lock, so that no notice can come between looking and waiting
            if _reached(self._position(project_id), wanted):
                return True
            self._waiting.setdefault(project_id, set()).add(entry)
        try:
            async with asyncio.timeout(deadline_seconds):
                await entry.done
        except TimeoutError:
            return False
        finally:
            self._forget(project_id, entry)
        return True

    def notify(self, project_id: ProjectId) -> None:
        """The project has moved."""
        with self._lock:
            position = self._position(project_id)
            ready = [entry for entry in self._waiting.get(project_id, ()) if _reached(position, entry.wanted)]
        for entry in ready:
            with contextlib.suppress(RuntimeError):  # the loop was closed under the coroutine: nobody is left to be told
                entry.loop.call_soon_threadsafe(_finish, entry.done)

    def _forget(self, project_id: ProjectId, entry: _Waiting) -> None:
        with self._lock:
            entries = self._waiting[project_id]
            entries.discard(entry)
            if not entries:
                del self._waiting[project_id]


def _reached(position: Cursor | None, wanted: Cursor) -> bool:
    return position is not None and position.epoch == wanted.epoch and position.sequence >= wanted.sequence


def _finish(done: asyncio.Future[None]) -> None:
    if not done.done():
        done.set_result(None)

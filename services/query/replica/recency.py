"""How old what a replica has may be.

What it has heard of is not enough to tell (`ReplicaProject.lag`): behind a slow replica changes wait in the connection, and what would tell of them
waits behind them. So it counts when the newest change was committed that is here, until a heartbeat says that it was the last one.
"""

from __future__ import annotations

import time
from typing import Final

from shared.domain import ProjectId
from shared.resilience.deadline import Clock

# Seconds. A heartbeat that took longer has waited behind changes, and others may wait behind it.
_PROMPT: Final = 1.0


class Recency:
    """Knows it of every project that is followed. For one event loop; `as_of` may be read by any thread.

    Args:
        clock: Seconds since 1970, as commit times are; that of the indexer's machine may differ.
    """

    def __init__(self, clock: Clock = time.time) -> None:
        self._clock = clock
        # Of projects of which more may be on its way.
        self._as_of: dict[ProjectId, float] = {}

    def applied(self, project_id: ProjectId, commit_time: float) -> None:
        """A change that was committed then is here, and so is all before it. Seconds since 1970."""
        self._as_of[project_id] = commit_time

    def nothing_missing(self, project_id: ProjectId, sent: float) -> None:
        """A heartbeat that was sent then told of nothing that is not here. Seconds since 1970."""
        if self._clock() - sent <= _PROMPT:
            self._as_of.pop(project_id, None)
        else:
            self._as_of[project_id] = sent

    def forget(self, project_id: ProjectId) -> None:
        """The project is not followed any more, or its copy is made again."""
        self._as_of.pop(project_id, None)

    @property
    def as_of(self) -> float | None:
        """Up to when what was committed is here, in seconds since 1970, of the project farthest behind; None if nothing seems to be missing."""
        return min(tuple(self._as_of.values()), default=None)

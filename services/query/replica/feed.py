"""The port through which the follower hears the catalog's changes."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Protocol

from shared.domain import Cursor, FeedEvent, ProjectId


class Feed(Protocol):
    """Streams of events. They end by raising, or by being closed (`aclose`), which ends the call behind them.

    Both raise UnavailableError (component `change_feed`) when the stream ends, breaks or falls silent.
    """

    def watch_project_list(self, cursor: Cursor | None) -> AsyncGenerator[FeedEvent, None]:
        """The list of projects: Reset, ProjectBatch and Heartbeat."""

    def watch_project(
        self, project_id: ProjectId, documents: Cursor | None, vectors: Cursor | None, *, include_vectors: bool
    ) -> AsyncGenerator[FeedEvent, None]:
        """One project: Reset, DocumentBatch, VectorBatch (when asked for) and Heartbeat. Raises NotFoundError when it does not exist."""

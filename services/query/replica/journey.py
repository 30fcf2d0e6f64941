"""Tells the trace of a write when this replica has its documents, and then their vectors, and what they waited for.

The request that wrote them is over by then. Each write whose trace is recorded gets a span in that trace for every batch that brought some of its
documents, from the commit until they could be found here; the indexer tells the same of ChromaDB.

What counts is news. A document that comes because the copy is made from nothing could be found before, here or elsewhere: it counts only if it was
committed after this replica began to follow, or, where a copy that had something is made again, after that began. The metric of how long writes take
until they are found goes by the same rule.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import replace

from opentelemetry.trace import Span

from services.query.replica.model import ReplicaProject
from shared.domain import DocumentBatch, ProjectId, TraceContext, VectorBatch
from shared.observability import tracing
from shared.observability.recorded_writes import RecordedWrite, tell
from shared.resilience.deadline import Clock

# Writes of a project that wait for their vectors; of older ones it is not told when they came.
_WAITING = 64


class Journey:
    """Makes the spans. For one event loop.

    Args:
        replica: Name of this replica.
        clock: Seconds since 1970, as commit times are; that of the indexer's machine may differ.
    """

    def __init__(self, replica: str, *, clock: Clock = time.time) -> None:
        self._replica = replica
        self._clock = clock
        self._began = clock()
        # Of projects that are followed: since when their copy is made again, and what waits for vectors.
        self._again: dict[ProjectId, float] = {}
        self._waiting: dict[ProjectId, deque[RecordedWrite]] = {}
        self._tracer = tracing.get_tracer(__name__)

    def now(self) -> float:
        """Seconds since 1970."""
        return self._clock()

    def copy_begins(self, project: ReplicaProject) -> None:
        """The documents of a project, as it is still here, are about to be dropped and to come again."""
        self._waiting.pop(project.project.id, None)
        if project.documents_cursor is not None and project.documents_cursor.sequence > 0:
            self._again[project.project.id] = self._clock()

    def forget(self, project_id: ProjectId) -> None:
        """The project is no longer followed."""
        self._waiting.pop(project_id, None)
        self._again.pop(project_id, None)

    def news_since(self, project: ReplicaProject) -> float:
        """Changes of a project, as it is here, that were committed from then on are news. Seconds since 1970."""
        return self._again.get(project.project.id, self._began) if project.copying else 0.0

    def writes_of(self, project: ReplicaProject, batch: DocumentBatch) -> Sequence[RecordedWrite]:
        """The requests that made the changes of a batch, if their trace is recorded and the changes are news: the oldest sixteen."""
        since = self.news_since(project)
        writes: dict[TraceContext, RecordedWrite] = {}
        for change in batch.changes:
            known = writes.get(change.trace)
            if known is not None:
                writes[change.trace] = replace(known, sequence=change.sequence, documents=known.documents + 1)
            elif len(writes) < tracing.MAX_LINKS and tracing.is_recorded(change.trace) and change.commit_time.timestamp() >= since:
                writes[change.trace] = RecordedWrite(change.trace, change.commit_time.timestamp(), change.sequence, 1)
        return list(writes.values())

    def searchable(self, project: ReplicaProject, writes: Sequence[RecordedWrite], received: float, began: float, batch: Span) -> None:
        """The documents of a batch can be found. It was there at `received`, its turn came at `began`, and `batch` is the span of the work on it."""
        for write in writes:
            self._tell("document.searchable", project.project.id, write, received, began, batch)
        if writes and project.vectors_available:
            self._waiting.setdefault(project.project.id, deque(maxlen=_WAITING)).extend(writes)

    def waiting(self, project_id: ProjectId, batch: VectorBatch) -> Sequence[RecordedWrite]:
        """The writes whose vectors are here with this batch; the oldest sixteen."""
        return [write for write in self._waiting.get(project_id, ()) if write.sequence <= batch.range.end][: tracing.MAX_LINKS]

    def searchable_by_meaning(self, project_id: ProjectId, writes: Sequence[RecordedWrite], received: float, began: float, batch: Span) -> None:
        """The vectors of `writes` can be searched; the rest is as for `searchable`."""
        for write in writes:
            self._tell("document.searchable_by_meaning", project_id, write, received, began, batch, {"kb.vectors_from": "replica"})
            self._waiting[project_id].remove(write)

    def _tell(
        self, name: str, project_id: ProjectId, write: RecordedWrite, received: float, began: float, batch: Span, more: dict[str, str] | None = None
    ) -> None:
        now = self._clock()
        attributes: dict[str, str | int | float] = {
            **(more or {}),
            "kb.replica": self._replica,
            "kb.project": project_id,
            # These three come to the length of the span, but for the difference of the clocks.
            "kb.wait.feed_seconds": received - write.commit_time,
            "kb.wait.turn_seconds": began - received,
            "kb.wait.apply_seconds": now - began,
        }
        tell(self._tracer, name, write, now, batch, attributes)

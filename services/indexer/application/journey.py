"""Tells the trace of a write how its documents became searchable by meaning, and what they waited for.

The request that wrote them is over by then, and its span has ended. What is done for many writes at once is a trace of its own, with links to them;
but whoever looks a write up by its trace does not see links that lead there. So each recorded write gets spans in its own trace, too, one for each
batch that had a part in it: `document.embedded` and `document.searchable_by_meaning`, from the commit until then.

Only the first time counts: the catalog tells the writes that no collection of the project has had before.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import deque
from collections.abc import Sequence

from cachetools import LRUCache
from opentelemetry.trace import Span

from services.indexer.records import LaggingProject, ProjectKey
from shared.domain import SequenceNumber, VectorSequence
from shared.observability import tracing
from shared.observability.recorded_writes import RecordedWrite, tell
from shared.resilience.deadline import Clock
from shared.resilience.effort import Effort

# Projects, and batches of each, of which it is known when they were embedded; of others the spans do not say it.
_PROJECTS = 256
_BATCHES = 256


class Journey:
    """Makes the spans. For one event loop.

    Args:
        clock: Seconds since 1970, as commit times are.
    """

    def __init__(self, *, clock: Clock = time.time) -> None:
        self._clock = clock
        self._tracer = tracing.get_tracer(__name__)
        # Up to which sequence a project was embedded when; both rise.
        self._embedded: LRUCache[ProjectKey, deque[tuple[int, float]]] = LRUCache(_PROJECTS)
        # The last time in which the vector store took nothing: from, to (None: it goes on), and how often it was tried.
        self._outage: tuple[float, float | None, int] = (0.0, 0.0, 0)

    def now(self) -> float:
        """Seconds since 1970."""
        return self._clock()

    def embedded(self, project: LaggingProject, reached: VectorSequence, writes: Sequence[RecordedWrite], began: float, batch: Span) -> None:
        """Vectors up to `reached` are in the catalog, and with that those of `writes`. The work on `batch`, its span, began at `began`."""
        if not writes:
            return
        now = self._clock()
        self._embedded.setdefault(project.key, deque(maxlen=_BATCHES)).append((int(reached), now))
        for write in writes:
            begun = max(began, write.commit_time)
            tell(
                self._tracer,
                "document.embedded",
                write,
                now,
                batch,
                {"kb.project": project.id, "kb.wait.turn_seconds": begun - write.commit_time, "kb.wait.embedding_seconds": now - begun},
            )

    def store_failed(self) -> None:
        """The vector store took nothing; it will be tried again."""
        since, until, failures = self._outage
        self._outage = (since, None, failures + 1) if until is None else (self._clock(), None, 1)

    def searchable(self, project: LaggingProject, writes: Sequence[RecordedWrite], began: float, effort: Effort, batch: Span) -> None:
        """What was written is in the vector store. Its turn came at `began`; `batch` is the span of the work since then, `effort` what it cost."""
        now = self._clock()
        since, until, failures = self._outage
        if until is None:
            until = began
            self._outage = (since, until, failures)
        for write in writes:
            embedded = min(self._when_embedded(project.key, write.sequence) or write.commit_time, began)
            down = max(0.0, min(until, began) - max(since, embedded))
            tell(
                self._tracer,
                "document.searchable_by_meaning",
                write,
                now,
                batch,
                {
                    "kb.project": project.id,
                    "kb.vectors_from": "chromadb",
                    # These four come to the length of the span.
                    "kb.wait.embedding_seconds": max(0.0, embedded - write.commit_time),
                    "kb.wait.turn_seconds": max(0.0, began - max(embedded, write.commit_time) - down),
                    "kb.wait.pace_seconds": effort.paced,
                    "kb.wait.chromadb_seconds": down + max(0.0, now - began - effort.paced),
                    "kb.retries": effort.retries + (failures if down else 0),
                },
            )

    def _when_embedded(self, key: ProjectKey, sequence: SequenceNumber) -> float | None:
        batches = self._embedded.get(key, ())
        place = bisect_left(batches, int(sequence), key=lambda batch: batch[0])
        return batches[place][1] if place < len(batches) else None

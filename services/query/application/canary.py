"""The search canary: asks questions whose good answers are known, now and then, and exports how good the answers were.

It asks what users ask, through the same use case and the same model, store and replica, in a project of its own. Only what would hide a fault is left
out: answers and vectors of queries are not kept for it. docs/adr/0022-search-canary.md.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import fmean

from services.query.application.ndcg import DEPTH, ndcg
from services.query.application.query import Query
from services.query.application.search import Search
from services.query.ports import CanaryProject, SearchIndex
from shared.domain import Cursor, ProjectId
from shared.errors import ConflictError, KnowledgeBeastError, NotFoundError, UnavailableError
from shared.golden.collection import Collection
from shared.observability import metrics, tracing
from shared.observability.logging import get_logger
from shared.resilience.deadline import Deadline

# Seconds: for one question, half of what a user's search gets; for writing the passages; and until what was written can be found.
_QUESTION = 5.0
_WRITE = 30.0
_ARRIVAL = 60.0
# After a question comes a pause of so many times what it took, and at least so many seconds: a run takes a fifth of a core at most.
_PAUSE_FACTOR = 4.0
_SHORTEST_PAUSE = 0.01
# Seconds that a question waits while users' searches wait, and between two looks. Then it is asked all the same: a canary that falls silent
# when there is much to do would be missed most then.
_GIVES_WAY = 1.0
_LOOK = 0.05
# Seconds: the first run comes when a service that has just started has done what is more urgent.
_FIRST_RUN = 30.0

_tracer = tracing.get_tracer(__name__)
_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Run:
    """What was found: NDCG by question, how many answers were degraded, and seconds that the searches took, without the pauses between."""

    values: Mapping[str, float]
    degraded: int
    seconds: float


class SearchCanary:
    """Runs now and then until cancelled.

    Args:
        search: the use case, without kept answers, and not counted among users' searches.
        index: the replica.
        project: where the passages are written.
        collection: passages, questions and judgements.
        project_id: of the reserved project.
        interval: seconds between two runs; each is up to a tenth earlier or later, so that replicas do not run together.
        crowded: whether users' searches wait for their turn.
    """

    def __init__(
        self,
        search: Search,
        index: SearchIndex,
        project: CanaryProject,
        collection: Collection,
        project_id: ProjectId,
        *,
        interval: float,
        crowded: Callable[[], bool],
    ) -> None:
        self._search = search
        self._index = index
        self._project = project
        self._collection = collection
        self._project_id = project_id
        self._interval = interval
        self._crowded = crowded
        self._written: Cursor | None = None  # where the project's copy stands as long as nobody else has written into it
        self._before: Mapping[str, float] = {}

    async def run(self) -> None:
        """Runs until cancelled."""
        await asyncio.sleep(min(self._interval, _FIRST_RUN) * random.uniform(0.4, 1.0))  # noqa: S311 - spreads load, keeps no secret
        while True:
            await self.once()
            await asyncio.sleep(self._interval * random.uniform(0.9, 1.1))  # noqa: S311 - same

    async def once(self) -> None:
        """One run: looks after its passages, asks its questions, exports the result. What fails is logged and counted, and tried again."""
        try:
            with _tracer.start_as_current_span("SearchCanary.run", attributes={"kb.project": self._project_id}):
                await self._prepare()
                self._export(await self._ask())
        except KnowledgeBeastError as error:
            _failed()
            _log.warning("search canary failed", project=self._project_id, reason=error.reason, detail=error.message)
        except Exception:  # noqa: BLE001 - a defect of the canary must not end the service; it is logged with its stack
            _failed()
            _log.exception("search canary failed", project=self._project_id)

    async def _prepare(self) -> None:
        """Has the passages written where they are not as they should be, and waits until they can be found here, by words and by meaning.

        Raises UnavailableError when the indexer does not answer, or the passages do not arrive.
        """
        if self._written is not None and self._here() == self._written:
            return
        cursor = await self._project.restore(self._collection.documents, Deadline.after(_WRITE))
        deadline = Deadline.after(_ARRIVAL)
        if not await self._index.wait_for_documents(self._project_id, cursor, deadline):
            raise UnavailableError("this replica has not received the canary's passages in time", component="replica")
        # In ChromaDB, or here: while ChromaDB is behind, searches use the replica's own vectors.
        if not await self._index.wait_for_vectors(self._project_id, cursor, deadline):
            raise UnavailableError("the canary's passages were not embedded in time", component="projector")
        self._written = cursor

    def _here(self) -> Cursor | None:
        """How far the project's copy has come; None if there is none."""
        try:
            return self._index.project(self._project_id).documents_cursor
        except NotFoundError:
            return None

    async def _ask(self) -> _Run:
        """Asks one question after the other.

        Raises what a search raises, and ConflictError if somebody wrote into the project meanwhile: the figure would be of neither state.
        """
        before = self._here()
        values: dict[str, float] = {}
        degraded, seconds = 0, 0.0
        for topic in self._collection.topics:
            await self._give_way()
            answer = await self._search.run(Query(self._project_id, topic.text, top_k=DEPTH), Deadline.after(_QUESTION))
            values[topic.id] = ndcg(list(dict.fromkeys(hit.document_id for hit in answer.hits)), self._collection.judgements[topic.id])
            degraded += answer.degraded
            seconds += answer.timings.total
            await asyncio.sleep(max(_SHORTEST_PAUSE, _PAUSE_FACTOR * answer.timings.total))
        if self._here() != before:
            raise ConflictError("the canary's project was written to while it was asked", reason="CANARY_PROJECT_CHANGED")
        return _Run(values, degraded, seconds)

    async def _give_way(self) -> None:
        until = Deadline.after(_GIVES_WAY)
        while self._crowded() and not until.expired:  # noqa: ASYNC110 - nothing announces that the last one in a queue has left it
            await asyncio.sleep(_LOOK)

    def _export(self, run: _Run) -> None:
        value = fmean(run.values.values())
        metrics.SEARCH_NDCG.set(value)
        metrics.CANARY_DURATION.observe(run.seconds)
        metrics.CANARY_RUNS.labels("succeeded").inc()
        metrics.CANARY_LAST_SUCCESS.set(time.time())
        _log.info(
            "search canary",
            project=self._project_id,
            ndcg=round(value, 4),
            questions=len(run.values),
            degraded=run.degraded,
            duration_ms=round(run.seconds * 1e3, 3),
            # By their ids: where to begin to look when the figure drops.
            worse=[topic for topic, found in run.values.items() if found < self._before.get(topic, 0.0)],
        )
        self._before = run.values


def _failed() -> None:
    metrics.CANARY_RUNS.labels("failed").inc()
    metrics.SEARCH_NDCG.set(math.nan)  # nobody knows it now: the figure of an hour ago is none

"""The reranking step: within its time, or not at all."""

from __future__ import annotations

import asyncio

from services.query.application.degradation import Degradations, Outages
from services.query.application.query import Query
from services.query.application.ranking import Ranked, rerank
from services.query.application.stopwatch import Stopwatch
from services.query.ports import SearchIndex
from shared.errors import FailedPreconditionError, UnavailableError
from shared.observability import metrics
from shared.ports import Reranker
from shared.resilience.deadline import Deadline
from shared.search import DegradationReason

_COMPONENT = "reranker"


class RerankingStep:
    """Orders the best candidates again. Without a reranker it refuses queries that ask for it."""

    def __init__(self, index: SearchIndex, reranker: Reranker | None, outages: Outages, seconds: float) -> None:
        self._index = index
        self._reranker = reranker
        self._outages = outages
        self._seconds = seconds

    def require(self, query: Query) -> None:
        """Raises FailedPreconditionError if the query asks for what this service does not have."""
        if query.reranking is not None and self._reranker is None:
            raise FailedPreconditionError(
                "this service has no reranker: search without reranking, or set KB_RERANKER_MODEL", reason="RERANKER_NOT_CONFIGURED"
            )

    async def apply(self, query: Query, ranked: Ranked, deadline: Deadline, degradations: Degradations, watch: Stopwatch) -> Ranked:
        """The new order; the old one, and noted, if the model is not there or the time is short."""
        if query.reranking is None or self._reranker is None or not ranked.order:
            return ranked
        with watch.stage("rerank"), metrics.RERANKING_DURATION.time():
            try:
                async with asyncio.timeout(deadline.within(self._seconds).remaining()):
                    found = await asyncio.to_thread(self._index.hydrate, query.project_id, ranked.order[: query.reranking.candidates])
                    texts = [f"{hit.title}\n{hit.chunk.text}" if hit.title else hit.chunk.text for hit in found]
                    scores = await self._reranker.score(query.text, texts)
            except (UnavailableError, TimeoutError) as error:
                why = "there was no time to rerank" if isinstance(error, TimeoutError) else "the reranker is not available"
                degradations.failed(DegradationReason.RERANKING_SKIPPED, _COMPONENT, f"{why}: the order is that of the scores")
                return ranked
        self._outages.worked(_COMPONENT)
        return rerank(ranked, {hit.pk: float(score) for hit, score in zip(found, scores, strict=True)})

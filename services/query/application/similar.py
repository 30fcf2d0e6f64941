"""Finding documents that are like a document: by the mean of its chunks' vectors."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import numpy as np

from services.query.application.assembly import Assembler, Page
from services.query.application.degradation import Degradations, Outages
from services.query.application.freshness import FreshnessGate, freshness_of
from services.query.application.fusion import Fused, Least, Ranking, alone
from services.query.application.legs import Budgets
from services.query.application.query import MIN_CANDIDATES, Query, SimilarQuery
from services.query.application.ranking import rank
from services.query.application.stopwatch import Stopwatch
from services.query.application.vector_leg import VectorLeg
from services.query.ports import FeedState, SearchIndex
from services.query.replica.model import Pks, ReplicaProject
from shared.domain import Vector
from shared.errors import UnavailableError
from shared.observability import metrics, tracing
from shared.ports import Embedder, VectorReader
from shared.resilience.deadline import Deadline
from shared.search import DegradationReason, Grouping, SearchAnswer, SearchMode

# Candidates for each document that is wanted, because a document has several chunks; and the most that are asked for.
_CHUNKS_A_DOCUMENT = 4
_MAX_CANDIDATES = 5_000
# Chunks that are embedded where the replica keeps no vectors, about a tenth of a second's work; and the text that keywords are taken from.
_EMBEDDED_CHUNKS = 16
_KEYWORD_CHUNKS = 4


class FindSimilar:
    """Answers FindSimilar."""

    def __init__(
        self, index: SearchIndex, store: VectorReader, embedder: Embedder, feed: FeedState, budgets: Budgets, *, outages: Outages | None = None
    ) -> None:
        self._outages = outages or Outages()
        self._gate = FreshnessGate(index, feed, self._outages)
        self._index = index
        self._embedder = embedder
        self._budgets = budgets
        self._vector_leg = VectorLeg(index, store, self._outages)
        self._assembler = Assembler(index)
        self._tracer = tracing.get_tracer(__name__)

    async def run(self, query: SimilarQuery, deadline: Deadline) -> SearchAnswer:
        """Answers one call. Where vectors cannot be had, the document's rarest words are looked up instead, and the answer says so.

        Raises NotFoundError (no such project or document), FailedPreconditionError (a token of an earlier incarnation), DeadlineExceededError
        (the asked freshness did not come in time), UnavailableError (something is missing and the query allows no degraded answer).
        """
        watch, degradations = Stopwatch(), Degradations(self._outages)
        with self._tracer.start_as_current_span("FindSimilar", attributes={"kb.top_k": query.top_k}) as span:
            project = await self._gate.enter(query.project_id, query.fresh_as, deadline, degradations, watch, vectors=True)
            own = await asyncio.to_thread(self._index.chunks_of, query.project_id, query.document_id)
            allowed = None if query.filter is None else await asyncio.to_thread(self._index.allowed, query.project_id, query.filter)
            found, from_replica = await self._neighbours(query, project, own, allowed, deadline, degradations, watch)
            if not query.allow_degraded:
                degradations.refuse()
            with watch.stage("assemble"):
                page = await asyncio.to_thread(self._page, query, found, degradations)
            span.set_attribute("kb.degraded", bool(degradations.found))
        degradations.count()
        return SearchAnswer(page.hits, SearchMode.VECTOR, degradations.found, freshness_of(project, from_replica=from_replica), watch.read())

    async def _neighbours(
        self,
        query: SimilarQuery,
        project: ReplicaProject,
        own: Pks,
        allowed: Pks | None,
        deadline: Deadline,
        degradations: Degradations,
        watch: Stopwatch,
    ) -> tuple[Fused, bool]:
        """Candidates that are not of the document itself, and whether the replica's own vectors were searched."""
        limit = min(max(MIN_CANDIDATES, _CHUNKS_A_DOCUMENT * query.top_k), _MAX_CANDIDATES) + own.size
        mine = set(own.tolist())
        with watch.stage("embed"):
            vector = await self._mean(query, own, deadline, degradations)
        if vector is not None:
            with watch.stage("vector"), metrics.VECTOR_SEARCH_DURATION.time():
                found = await self._vector_leg.search(project, vector, limit, allowed, deadline.within(self._budgets.vector), degradations)
            if found is not None:
                others = [(key, score) for key, score in found.ranking if key not in mine]
                return alone(vector=others, least=Least(vector=query.min_score)), found.from_replica
        with watch.stage("keyword"), metrics.KEYWORD_SEARCH_DURATION.time():
            ranking = await asyncio.to_thread(self._by_words, query, own, limit, allowed)
        return alone(keyword=[(key, score) for key, score in ranking if key not in mine]), False

    async def _mean(self, query: SimilarQuery, own: Pks, deadline: Deadline, degradations: Degradations) -> Vector | None:
        """The mean of the document's vectors, of unit length; None, and noted as missing, if it cannot be had in time."""
        _, vectors = await asyncio.to_thread(self._index.vectors_of, query.project_id, own)
        if not len(vectors):
            try:
                async with asyncio.timeout(deadline.within(self._budgets.embed).remaining()):
                    vectors = await self._embedder.embed(await asyncio.to_thread(self._texts, query, own[:_EMBEDDED_CHUNKS]))
            except (UnavailableError, TimeoutError):
                degradations.add(
                    DegradationReason.EMBEDDING_UNAVAILABLE, "embedding_model", "the document could not be embedded; these share words with it"
                )
                return None
        total: Vector = vectors.sum(axis=0)
        length = float(np.linalg.norm(total))
        if length > 0:
            return np.asarray(total / length, dtype=np.float32)
        degradations.add(
            DegradationReason.VECTOR_LEG_MISSING, "replica", "the document's vectors have no direction in common; these share words with it"
        )
        return None

    def _texts(self, query: SimilarQuery, keys: Pks) -> Sequence[str]:
        return [f"{hit.title}\n{hit.chunk.text}" for hit in self._index.hydrate(query.project_id, keys.tolist())]

    def _by_words(self, query: SimilarQuery, own: Pks, limit: int, allowed: Pks | None) -> Ranking:
        text = "\n".join(self._texts(query, own[:_KEYWORD_CHUNKS]))
        return self._index.keyword(query.project_id, text, limit, allowed)

    def _page(self, query: SimilarQuery, found: Fused, degradations: Degradations) -> Page:
        as_search = Query(query.project_id, "", SearchMode.VECTOR, top_k=query.top_k, grouping=Grouping(query.more_chunks))
        return self._assembler.page(as_search, rank(self._index, query.project_id, found), degradations)

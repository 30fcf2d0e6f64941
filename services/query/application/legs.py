"""Running the legs of a search: embed the query, then ask for its neighbours and look its words up side by side."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from services.query.application.degradation import Degradations, Outages
from services.query.application.embedding import embed
from services.query.application.fusion import Fused, Least, Ranking, alone, reciprocal_rank_fusion, weighted_fusion
from services.query.application.offload import offload
from services.query.application.query import Query
from services.query.application.stopwatch import Stopwatch
from services.query.application.vector_leg import VectorCandidates, VectorLeg
from services.query.ports import SearchIndex
from services.query.replica.model import Pks, ReplicaProject
from shared.domain import Vector
from shared.observability import metrics, tracing
from shared.observability.exemplars import Timed
from shared.ports import Embedder
from shared.resilience.deadline import Deadline
from shared.search import Degradation, FusionMethod, SearchMode

# A keyword search within these bounds takes about half a millisecond at most: candidates, code points of the query, changes of the project.
_SMALL_WINDOW = 200
_SHORT_TEXT = 100
_SMALL_PROJECT = 200_000

VECTOR_CANDIDATES = metrics.SEARCH_CANDIDATES.labels("vector")
KEYWORD_CANDIDATES = metrics.SEARCH_CANDIDATES.labels("keyword")

# The share of a search's time that the legs may take together: what is left must do for what stands in for them, and for making the answer.
_LEGS_SHARE = 0.8


@dataclass(frozen=True, slots=True)
class Budgets:
    """Seconds that parts of a search get at most."""

    embed: float
    vector: float
    rerank: float = 1.0

    @staticmethod
    def of_legs(deadline: Deadline) -> Deadline:
        """When the legs of a search must be done. Whatever hangs in one of them, there is time left to answer without it."""
        return deadline.within(deadline.remaining() * _LEGS_SHARE)


@dataclass(frozen=True, slots=True)
class Found:
    """What the legs found, fused.

    Attributes:
        from_replica: the replica's own vectors were searched, not the vector store's.
        missing: why vectors could not be searched, if they should have been: these are keyword candidates alone.
    """

    fused: Fused
    from_replica: bool
    missing: Degradation | None = None


class Legs:
    """The two legs of a search."""

    def __init__(self, index: SearchIndex, vector_leg: VectorLeg, budgets: Budgets, outages: Outages) -> None:
        self._index = index
        self._vector_leg = vector_leg
        self._budgets = budgets
        self._outages = outages
        self._tracer = tracing.get_tracer(__name__)

    async def run(
        self, query: Query, project: ReplicaProject, embedder: Embedder, deadline: Deadline, degradations: Degradations, watch: Stopwatch
    ) -> Found:
        """Runs the legs that the mode asks for; the keyword leg also where vectors could not be searched.

        Notes what is missing from the candidates, but not that those of the vector leg are: what is made of that is the ladder's.
        """
        deadline = self._budgets.of_legs(deadline)
        allowed = None if query.filter is None else await asyncio.to_thread(self._index.allowed, query.project_id, query.filter)
        if query.mode is SearchMode.KEYWORD:
            return await self._by_keyword(query, project, allowed, watch)
        with watch.stage("embed"):
            vectors = await embed(embedder, [query.text], "the query", deadline, self._budgets.embed, self._outages)
        if isinstance(vectors, Degradation):
            return await self._by_keyword(query, project, allowed, watch, missing=vectors)
        neighbours = self._neighbours(query, project, vectors[0], allowed, deadline, degradations, watch)
        keyword: Ranking = ()
        if query.mode is SearchMode.VECTOR:
            found = await neighbours
        else:
            # gather, not a TaskGroup, because what a leg raises is for the client: it must not come wrapped in a group.
            found, keyword = await asyncio.gather(neighbours, self._keyword(query, project, allowed, watch))
        if isinstance(found, Degradation):
            if query.mode is SearchMode.VECTOR:
                return await self._by_keyword(query, project, allowed, watch, missing=found)
            return Found(alone(keyword=keyword, least=_least(query)), from_replica=False, missing=found)
        if query.mode is SearchMode.VECTOR:
            return Found(alone(vector=found.ranking, least=_least(query)), found.from_replica)
        return Found(self._fuse(query, found.ranking, keyword), found.from_replica)

    async def _by_keyword(
        self, query: Query, project: ReplicaProject, allowed: Pks | None, watch: Stopwatch, *, missing: Degradation | None = None
    ) -> Found:
        keyword = await self._keyword(query, project, allowed, watch)
        return Found(alone(keyword=keyword, least=_least(query)), from_replica=False, missing=missing)

    def _fuse(self, query: Query, vector: Ranking, keyword: Ranking) -> Fused:
        with metrics.FUSION_DURATION.time(), self._tracer.start_as_current_span("fusion") as span:
            fused = self._fused(query, vector, keyword)
            if span.is_recording():
                candidates = {"kb.candidates.vector": len(vector), "kb.candidates.keyword": len(keyword)}
                span.set_attributes({"kb.fusion": query.fusion.value, **candidates, "kb.results": len(fused.scores)})
            return fused

    def _fused(self, query: Query, vector: Ranking, keyword: Ranking) -> Fused:
        if query.fusion is FusionMethod.RRF:
            return reciprocal_rank_fusion(vector, keyword, alpha=query.vector_weight, k=query.rrf_k, least=_least(query))
        ceiling = self._index.keyword_ceiling(query.project_id, query.text)
        return weighted_fusion(vector, keyword, alpha=query.vector_weight, ceiling=ceiling, least=_least(query))

    async def _keyword(self, query: Query, project: ReplicaProject, allowed: Pks | None, watch: Stopwatch) -> Ranking:
        # The vector store's query, if there is one, goes out first: another process works on it meanwhile.
        await asyncio.sleep(0)
        with watch.stage("keyword"), Timed(metrics.KEYWORD_SEARCH_DURATION):
            small = allowed is None and query.window <= _SMALL_WINDOW and len(query.text) <= _SHORT_TEXT and project.head <= _SMALL_PROJECT
            with self._tracer.start_as_current_span("KeywordIndex.search") as span:
                found = await offload(self._index.keyword, query.project_id, query.text, query.window, allowed, small=small)
                if span.is_recording():
                    span.set_attributes({"kb.k": query.window, "kb.filtered": allowed is not None, "kb.results": len(found)})
        KEYWORD_CANDIDATES.observe(len(found))
        return found

    async def _neighbours(
        self,
        query: Query,
        project: ReplicaProject,
        vector: Vector,
        allowed: Pks | None,
        deadline: Deadline,
        degradations: Degradations,
        watch: Stopwatch,
    ) -> VectorCandidates | Degradation:
        with watch.stage("vector"), Timed(metrics.VECTOR_SEARCH_DURATION):
            found = await self._vector_leg.search(project, vector, query.window, allowed, deadline.within(self._budgets.vector), degradations)
        if not isinstance(found, Degradation):
            VECTOR_CANDIDATES.observe(len(found.ranking))
        return found


def _least(query: Query) -> Least:
    return Least(query.min_vector_score, query.min_keyword_score)

"""Finding documents that are like a document: by the mean of its chunks' vectors."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from services.query.application.accounting import Account, Counted
from services.query.application.assembly import Assembler, Page
from services.query.application.degradation import Degradations, Outages
from services.query.application.embedding import embed
from services.query.application.freshness import FreshnessGate, freshness_of
from services.query.application.fusion import Fused, Least, Ranking, alone
from services.query.application.ladder import Ladder
from services.query.application.legs import KEYWORD_CANDIDATES, VECTOR_CANDIDATES, Budgets
from services.query.application.query import MIN_CANDIDATES, Query, SimilarQuery
from services.query.application.ranking import rank
from services.query.application.results import Question
from services.query.application.slow_searches import SlowSearches
from services.query.application.stopwatch import Stopwatch
from services.query.application.vector_leg import VectorCandidates, VectorLeg
from services.query.ports import FeedState, SearchIndex
from services.query.replica.model import Pks, ReplicaProject
from shared.domain import Vector
from shared.observability import metrics, tracing
from shared.observability.exemplars import Timed
from shared.ports import Embedder, VectorReader
from shared.resilience.deadline import Deadline
from shared.search import Degradation, DegradationReason, Grouping, SearchAnswer, SearchMode

# Candidates for each document that is wanted, because a document has several chunks; and the most that are asked for.
_CHUNKS_A_DOCUMENT = 4
_MAX_CANDIDATES = 5_000
# Chunks that are embedded where the replica keeps no vectors, about a tenth of a second's work; and the text that keywords are taken from.
_EMBEDDED_CHUNKS = 16
_KEYWORD_CHUNKS = 4


class FindSimilar:
    """Answers FindSimilar. What it is made of is as for `Search`."""

    def __init__(
        self,
        index: SearchIndex,
        store: VectorReader,
        embedder: Embedder,
        feed: FeedState,
        budgets: Budgets,
        ladder: Ladder,
        *,
        outages: Outages | None = None,
        account: Account | None = None,
    ) -> None:
        self._account = account or Counted(SlowSearches(0))
        self._outages = outages or Outages()
        self._gate = FreshnessGate(index, feed, self._outages)
        self._index = index
        self._embedder = embedder
        self._budgets = budgets
        self._ladder = ladder
        self._vector_leg = VectorLeg(index, store, self._outages, stand_in=ladder.steps.replica_vectors)
        self._assembler = Assembler(index)
        self._tracer = tracing.get_tracer(__name__)

    async def run(self, query: SimilarQuery, deadline: Deadline) -> SearchAnswer:
        """Answers one call. Where vectors cannot be had, the last good answer is given, or the document's rarest words are looked up, and it says so.

        Raises NotFoundError (no such project or document), FailedPreconditionError (a token of an earlier incarnation), DeadlineExceededError
        (the asked freshness did not come in time), UnavailableError (something is missing and the query allows no degraded answer, or nothing
        stands in for it).
        """
        watch, degradations = Stopwatch(), Degradations(self._outages)
        with self._tracer.start_as_current_span("FindSimilar") as span:
            if span.is_recording():
                span.set_attributes({"kb.project": query.project_id, "kb.top_k": query.top_k, "kb.filtered": query.filter is not None})
            project = await self._gate.enter(query.project_id, query.fresh_as, deadline, degradations, watch, vectors=True)
            with self._account.refusals():
                answer = await self._compute(query, project, deadline, watch)
            self._gate.leave(project, degradations)
            degradations.extend(answer.degradations)
            if not query.allow_degraded:
                degradations.refuse()
            if span.is_recording():
                reasons = [degradation.reason.value for degradation in degradations.found]
                span.set_attributes({"kb.hits": len(answer.hits), "kb.degraded": bool(reasons), "kb.degraded.reasons": reasons})
        freshness = replace(answer.freshness, head=project.head, contact_time=project.contact_time)
        answer = replace(answer, degradations=degradations.found, freshness=freshness, timings=watch.read())
        self._account.answered(query, answer, degradations)
        return answer

    async def _compute(self, query: SimilarQuery, project: ReplicaProject, deadline: Deadline, watch: Stopwatch) -> SearchAnswer:
        """The answer as far as it does not depend on who asks when."""
        degradations = Degradations(self._outages)
        own = await asyncio.to_thread(self._index.chunks_of, query.project_id, query.document_id)
        allowed = None if query.filter is None else await asyncio.to_thread(self._index.allowed, query.project_id, query.filter)
        limit = min(max(MIN_CANDIDATES, _CHUNKS_A_DOCUMENT * query.top_k), _MAX_CANDIDATES) + own.size
        question = _question(query, project, own)
        found = await self._neighbours(query, project, own, allowed, limit, self._budgets.of_legs(deadline), degradations, watch)
        if isinstance(found, Degradation):
            last = await self._ladder.descend(
                found, query.project_id, question, query.fresh_as, degradations, keyword="these share words with the document"
            )
            if last is not None:
                return last.again(degradations.found, watch.read())
            with (
                watch.stage("keyword"),
                Timed(metrics.KEYWORD_SEARCH_DURATION),
                self._tracer.start_as_current_span("KeywordIndex.search") as leg,
            ):
                found = VectorCandidates(await asyncio.to_thread(self._by_words, query, own, limit, allowed), from_replica=False)
                if leg.is_recording():
                    leg.set_attributes({"kb.k": limit, "kb.filtered": allowed is not None, "kb.results": len(found.ranking)})
            KEYWORD_CANDIDATES.observe(len(found.ranking))
            fused = alone(keyword=_others(found.ranking, own))
        else:
            fused = alone(vector=_others(found.ranking, own), least=Least(vector=query.min_score))
        with watch.stage("assemble"):
            page = await asyncio.to_thread(self._page, query, fused, degradations)
        freshness = freshness_of(project, from_replica=found.from_replica)
        answer = SearchAnswer(page.hits, SearchMode.VECTOR, degradations.found, freshness, watch.read())
        if self._gate.is_whole(project):
            self._ladder.keep(question, answer)
        return answer

    async def _neighbours(
        self,
        query: SimilarQuery,
        project: ReplicaProject,
        own: Pks,
        allowed: Pks | None,
        limit: int,
        deadline: Deadline,
        degradations: Degradations,
        watch: Stopwatch,
    ) -> VectorCandidates | Degradation:
        """Candidates by meaning, those of the document itself included; or why there are none."""
        with watch.stage("embed"):
            vector = await self._mean(query, own, deadline)
        if isinstance(vector, Degradation):
            return vector
        with watch.stage("vector"), Timed(metrics.VECTOR_SEARCH_DURATION):
            found = await self._vector_leg.search(project, vector, limit, allowed, deadline.within(self._budgets.vector), degradations)
        if not isinstance(found, Degradation):
            VECTOR_CANDIDATES.observe(len(found.ranking))
        return found

    async def _mean(self, query: SimilarQuery, own: Pks, deadline: Deadline) -> Vector | Degradation:
        """The mean of the document's vectors, of unit length; or why it could not be had in time."""
        _, vectors = await asyncio.to_thread(self._index.vectors_of, query.project_id, own)
        if not len(vectors):
            texts = await asyncio.to_thread(self._texts, query, own[:_EMBEDDED_CHUNKS])
            embedded = await embed(self._embedder, texts, "the document", deadline, self._budgets.embed, self._outages)
            if isinstance(embedded, Degradation):
                return embedded
            vectors = embedded
        total: Vector = vectors.sum(axis=0)
        length = float(np.linalg.norm(total))
        if length > 0:
            return np.asarray(total / length, dtype=np.float32)
        return Degradation(DegradationReason.VECTOR_LEG_MISSING, "replica", "the document's vectors have no direction in common", None)

    def _texts(self, query: SimilarQuery, keys: Pks) -> Sequence[str]:
        return [f"{hit.title}\n{hit.chunk.text}" for hit in self._index.hydrate(query.project_id, keys.tolist())]

    def _by_words(self, query: SimilarQuery, own: Pks, limit: int, allowed: Pks | None) -> Ranking:
        text = "\n".join(self._texts(query, own[:_KEYWORD_CHUNKS]))
        return self._index.keyword(query.project_id, text, limit, allowed)

    def _page(self, query: SimilarQuery, found: Fused, degradations: Degradations) -> Page:
        as_search = Query(query.project_id, "", SearchMode.VECTOR, top_k=query.top_k, grouping=Grouping(query.more_chunks))
        return self._assembler.page(as_search, rank(self._index, query.project_id, found), degradations)


def _question(query: SimilarQuery, project: ReplicaProject, own: Pks) -> Question:
    """What is asked: for documents like this one as it is now. Its chunks have other keys when its text or its title is another."""
    return Question(project.project.epoch, f"{replace(query, fresh_as=None, allow_degraded=True)!r} {own.tolist()}")


def _others(ranking: Ranking, own: Pks) -> Ranking:
    """The candidates that are not of the document itself."""
    mine = set(own.tolist())
    return [(key, score) for key, score in ranking if key not in mine]

"""The search: wait for the asked freshness, run the legs side by side, fuse, read the hits, say what is missing."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from services.query.application.degradation import Degradations, Outages
from services.query.application.fusion import Ranking, fuse
from services.query.application.query import Answer, DegradationReason, Freshness, Hit, LegScore, Mode, Query, Timings
from services.query.application.vector_leg import VectorCandidates, VectorLeg
from services.query.ports import FeedState, SearchIndex
from services.query.replica.model import Pks, ReplicaHit, ReplicaProject
from shared import consistency
from shared.domain import Cursor, ProjectId, SequenceNumber, Vector, VectorSequence
from shared.errors import DeadlineExceededError, NotFoundError, UnavailableError
from shared.observability import metrics, tracing
from shared.ports import Embedder, VectorReader
from shared.resilience.deadline import Deadline

# Fusing fewer candidates a leg costs recall (measured on Cranfield: Recall@100 falls from .792 to .750 with 50).
_MIN_CANDIDATES = 100
# The share of the time that waiting for late vectors may take: what is left must do for the search itself.
_VECTOR_WAIT_SHARE = 0.5
# The list of projects reaches a replica within milliseconds; this is for a busy machine.
_UNKNOWN_EPOCH_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class Budgets:
    """Seconds that parts of a search get at most."""

    embed: float
    vector: float


@dataclass(slots=True)
class _Legs:
    """What the legs found."""

    vector: VectorCandidates | None = None
    keyword: Ranking = ()


class Search:
    """Answers searches."""

    def __init__(self, index: SearchIndex, store: VectorReader, embedder: Embedder, feed: FeedState, budgets: Budgets) -> None:
        self._index = index
        self._embedder = embedder
        self._feed = feed
        self._budgets = budgets
        self._outages = Outages()
        self._vector_leg = VectorLeg(index, store, self._outages)
        self._tracer = tracing.get_tracer(__name__)

    async def run(self, query: Query, deadline: Deadline) -> Answer:
        """Answers one search.

        Raises NotFoundError (no such project), FailedPreconditionError (a token of an earlier incarnation), DeadlineExceededError (the asked
        freshness did not come in time), UnavailableError (something is missing and the query allows no degraded answer).
        """
        started = time.perf_counter()
        timings = Timings()
        degradations = Degradations(self._outages)
        with self._tracer.start_as_current_span(
            "HybridQueryEngine.search_hybrid", attributes={"kb.mode": query.mode.value, "kb.alpha": query.alpha, "kb.top_k": query.top_k}
        ) as span:
            project = await self._await_freshness(query, deadline, degradations, timings)
            self._check_feed(query, degradations)
            legs = await self._run_legs(query, project, deadline, degradations, timings)
            if not query.allow_degraded:
                degradations.refuse()
            with _timed(timings, "assemble"):
                hits = await asyncio.to_thread(self._assemble, query, legs)
            span.set_attribute("kb.degraded", bool(degradations.found))
        timings.total = time.perf_counter() - started
        metrics.QUERY_DURATION.labels(query.mode.value, "true" if degradations.found else "false").observe(timings.total)
        degradations.count()
        return Answer(hits, query.mode, degradations.found, _freshness(project, legs.vector), timings)

    async def _await_freshness(self, query: Query, deadline: Deadline, degradations: Degradations, timings: Timings) -> ReplicaProject:
        """The project, once it is as fresh as the query asks."""
        wanted = query.fresh_as
        if wanted is None:
            return self._index.project(query.project_id)
        with _timed(timings, "wait"):
            # A token proves that the project existed: this replica may have yet to hear of it.
            fresh = await self._index.wait_for_documents(query.project_id, wanted, self._patience(query.project_id, wanted, deadline))
            here = self._index.project(query.project_id)
            consistency.require_epoch(wanted, here.project.epoch)
            if not fresh:
                reached = here.documents_cursor.sequence if here.documents_cursor else 0
                raise DeadlineExceededError(
                    f"this replica has applied change {reached}, the token asks for {wanted.sequence}: retry with a longer deadline",
                    reason="NOT_FRESH_ENOUGH",
                )
            late = query.mode is not Mode.KEYWORD and not await self._index.wait_for_vectors(
                query.project_id, wanted, deadline.within(deadline.remaining() * _VECTOR_WAIT_SHARE)
            )
        if late:
            degradations.add(
                DegradationReason.VECTORS_STALE, "projector", "the vectors of the latest writes are not there yet: those are found by keyword alone"
            )
        elif query.mode is not Mode.KEYWORD:
            self._outages.worked("projector")
        return self._index.project(query.project_id)

    def _patience(self, project_id: ProjectId, wanted: Cursor, deadline: Deadline) -> Deadline:
        """How long a token is waited for. One of an epoch that is not known here is either very new or of no use any more."""
        try:
            known = self._index.project(project_id).project.epoch == wanted.epoch
        except NotFoundError:
            known = False
        return deadline if known else deadline.within(_UNKNOWN_EPOCH_SECONDS)

    def _check_feed(self, query: Query, degradations: Degradations) -> None:
        stale_since = self._feed.stale_since(query.project_id)
        if stale_since is not None:
            degradations.add(
                DegradationReason.REPLICA_STALE,
                "change_feed",
                "the indexer has not been heard of: later writes may be missing",
                since=datetime.fromtimestamp(stale_since, UTC),
            )

    async def _run_legs(self, query: Query, project: ReplicaProject, deadline: Deadline, degradations: Degradations, timings: Timings) -> _Legs:
        """Runs the legs that the mode asks for, side by side; the keyword leg also where the vector leg has failed altogether."""
        allowed = None if query.filter is None else await asyncio.to_thread(self._index.allowed, query.project_id, query.filter)
        limit = max(_MIN_CANDIDATES, query.top_k)
        if query.mode is Mode.KEYWORD:
            return _Legs(keyword=await self._keyword(query, limit, allowed, timings))
        vector = self._vector(query, project, limit, allowed, deadline, degradations, timings)
        if query.mode is Mode.HYBRID:
            # gather, not a TaskGroup, because what a leg raises is for the client: it must not come wrapped in a group.
            return _Legs(*await asyncio.gather(vector, self._keyword(query, limit, allowed, timings)))
        legs = _Legs(await vector)
        if legs.vector is None:
            legs.keyword = await self._keyword(query, limit, allowed, timings)
        return legs

    async def _keyword(self, query: Query, limit: int, allowed: Pks | None, timings: Timings) -> Ranking:
        with _timed(timings, "keyword"), metrics.KEYWORD_SEARCH_DURATION.time():
            return await asyncio.to_thread(self._index.keyword, query.project_id, query.text, limit, allowed)

    async def _vector(
        self, query: Query, project: ReplicaProject, limit: int, allowed: Pks | None, deadline: Deadline, degradations: Degradations, timings: Timings
    ) -> VectorCandidates | None:
        with _timed(timings, "embed"):
            vector = await self._embed(query, deadline, degradations)
        if vector is None:
            return None
        with _timed(timings, "vector"), metrics.VECTOR_SEARCH_DURATION.time():
            return await self._vector_leg.search(project, vector, limit, allowed, deadline.within(self._budgets.vector), degradations)

    async def _embed(self, query: Query, deadline: Deadline, degradations: Degradations) -> Vector | None:
        """The query's vector; None, and noted as missing, if it cannot be had in time."""
        try:
            async with asyncio.timeout(deadline.within(self._budgets.embed).remaining()):
                vectors = await self._embedder.embed([query.text])
        except (UnavailableError, TimeoutError):
            degradations.add(
                DegradationReason.EMBEDDING_UNAVAILABLE, "embedding_model", "the query could not be embedded; these are keyword hits alone"
            )
            return None
        self._outages.worked("embedding_model")
        vector: Vector = vectors[0]
        return vector

    def _assemble(self, query: Query, legs: _Legs) -> Sequence[Hit]:
        """Fuses the legs and reads the best hits. Blocks for about a millisecond."""
        vector = legs.vector.ranking if legs.vector else ()
        if query.mode is Mode.HYBRID and legs.vector is not None:
            ranked = fuse(query.fusion, vector, legs.keyword, query.alpha)
        else:
            ranked = list(vector if legs.vector is not None else legs.keyword)
        scores = dict(_with_ties(ranked, query.top_k))
        found = self._index.hydrate(query.project_id, list(scores))
        # Equal scores go by chunk id, which is the same in every replica; keys are not.
        best = sorted(found, key=lambda hit: (-scores[hit.pk], hit.chunk.id))[: query.top_k]
        by_vector, by_keyword = _leg_scores(vector), _leg_scores(legs.keyword)
        return [_hit(hit, scores[hit.pk], by_vector.get(hit.pk), by_keyword.get(hit.pk)) for hit in best]


def _with_ties(ranked: Sequence[tuple[int, float]], top_k: int) -> Sequence[tuple[int, float]]:
    """The first `top_k`, and what has the same score as the last of them."""
    end = top_k
    while end < len(ranked) and ranked[end][1] == ranked[end - 1][1]:
        end += 1
    return ranked[:end]


def _leg_scores(ranking: Ranking) -> Mapping[int, LegScore]:
    return {pk: LegScore(rank, score) for rank, (pk, score) in enumerate(ranking, 1)}


def _hit(found: ReplicaHit, score: float, vector: LegScore | None, keyword: LegScore | None) -> Hit:
    return Hit(found.document_id, found.title, found.metadata, found.chunk, score, vector, keyword)


def _freshness(project: ReplicaProject, vector: VectorCandidates | None) -> Freshness:
    """How fresh the answer is. Of vectors: what the side that was searched had."""
    cursor = project.documents_cursor
    own = project.vectors_cursor.sequence if project.vectors_cursor else 0
    return Freshness(
        epoch=project.project.epoch,
        sequence=cursor.sequence if cursor else SequenceNumber(0),
        vector_sequence=VectorSequence(own if vector is not None and vector.from_replica else project.vector_sequence),
        head=project.head,
        contact_time=project.contact_time,
    )


@contextlib.contextmanager
def _timed(timings: Timings, stage: str) -> Iterator[None]:
    """Notes how long a stage of the search took."""
    started = time.perf_counter()
    try:
        yield
    finally:
        setattr(timings, stage, time.perf_counter() - started)

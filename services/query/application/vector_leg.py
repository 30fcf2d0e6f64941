"""The vector leg: the vector store first, the replica's own vectors where they serve better or must stand in.

Unfiltered, the vector store is asked, and what it names is kept only if the replica knows it as current; while it is behind the replica's own
vectors, those are scored exactly instead. So are they when the search is filtered, because the vector store's own filters cost a hundred
times an unfiltered query; where the replica does not keep the project's vectors, the vector store is asked for more than is needed and the
rest is dropped.

A vector store that answers and names less than half of what it must have is taken for one that has lost the rest, and counts as failing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from services.query.application.degradation import Degradations, Outages
from services.query.application.fusion import Ranking
from services.query.application.offload import offload
from services.query.ports import SearchIndex
from services.query.replica.model import Pks, ReplicaProject
from shared.domain import ProjectState, Vector
from shared.errors import CircuitOpenError, CollectionNotFoundError, VectorStoreError, VectorStoreUnavailableError
from shared.filters import AllOf
from shared.observability import tracing
from shared.ports import ScoredChunk, VectorReader
from shared.resilience.admission import idle
from shared.resilience.breaker import HURRIED, NO_TIME
from shared.resilience.deadline import Deadline
from shared.search import Degradation, DegradationReason

# Stale vectors (of chunks that were replaced and are not deleted yet) take places among the candidates: ask for a few more.
_SLACK = 1.2
# A filtered query of the vector store asks for this many times the candidates, up to the bound: beyond it the answer gets large and slow.
_OVERFETCH = 10
_OVERFETCH_MAX = 2_000
# Changes of a project up to which all its chunks are listed where they are asked for, rather than in a thread.
_SMALL_PROJECT = 10_000
_EVERYTHING = AllOf(())
_COMPONENT = "chromadb"
_REBUILDING = "VECTOR_STORE_REBUILDING"


@dataclass(frozen=True, slots=True)
class VectorCandidates:
    """What the leg found; `from_replica` says whose vectors were searched: the replica's or the vector store's."""

    ranking: Ranking
    from_replica: bool


class VectorLeg:
    """Nearest neighbours of a vector among the current chunks of a project."""

    def __init__(self, index: SearchIndex, store: VectorReader, outages: Outages, *, stand_in: bool) -> None:
        """`stand_in`: the replica's own vectors are searched when the vector store cannot be."""
        self._index = index
        self._store = store
        self._outages = outages
        self._may_stand_in = stand_in
        self._tracer = tracing.get_tracer(__name__)

    async def search(
        self, project: ReplicaProject, vector: Vector, limit: int, allowed: Pks | None, deadline: Deadline, degradations: Degradations
    ) -> VectorCandidates | Degradation:
        """At most `limit` chunks by falling cosine similarity. Notes what is missing from them; says why if there is nothing to search."""
        if allowed is not None and project.vectors_available:
            return await self._exact(project, vector, limit, allowed) or _gone()
        if project.vector_sequence == 0 and project.project.state is ProjectState.ACTIVE:
            # Nothing is in the vector store yet, and there may be no collection: what is embedded is found in the replica.
            return await self._exact(project, vector, limit, allowed) or VectorCandidates((), from_replica=False)
        try:
            found = await self._ask(project, vector, limit, filtered=allowed is not None, deadline=deadline)
        except (VectorStoreUnavailableError, VectorStoreError) as error:
            return await self._stand_in(project, vector, limit, allowed, degradations, _explain(error), self._since(error, project))
        if _has_more(project):
            # What was found by meaning while the vector store was down must not vanish when it is back and still catching up.
            self._outages.worked(_COMPONENT, project.project.id)
            return await self._exact(project, vector, limit, allowed) or _gone()
        current = self._current(project, found)
        if await self._lacks(project, vector, len(current), limit):
            self._outages.worked(_COMPONENT)
            since = self._outages.failed(_COMPONENT, project.project.id)
            return await self._stand_in(project, vector, limit, allowed, degradations, "the vector store lacks most of this project", since)
        self._outages.worked(_COMPONENT, project.project.id)
        return VectorCandidates(self._matching(current, limit, allowed, degradations), from_replica=False)

    def _current(self, project: ReplicaProject, found: Sequence[ScoredChunk]) -> Ranking:
        """The candidates that the replica knows as current."""
        keys = self._index.resolve(project.project.id, [candidate.chunk_id for candidate in found])
        return [(keys[candidate.chunk_id], candidate.score) for candidate in found if candidate.chunk_id in keys]

    def _matching(self, current: Ranking, limit: int, allowed: Pks | None, degradations: Degradations) -> Ranking:
        """The first of the candidates that are allowed. Notes when the filter has left fewer than there may be."""
        if allowed is None:
            return current[:limit]
        wanted = set(allowed.tolist())
        ranking = [(pk, score) for pk, score in current if pk in wanted]
        if len(ranking) < min(limit, allowed.size):
            degradations.add(
                DegradationReason.FILTER_INCOMPLETE,
                "replica",
                "the filter matches few chunks of a project whose vectors are not kept here: the search by meaning may have missed some",
            )
        return ranking[:limit]

    async def _lacks(self, project: ReplicaProject, vector: Vector, current: int, limit: int) -> bool:
        """Whether the vector store has named less than half of what it must have: it was emptied, or has another time's vectors.

        Half, because a few may be missing for good reasons: what was just deleted there and not yet here, what cannot be written there. A chunk
        that could not be embedded has no vector anywhere, so where the replica has all vectors that there are, it must have no more than those.
        """
        cursor = project.documents_cursor
        if 2 * current >= limit or cursor is None or cursor.sequence > project.vector_sequence:
            return False
        everything = await offload(self._index.allowed, project.project.id, _EVERYTHING, small=project.head <= _SMALL_PROJECT)
        if 2 * current >= min(limit, everything.size):
            return False
        own = await self._exact(project, vector, limit, None) if _has_as_much(project) else None
        return own is None or 2 * current < len(own.ranking)

    def _since(self, error: VectorStoreUnavailableError | VectorStoreError, project: ReplicaProject) -> datetime | None:
        """Since when the vector store has been at fault, with this project or altogether; None if the caller had no time to ask it."""
        if error.reason in HURRIED:
            return None
        altogether = isinstance(error, VectorStoreUnavailableError) and error.reason != _REBUILDING
        return self._outages.failed(_COMPONENT, None if altogether else project.project.id)

    async def _ask(self, project: ReplicaProject, vector: Vector, limit: int, *, filtered: bool, deadline: Deadline) -> Sequence[ScoredChunk]:
        """Asks the vector store. Raises VectorStoreUnavailableError (also while it is being rebuilt), VectorStoreError."""
        if project.project.state is ProjectState.REBUILDING:
            raise VectorStoreUnavailableError("the project is being written to the vector store again", reason=_REBUILDING)
        wanted = min(limit * _OVERFETCH, max(limit, _OVERFETCH_MAX)) if filtered else int(limit * _SLACK) + 1
        if deadline.expired:
            raise VectorStoreUnavailableError("no time was left to ask the vector store", reason=NO_TIME)
        collection = project.project.collection
        with self._tracer.start_as_current_span("VectorStore.query") as span:
            if span.is_recording():
                span.set_attributes({"db.system.name": "chromadb", "db.collection.name": collection, "kb.k": wanted})
            with idle():
                found = await self._store.query(collection, vector, wanted, timeout=deadline.remaining())
            if span.is_recording():
                span.set_attribute("kb.results", len(found))
            return found

    async def _exact(self, project: ReplicaProject, vector: Vector, limit: int, allowed: Pks | None) -> VectorCandidates | None:
        """Asks the replica's own vectors; None if it does not keep them."""
        with self._tracer.start_as_current_span("ReplicaVectors.search") as span:
            found = await asyncio.to_thread(self._index.vectors, project.project.id, vector, limit, allowed)
            if span.is_recording():
                span.set_attributes({"kb.k": limit, "kb.filtered": allowed is not None, "kb.results": len(found or ())})
        return None if found is None else VectorCandidates(found, from_replica=True)

    async def _stand_in(
        self,
        project: ReplicaProject,
        vector: Vector,
        limit: int,
        allowed: Pks | None,
        degradations: Degradations,
        why: str,
        since: datetime | None,
    ) -> VectorCandidates | Degradation:
        """The replica's vectors instead of the vector store's, and noted; why there are none, if it does not keep them or they may not stand in."""
        candidates = await self._exact(project, vector, limit, allowed) if self._may_stand_in else None
        if candidates is None:
            return Degradation(DegradationReason.VECTOR_LEG_MISSING, _COMPONENT, why, since)
        degradations.add(DegradationReason.VECTOR_STORE_UNAVAILABLE, _COMPONENT, f"{why}; vectors came from this replica's own copy", since=since)
        return candidates


def _gone() -> Degradation:
    """The replica had the project's vectors when the search began, and has dropped them: they have come to be too many, or are fetched again."""
    return Degradation(DegradationReason.VECTOR_LEG_MISSING, "replica", "this replica cannot search the project's vectors now", None)


def _has_more(project: ReplicaProject) -> bool:
    """Whether the replica has vectors that the vector store lacks."""
    return project.vectors_available and project.vectors_cursor is not None and project.vectors_cursor.sequence > project.vector_sequence


def _has_as_much(project: ReplicaProject) -> bool:
    """Whether the replica has every vector that the vector store is said to have."""
    return project.vectors_available and project.vectors_cursor is not None and project.vectors_cursor.sequence >= project.vector_sequence


def _explain(error: VectorStoreUnavailableError | VectorStoreError) -> str:
    """Why the vector store could not be asked, for people."""
    if error.reason in HURRIED:
        return "there was no time to ask the vector store"
    if error.reason == _REBUILDING:
        return "the vector store is being written again from the catalog"
    if isinstance(error, CircuitOpenError):
        return "the vector store failed repeatedly and is left alone for a while"
    if isinstance(error, CollectionNotFoundError):
        return "the vector store has lost this project"
    if isinstance(error, VectorStoreUnavailableError):
        return "the vector store does not answer"
    return "the vector store refused the query"

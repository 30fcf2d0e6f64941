"""The vector leg: the vector store first, the replica's own vectors where they serve better or must stand in.

Unfiltered, the vector store is asked, and what it names is kept only if the replica knows it as current; while it is behind the replica's own
vectors, those are scored exactly instead. So are they when the search is filtered, because the vector store's own filters cost a hundred
times an unfiltered query; where the replica does not keep the project's vectors, the vector store is asked for more than is needed and the
rest is dropped.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from services.query.application.degradation import Degradations, Outages
from services.query.application.fusion import Ranking
from services.query.ports import SearchIndex
from services.query.replica.model import Pks, ReplicaProject
from shared.domain import ProjectState, Vector
from shared.errors import CircuitOpenError, CollectionNotFoundError, VectorStoreError, VectorStoreUnavailableError
from shared.observability import tracing
from shared.ports import ScoredChunk, VectorReader
from shared.resilience.deadline import Deadline
from shared.search import DegradationReason

# Stale vectors (of chunks that were replaced and are not deleted yet) take places among the candidates: ask for a few more.
_SLACK = 1.2
# A filtered query of the vector store asks for this many times the candidates, up to the bound: beyond it the answer gets large and slow.
_OVERFETCH = 10
_OVERFETCH_MAX = 2_000
_COMPONENT = "chromadb"
_REBUILDING = "VECTOR_STORE_REBUILDING"


@dataclass(frozen=True, slots=True)
class VectorCandidates:
    """What the leg found; `from_replica` says whose vectors were searched: the replica's or the vector store's."""

    ranking: Ranking
    from_replica: bool


class VectorLeg:
    """Nearest neighbours of a vector among the current chunks of a project."""

    def __init__(self, index: SearchIndex, store: VectorReader, outages: Outages) -> None:
        self._index = index
        self._store = store
        self._outages = outages
        self._tracer = tracing.get_tracer(__name__)

    async def search(
        self, project: ReplicaProject, vector: Vector, limit: int, allowed: Pks | None, deadline: Deadline, degradations: Degradations
    ) -> VectorCandidates | None:
        """At most `limit` chunks by falling cosine similarity. Notes what is missing; None if the leg has nothing to search."""
        if allowed is not None and project.vectors_available:
            return await self._exact(project, vector, limit, allowed)
        if project.vector_sequence == 0 and project.project.state is ProjectState.ACTIVE:
            # Nothing is in the vector store yet, and there may be no collection: what is embedded is found in the replica.
            return await self._exact(project, vector, limit, allowed) or VectorCandidates((), from_replica=False)
        try:
            found = await self._ask(project, vector, limit, filtered=allowed is not None, deadline=deadline)
        except (VectorStoreUnavailableError, VectorStoreError) as error:
            return await self._stand_in(project, vector, limit, allowed, degradations, _explain(error))
        self._outages.worked(_COMPONENT)
        if _has_more(project):
            # What was found by meaning while the vector store was down must not vanish when it is back and still catching up.
            return await self._exact(project, vector, limit, allowed)
        ranking = self._current(project, found, allowed)
        if allowed is not None and len(ranking) < min(limit, allowed.size):
            degradations.add(
                DegradationReason.FILTER_INCOMPLETE,
                "replica",
                "the filter matches few chunks of a project whose vectors are not kept here: the search by meaning may have missed some",
            )
        return VectorCandidates(ranking[:limit], from_replica=False)

    def _current(self, project: ReplicaProject, found: Sequence[ScoredChunk], allowed: Pks | None) -> Ranking:
        """The candidates that the replica knows as current, and that are allowed."""
        keys = self._index.resolve(project.project.id, [candidate.chunk_id for candidate in found])
        wanted = None if allowed is None else set(allowed.tolist())
        ranking = [(keys[candidate.chunk_id], candidate.score) for candidate in found if candidate.chunk_id in keys]
        return ranking if wanted is None else [(pk, score) for pk, score in ranking if pk in wanted]

    async def _ask(self, project: ReplicaProject, vector: Vector, limit: int, *, filtered: bool, deadline: Deadline) -> Sequence[ScoredChunk]:
        """Asks the vector store. Raises VectorStoreUnavailableError (also while it is being rebuilt), VectorStoreError."""
        if project.project.state is ProjectState.REBUILDING:
            raise VectorStoreUnavailableError("the project is being written to the vector store again", reason=_REBUILDING)
        wanted = min(limit * _OVERFETCH, max(limit, _OVERFETCH_MAX)) if filtered else int(limit * _SLACK) + 1
        if deadline.expired:
            raise VectorStoreUnavailableError("no time was left to ask the vector store")
        collection = project.project.collection
        with self._tracer.start_as_current_span("VectorStore.query", attributes={"kb.collection": collection, "kb.k": wanted}) as span:
            found = await self._store.query(collection, vector, wanted, timeout=deadline.remaining())
            span.set_attribute("kb.results", len(found))
            return found

    async def _exact(self, project: ReplicaProject, vector: Vector, limit: int, allowed: Pks | None) -> VectorCandidates | None:
        """Asks the replica's own vectors; None if it does not keep them."""
        found = await asyncio.to_thread(self._index.vectors, project.project.id, vector, limit, allowed)
        return None if found is None else VectorCandidates(found, from_replica=True)

    async def _stand_in(
        self, project: ReplicaProject, vector: Vector, limit: int, allowed: Pks | None, degradations: Degradations, why: str
    ) -> VectorCandidates | None:
        """The replica's vectors instead of the vector store's; None, and noted as missing, if it does not keep them."""
        candidates = await self._exact(project, vector, limit, allowed)
        if candidates is None:
            degradations.add(DegradationReason.VECTOR_LEG_MISSING, _COMPONENT, f"{why}; these are keyword hits alone")
        else:
            degradations.add(DegradationReason.VECTOR_STORE_UNAVAILABLE, _COMPONENT, f"{why}; vectors came from this replica's own copy")
        return candidates


def _has_more(project: ReplicaProject) -> bool:
    """Whether the replica has vectors that the vector store lacks."""
    return project.vectors_available and project.vectors_cursor is not None and project.vectors_cursor.sequence > project.vector_sequence


def _explain(error: VectorStoreUnavailableError | VectorStoreError) -> str:
    """Why the vector store could not be asked, for people."""
    if error.reason == _REBUILDING:
        return "the vector store is being written again from the catalog"
    if isinstance(error, CircuitOpenError):
        return "the vector store failed repeatedly and is left alone for a while"
    if isinstance(error, CollectionNotFoundError):
        return "the vector store has lost this project"
    if isinstance(error, VectorStoreUnavailableError):
        return "the vector store does not answer"
    return "the vector store refused the query"

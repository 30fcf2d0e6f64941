"""Writes to the vector store for the projector and the reconciler: one at a time, at a bounded pace, and past the chunks that it refuses."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import numpy as np

from services.indexer.application.halving import halve, reason_of
from services.indexer.application.signals import Signals
from services.indexer.application.subjects import Subject
from services.indexer.ports import ProjectionCatalog
from services.indexer.records import Failure, LaggingProject
from shared.domain import ChunkId, Vectors
from shared.errors import CollectionNotFoundError, VectorStoreError
from shared.observability.logging import get_logger
from shared.ports import VectorWriter
from shared.resilience.pace import Pace

# No chunk has such an id: those contain a "#". A crash may leave it behind: the reconciler finds and deletes it.
_PROBE = ChunkId("probe-of-the-indexer")


class CollectionWriter:
    """Writes vectors of projects.

    Whoever decides by what the catalog and the vector store hold what to write takes `lock` around both, so that neither the projector nor a repair
    writes in between. The calls below do not take it themselves.

    Args:
        catalog: Keeps what the vector store refuses.
        store: The vector store.
        signals: Told when a project has to be written again.
        pace: In chunks.
        timeout: Seconds, for each call to the vector store.
    """

    def __init__(self, catalog: ProjectionCatalog, store: VectorWriter, signals: Signals, pace: Pace, *, timeout: float) -> None:
        self._catalog = catalog
        self._store = store
        self._signals = signals
        self._pace = pace
        self._timeout = timeout
        self._log = get_logger(__name__)
        self.lock = asyncio.Lock()

    async def add(self, project: LaggingProject, chunk_ids: Sequence[ChunkId], vectors: Vectors) -> int:
        """Adds vectors; returns how many were taken. Chunks that the vector store refuses, though it takes others right then, go into quarantine.

        Raises VectorStoreUnavailableError, CollectionNotFoundError, VectorStoreError when it refuses everything.
        """
        await self._pace.take(len(chunk_ids))

        async def attempt(part: slice) -> None:
            await self._store.add(project.collection, chunk_ids[part], vectors[part], timeout=self._timeout)

        async def probe(error: Exception) -> None:
            await self._probe(project, vectors.shape[1], error)

        halved = await halve(len(chunk_ids), attempt, is_refusal=_is_refusal, probe=probe)
        if halved.refused:
            failures = [Failure(chunk_ids[place], reason_of(error)) for place, error in halved.refused]
            await self._catalog.quarantine(project, failures)
            self._log.warning(
                "the vector store refuses chunks and takes others: they are in quarantine",
                project=project.id,
                chunks=len(failures),
                first=failures[0].chunk_id,
                why=failures[0].reason,
            )
        return len(chunk_ids) - len(halved.refused)

    async def remove(self, project: LaggingProject, chunk_ids: Sequence[ChunkId]) -> int:
        """Deletes vectors; returns for how many that was taken. What cannot be deleted although others can is passed over.

        Raises VectorStoreUnavailableError, CollectionNotFoundError, VectorStoreError when it refuses everything.
        """
        await self._pace.take(len(chunk_ids))

        async def attempt(part: slice) -> None:
            await self._store.delete(project.collection, chunk_ids[part], timeout=self._timeout)

        async def probe(_error: Exception) -> None:
            await self._store.delete(project.collection, [_PROBE], timeout=self._timeout)

        halved = await halve(len(chunk_ids), attempt, is_refusal=_is_refusal, probe=probe)
        for place, error in halved.refused:
            self._log.warning(
                "the vector store refuses to delete a chunk and deletes others: it is passed over",
                project=project.id,
                chunk=chunk_ids[place],
                why=reason_of(error),
            )
        return len(chunk_ids) - len(halved.refused)

    async def start_again(self, project: LaggingProject) -> None:
        """Has everything written to a new collection, unless somebody else has had that done."""
        if not await self._catalog.restart(project):
            return
        self._log.warning(
            "the vector store does not hold what it was given; writing it again from the catalog", project=project.id, collection=project.collection
        )
        self._signals.notify(project.key, Subject.PROJECT_LIST, Subject.EMBEDDED, Subject.DELETED)

    async def _probe(self, project: LaggingProject, dimension: int, refusal: Exception) -> None:
        """Returns if the collection takes a vector that is in order. Raises what it says to it, or the refusal if that is one, too."""
        vector = np.zeros((1, dimension), np.float32)
        vector[0, 0] = 1.0
        try:
            await self._store.add(project.collection, [_PROBE], vector, timeout=self._timeout)
        except VectorStoreError as error:
            if not _is_refusal(error):
                raise
            raise refusal from refusal.__cause__
        await self._store.delete(project.collection, [_PROBE], timeout=self._timeout)


def _is_refusal(error: Exception) -> bool:
    return isinstance(error, VectorStoreError) and not isinstance(error, CollectionNotFoundError)

"""Comparing the replica's copy of a project with the catalog, and having it mended."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from services.query.application.verify_documents import DocumentComparison
from services.query.ports import CatalogDigests, ProjectCopy, Streams
from services.query.replica.model import CopyInspection
from shared.digest import MAX_UNSENT
from shared.domain import Cursor, ProjectId, SequenceNumber
from shared.errors import DeadlineExceededError
from shared.observability import metrics
from shared.observability.logging import get_logger
from shared.resilience.deadline import Deadline
from shared.verification import Difference, DifferenceKind, Verification

_DOCUMENTS = frozenset({DifferenceKind.DOCUMENTS_MISSING, DifferenceKind.DOCUMENTS_EXTRA, DifferenceKind.DOCUMENTS_DIFFERENT})
_log = get_logger(__name__)


class VerifyReplica:
    """The use case of ReplicaService. One project at a time: it reads all that there is of it.

    Args:
        copy: the replica.
        catalog: what it is compared with.
        streams: what fetches a copy again.
        name: of this replica, for the answer.
    """

    def __init__(self, copy: ProjectCopy, catalog: CatalogDigests, streams: Streams, name: str) -> None:
        self._copy = copy
        self._catalog = catalog
        self._streams = streams
        self._name = name
        self._turn = asyncio.Lock()

    async def run(self, project_id: ProjectId, deadline: Deadline, *, repair: bool) -> Verification:
        """Compares, and with `repair` mends or begins to.

        Raises NotFoundError, UnavailableError when the indexer does not answer, and DeadlineExceededError when there was no moment in time at which
        the copy had all changes.
        """
        self._copy.project(project_id)
        try:
            async with asyncio.timeout(deadline.remaining()), self._turn:
                found = await self._compare(project_id, deadline)
                for each in found.differences:
                    metrics.REPLICA_DIFFERENCES.labels(each.kind.value).inc(each.count)
                    _log.warning("replica_differs", project=project_id, kind=each.kind.value, count=each.count, examples=each.examples[:3])
                return found if found.equal or not repair else await self._repair(found)
        except TimeoutError as error:
            raise DeadlineExceededError("the replica's copy did not come to the newest change in time, or comparing it took too long") from error

    async def _compare(self, project_id: ProjectId, deadline: Deadline) -> Verification:
        while True:
            documents = DocumentComparison(self._copy, self._catalog, project_id, deadline)
            await documents.run()
            inspection = await asyncio.to_thread(self._copy.inspect, project_id)
            here = inspection.cursor
            # A copy that has begun anew in between has nothing wrong in it because it has nothing in it.
            if here is not None and here.epoch == documents.epoch and here.sequence >= documents.sequence:
                break
        lost = await self._lost_vectors(project_id, inspection, deadline)
        found = (
            (DifferenceKind.DOCUMENTS_MISSING, documents.missing),
            (DifferenceKind.DOCUMENTS_EXTRA, documents.extra),
            (DifferenceKind.DOCUMENTS_DIFFERENT, documents.different | inspection.damaged),
            (DifferenceKind.KEYWORD_INDEX, inspection.misindexed),
            (DifferenceKind.REPLICA_VECTORS, inspection.wrong_vectors | lost),
        )
        differences = tuple(Difference.of(kind, ids) for kind, ids in found if ids)
        return Verification(project_id, documents.sequence, inspection.chunks, differences, replica=self._name)

    async def _lost_vectors(self, project_id: ProjectId, inspection: CopyInspection, deadline: Deadline) -> set[str]:
        """Chunks whose vectors the catalog has and the copy has lost.

        Only told when the copy has all changes and all vectors, and the catalog has not changed since it was looked at: a vector that is missing at
        any other moment may be on its way, or be that of a chunk that is about to go.
        """
        if not inspection.unvectored or inspection.vectors_cursor is None:
            return set()
        now = await self._catalog.unsent(project_id, deadline)
        at_head = inspection.cursor == Cursor(now.epoch, now.head)
        has_all = inspection.vectors_cursor == Cursor(now.epoch, SequenceNumber(now.embedded))
        if not at_head or not has_all or len(now.unsent) == MAX_UNSENT:
            return set()
        return set(inspection.unvectored.difference(now.unsent))

    async def _repair(self, found: Verification) -> Verification:
        """Mends what was found, or begins to."""
        kinds = {each.kind for each in found.differences}
        done: list[str] = []
        if kinds & _DOCUMENTS:
            self._streams.watch_again(found.project_id, afresh=True)
            done.append("the project is being fetched from the indexer again")
        else:
            if DifferenceKind.KEYWORD_INDEX in kinds:
                await asyncio.to_thread(self._copy.reindex, found.project_id)
                done.append("the keyword index was made again from the chunks")
            if DifferenceKind.REPLICA_VECTORS in kinds:
                await asyncio.to_thread(self._copy.forget_vectors, found.project_id)
                self._streams.watch_again(found.project_id, afresh=False)
                done.append("the vectors are being fetched from the indexer again")
        message = "; ".join(done)
        _log.warning("replica_mended", project=found.project_id, what=message)
        return replace(found, repaired=True, repair_message=message)

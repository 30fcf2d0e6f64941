"""Calls to MaintenanceService: comparing the vector store with the catalog, and chunks in quarantine."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from shared.client.endpoint import Endpoint
from shared.domain import ChunkId, DocumentId, ProjectId
from shared.gen.knowledgebeast.indexer.v1 import maintenance_pb2 as pb
from shared.gen.knowledgebeast.indexer.v1 import maintenance_pb2_grpc
from shared.quarantine import QuarantinedChunk, QuarantineStage
from shared.rpc.convert import time_of
from shared.rpc.verification import decode
from shared.verification import Verification


@dataclass(frozen=True, slots=True)
class VerifyProgress:
    """How many chunks have been compared, and how many there are."""

    compared: int
    total: int


@dataclass(frozen=True, slots=True)
class VerifiedVectors:
    """What comparing the vector store with the catalog has found.

    Attributes:
        verification: what differs.
        orphaned_collections: collections of the project that the catalog knows nothing of.
        quarantined: chunks in quarantine, which are no difference.
    """

    verification: Verification
    orphaned_collections: tuple[str, ...]
    quarantined: int


_STAGES = {
    pb.QuarantinedChunk.STAGE_EMBEDDING: QuarantineStage.EMBEDDING,
    pb.QuarantinedChunk.STAGE_VECTOR_STORE: QuarantineStage.VECTOR_STORE,
}


class MaintenanceCalls:
    """Calls for whoever operates the indexer. `timeout` is in seconds; None takes the client's."""

    _indexer: Endpoint

    async def verify_vectors(
        self, project_id: str, *, repair: bool = False, drop_orphans: bool = False, timeout: float | None = None
    ) -> AsyncIterator[VerifyProgress | VerifiedVectors]:
        """Compares the vectors of a project in the vector store with the catalog, and mends what differs if that is wanted.

        Yields how far it is, and at last what was found. Raises NotFoundError, UnavailableError when the vector store does not answer.
        """
        request = pb.VerifyVectorsRequest(project_id=project_id, repair=repair, drop_orphans=drop_orphans)
        async for response in self._indexer.stream(self._maintenance.VerifyVectors, request, timeout):
            if response.WhichOneof("step") == "progress":
                yield VerifyProgress(response.progress.compared_chunks, response.progress.total_chunks)
            elif response.WhichOneof("step") == "result":
                found = response.result
                yield VerifiedVectors(decode(found.verification), tuple(found.orphaned_collections), found.quarantined_chunks)

    async def list_quarantined_chunks(
        self, project_id: str = "", *, page_size: int = 0, timeout: float | None = None
    ) -> AsyncIterator[QuarantinedChunk]:
        """Chunks in quarantine, of one project or (empty) of all, a page a call. Raises NotFoundError. `timeout` is for each page."""
        token = ""
        while True:
            request = pb.ListQuarantinedChunksRequest(project_id=project_id, page_size=page_size, page_token=token)
            response = await self._indexer.call(self._maintenance.ListQuarantinedChunks, request, timeout)
            for chunk in response.chunks:
                yield _chunk(chunk)
            token = response.next_page_token
            if not token:
                return

    async def retry_quarantined_chunks(self, project_id: str, chunk_ids: Sequence[str] = (), *, timeout: float | None = None) -> int:
        """Has chunks, or (none named) all of a project, tried again; how many were in quarantine. Raises NotFoundError."""
        request = pb.RetryQuarantinedChunksRequest(project_id=project_id, chunk_ids=chunk_ids)
        response = await self._indexer.call(self._maintenance.RetryQuarantinedChunks, request, timeout)
        return response.retried_count

    @property
    def _maintenance(self) -> maintenance_pb2_grpc.MaintenanceServiceAsyncStub:
        return maintenance_pb2_grpc.MaintenanceServiceStub(self._indexer.channel)


def _chunk(message: pb.QuarantinedChunk) -> QuarantinedChunk:
    return QuarantinedChunk(
        project_id=ProjectId(message.project_id),
        document_id=DocumentId(message.document_id),
        chunk_id=ChunkId(message.chunk_id),
        ordinal=message.ordinal,
        stage=_STAGES.get(message.stage, QuarantineStage.UNKNOWN),
        reason=message.reason,
        failures=message.failures,
        time=time_of(message.quarantine_time),
    )

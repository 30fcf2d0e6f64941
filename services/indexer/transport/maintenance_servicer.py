"""MaintenanceService."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing

from services.indexer.application.quarantine import Quarantine
from services.indexer.application.reconciler import Reconciler
from services.indexer.transport import convert, validate
from services.indexer.transport.binding import bound_project
from shared.gen.knowledgebeast.indexer.v1 import maintenance_pb2 as pb
from shared.gen.knowledgebeast.indexer.v1 import maintenance_pb2_grpc
from shared.rpc.call import Context


class MaintenanceServicer(maintenance_pb2_grpc.MaintenanceServiceServicer):
    """Finds and mends what is wrong with vectors."""

    def __init__(self, reconciler: Reconciler, quarantine: Quarantine) -> None:
        self._reconciler = reconciler
        self._quarantine = quarantine

    async def VerifyVectors(self, request: pb.VerifyVectorsRequest, context: Context) -> AsyncIterator[pb.VerifyVectorsResponse]:
        """See the proto."""
        project_id = bound_project(request.project_id)
        async with aclosing(self._reconciler.compare(project_id, repair=request.repair, drop_orphans=request.drop_orphans)) as steps:
            async for step in steps:
                yield convert.verification_step(step)

    async def ListQuarantinedChunks(self, request: pb.ListQuarantinedChunksRequest, context: Context) -> pb.ListQuarantinedChunksResponse:
        """See the proto."""
        project_id = bound_project(request.project_id) if request.project_id else None
        chunks, token = await self._quarantine.page(project_id, validate.page_size(request.page_size), request.page_token)
        return pb.ListQuarantinedChunksResponse(chunks=[convert.quarantined_chunk(chunk) for chunk in chunks], next_page_token=token)

    async def RetryQuarantinedChunks(self, request: pb.RetryQuarantinedChunksRequest, context: Context) -> pb.RetryQuarantinedChunksResponse:
        """See the proto."""
        project_id = bound_project(request.project_id)
        retried = await self._quarantine.retry(project_id, validate.chunk_ids(request.chunk_ids))
        return pb.RetryQuarantinedChunksResponse(retried_count=retried)

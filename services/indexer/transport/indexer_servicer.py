"""IndexerService."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing

from services.indexer.application.documents import Documents
from services.indexer.application.ingest import Candidate, Ingest
from services.indexer.transport import convert, validate
from services.indexer.transport.binding import bound_project
from shared.errors import InvalidArgumentError
from shared.filters import Filter
from shared.gen.knowledgebeast.common.v1 import filter_pb2
from shared.gen.knowledgebeast.indexer.v1 import indexer_pb2 as pb
from shared.gen.knowledgebeast.indexer.v1 import indexer_pb2_grpc
from shared.resilience.admission import idle
from shared.rpc.call import Context
from shared.rpc.convert_filter import filter_from_proto


def _filter(message: filter_pb2.Filter) -> Filter | None:
    return filter_from_proto(message) if message.WhichOneof("condition") else None


class IndexerServicer(indexer_pb2_grpc.IndexerServiceServicer):
    """Writes and reads documents."""

    def __init__(self, ingest: Ingest, documents: Documents) -> None:
        self._ingest = ingest
        self._documents = documents

    async def UpsertDocuments(self, request: pb.UpsertDocumentsRequest, context: Context) -> pb.UpsertDocumentsResponse:
        """See the proto."""
        project_id = bound_project(request.project_id)
        validate.batch_size(len(request.documents))
        candidates = [validate.candidate(document, f"documents[{index}]") for index, document in enumerate(request.documents)]
        batch = await self._ingest.upsert(project_id, candidates, validate.request_id(request.request_id))
        ids = [document.id for document in request.documents]
        return pb.UpsertDocumentsResponse(results=convert.results(batch, ids, 0), consistency_token=batch.token)

    async def IngestDocuments(
        self, request_iterator: AsyncIterator[pb.IngestDocumentsRequest], context: Context
    ) -> AsyncIterator[pb.IngestDocumentsResponse]:
        """See the proto."""
        with idle():
            first = await anext(request_iterator, None)
        if first is None:
            return
        project_id = bound_project(first.project_id)
        sent: deque[list[str]] = deque()  # ids of the batches that are under way

        async def batches() -> AsyncIterator[Sequence[Candidate]]:
            request: pb.IngestDocumentsRequest | None = first
            while request is not None:
                if request.project_id not in {"", project_id}:
                    raise InvalidArgumentError.of("project_id", f"must stay {project_id!r} in one stream")
                validate.batch_size(len(request.documents))
                sent.append([document.id for document in request.documents])
                yield [validate.candidate(document, f"documents[{index}]") for index, document in enumerate(request.documents)]
                request = await anext(request_iterator, None)

        index = 0
        async with aclosing(self._ingest.stream(project_id, batches())) as written:
            async for batch in written:
                ids = sent.popleft()
                yield pb.IngestDocumentsResponse(results=convert.results(batch, ids, index), consistency_token=batch.token)
                index += len(ids)

    async def GetDocument(self, request: pb.GetDocumentRequest, context: Context) -> pb.GetDocumentResponse:
        """See the proto."""
        project_id = bound_project(request.project_id)
        document = await self._documents.get(project_id, validate.document_id(request.document_id))
        return pb.GetDocumentResponse(document=convert.document(document))

    async def ListDocuments(self, request: pb.ListDocumentsRequest, context: Context) -> pb.ListDocumentsResponse:
        """See the proto."""
        project_id = bound_project(request.project_id)
        size = validate.page_size(request.page_size)
        documents, token = await self._documents.page(project_id, size, request.page_token, _filter(request.filter))
        return pb.ListDocumentsResponse(documents=[convert.document(document) for document in documents], next_page_token=token)

    async def DeleteDocuments(self, request: pb.DeleteDocumentsRequest, context: Context) -> pb.DeleteDocumentsResponse:
        """See the proto."""
        project_id = bound_project(request.project_id)
        if bool(request.document_ids) == request.HasField("filter"):
            raise InvalidArgumentError.of("document_ids", "send either document_ids or a filter")
        if len(request.document_ids) > validate.MAX_BATCH:
            raise InvalidArgumentError.of("document_ids", f"must have at most {validate.MAX_BATCH:,} ids")
        ids = [validate.document_id(value, f"document_ids[{index}]") for index, value in enumerate(request.document_ids)]
        condition = filter_from_proto(request.filter) if request.HasField("filter") else None
        deleted, token = await self._documents.delete(project_id, ids, condition, validate.request_id(request.request_id))
        return pb.DeleteDocumentsResponse(deleted_count=deleted, consistency_token=token)

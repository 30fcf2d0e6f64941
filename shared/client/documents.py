"""Calls to IndexerService."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterable, AsyncIterator, Sequence

from shared.client import decode, encode
from shared.client.endpoint import Endpoint
from shared.client.ingest import IngestLimits, IngestStream
from shared.client.types import DeleteResult, IngestResult, UpsertResult
from shared.domain import Document, DocumentInput
from shared.filters import Filter
from shared.gen.knowledgebeast.indexer.v1 import indexer_pb2, indexer_pb2_grpc
from shared.rpc import resources


class DocumentCalls:
    """Writes, reads and deletes documents. `timeout` is in seconds; None takes the client's."""

    _indexer: Endpoint

    async def upsert(
        self, project_id: str, documents: Sequence[DocumentInput], *, request_id: str | None = None, timeout: float | None = None
    ) -> UpsertResult:
        """Writes 1 to 1,000 documents; each is written or refused by itself.

        `request_id` is a UUID that makes repeated calls one; a new one is made when it is None.
        """
        request = indexer_pb2.UpsertDocumentsRequest(
            project_id=project_id, documents=encode.documents(documents), request_id=request_id or str(uuid.uuid4())
        )
        response = await self._indexer.call(self._documents.UpsertDocuments, request, timeout)
        return UpsertResult(tuple(map(decode.document_result, response.results)), response.consistency_token)

    def ingest(
        self, project_id: str, batches: AsyncIterable[Sequence[DocumentInput]], *, limits: IngestLimits | None = None
    ) -> AsyncIterator[IngestResult]:
        """Writes a stream of batches (1 to 1,000 documents each) and yields results, in order, as soon as the documents are durable.

        A bounded number of batches is on the way, so memory stays bounded and a slow reader slows the source. If the source raises, what it gave
        before is still written and reported, then its error is raised. Raises DeadlineExceededError when the limits are passed.
        """
        return IngestStream(self._indexer, project_id, batches, limits or IngestLimits()).results()

    async def get_document(self, project_id: str, document_id: str, *, timeout: float | None = None) -> Document:
        """A document with its text and chunks. Raises NotFoundError."""
        request = indexer_pb2.GetDocumentRequest(project_id=project_id, document_id=document_id)
        response = await self._indexer.call(self._documents.GetDocument, request, timeout)
        return resources.document(response.document)

    async def list_documents(
        self,
        project_id: str,
        *,
        filter: Filter | None = None,  # noqa: A002 - the API's own word
        page_size: int = 0,
        timeout: float | None = None,
    ) -> AsyncIterator[Document]:
        """Documents in the order of their ids, without text and chunks, a page a call. `timeout` is for each page."""
        token, condition = "", encode.filter_message(filter)
        while True:
            request = indexer_pb2.ListDocumentsRequest(project_id=project_id, page_size=page_size, page_token=token, filter=condition)
            response = await self._indexer.call(self._documents.ListDocuments, request, timeout)
            for document in response.documents:
                yield resources.document(document)
            token = response.next_page_token
            if not token:
                return

    async def delete_documents(
        self,
        project_id: str,
        document_ids: Sequence[str] = (),
        *,
        filter: Filter | None = None,  # noqa: A002 - the API's own word
        request_id: str | None = None,
        timeout: float | None = None,
    ) -> DeleteResult:
        """Deletes 1 to 1,000 documents by id (ids that are not there are no error), or all that match a filter: one of the two."""
        request = indexer_pb2.DeleteDocumentsRequest(
            project_id=project_id,
            document_ids=document_ids,
            filter=encode.filter_message(filter),
            request_id=request_id or str(uuid.uuid4()),
        )
        response = await self._indexer.call(self._documents.DeleteDocuments, request, timeout)
        return DeleteResult(response.deleted_count, response.consistency_token)

    @property
    def _documents(self) -> indexer_pb2_grpc.IndexerServiceAsyncStub:
        return indexer_pb2_grpc.IndexerServiceStub(self._indexer.channel)

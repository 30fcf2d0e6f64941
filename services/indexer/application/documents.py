"""Reading, listing and deleting documents."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Sequence

import orjson

from services.indexer.application import tokens
from services.indexer.application.signals import Signals
from services.indexer.application.subjects import Subject
from services.indexer.ports import DocumentCatalog
from services.indexer.records import ProjectKey, RequestKey
from services.indexer.sizes import metadata_bytes
from shared import consistency
from shared.domain import Cursor, Document, DocumentId, ProjectId, SequenceNumber
from shared.filters import Filter, compile_filter
from shared.observability import metrics, tracing

# Documents that one filtered page looks at before it answers with what it has found, and that one commit deletes.
_SCAN = 5_000
_DELETE = 1_000
# A page ends with the document that brings its metadata to this size.
_PAGE_BYTES = 4_000_000


class Documents:
    """The use cases of IndexerService beside writing."""

    def __init__(self, catalog: DocumentCatalog, signals: Signals) -> None:
        self._catalog = catalog
        self._signals = signals

    async def get(self, project_id: ProjectId, document_id: DocumentId) -> Document:
        """One document with its text and chunks. Raises NotFoundError."""
        key, _ = await self._catalog.find_project(project_id)
        return await self._catalog.get_document(key, document_id)

    async def page(self, project_id: ProjectId, size: int, token: str, condition: Filter | None) -> tuple[Sequence[Document], str]:
        """A page of documents and the token of the next one, empty on the last.

        A page may be short, or empty, and not the last: a call looks at a bounded number of documents. Raises NotFoundError,
        InvalidArgumentError for a wrong token.
        """
        key, _ = await self._catalog.find_project(project_id)
        start = tokens.page_start(token, project_id, condition)
        wanted = size + 1 if condition is None else _SCAN
        matches = compile_filter(condition) if condition is not None else None
        scanned = await self._catalog.list_documents(key, start, wanted)
        found: list[Document] = []
        room = _PAGE_BYTES
        for document in scanned:
            if matches is not None and not matches(document.metadata):
                continue
            if len(found) == size or room <= 0:
                return found, tokens.page_token(found[-1].id, project_id, condition)
            found.append(document)
            room -= metadata_bytes(orjson.dumps(dict(document.metadata)))
        # Everything that was looked at is on the page or does not match: the next page begins behind it.
        return found, tokens.page_token(scanned[-1].id, project_id, condition) if len(scanned) == wanted else ""

    async def delete(self, project_id: ProjectId, document_ids: Sequence[DocumentId], condition: Filter | None, request_id: str) -> tuple[int, str]:
        """Deletes documents by id, or all that match now; returns how many, and a consistency token. Raises NotFoundError."""
        key, project = await self._catalog.find_project(project_id)
        request = RequestKey(request_id, hashlib.blake2b(repr((document_ids, condition)).encode()).digest()) if request_id else None
        answer = await self._catalog.recall(project_id, request) if request else None
        if answer is not None:
            deleted, head = orjson.loads(answer)
            return deleted, consistency.encode(project_id, Cursor(project.epoch, SequenceNumber(head)))
        deleted, head = 0, project.head
        async for targets in self._targets(key, document_ids, condition):
            count, head = await self._catalog.delete_documents(key, targets, tracing.current())
            deleted += count
            metrics.DOCUMENTS_WRITTEN.labels("deleted").inc(count)
            self._signals.notify(key, Subject.COMMITTED)
        if request:
            # A call that was repeated while the first was under way has found less to delete: both get the answer that was kept first.
            deleted, head = orjson.loads(await self._catalog.remember(project_id, request, orjson.dumps([deleted, head])))
        return deleted, consistency.encode(project_id, Cursor(project.epoch, SequenceNumber(head)))

    async def _targets(
        self, key: ProjectKey, document_ids: Sequence[DocumentId], condition: Filter | None
    ) -> AsyncIterator[Sequence[tuple[DocumentId, SequenceNumber | None]]]:
        """What to delete, a commit's worth at a time. A document that matched but was changed meanwhile is left alone."""
        if condition is None:
            yield [(document_id, None) for document_id in document_ids]
            return
        matches = compile_filter(condition)
        after = ""
        while scanned := await self._catalog.list_documents(key, after, _DELETE):
            after = scanned[-1].id
            yield [(document.id, document.sequence) for document in scanned if matches(document.metadata)]

"""Writing documents: cut, hash, commit, acknowledge."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass

import orjson

from services.indexer.application.chunking import cut
from services.indexer.application.signals import Signals
from services.indexer.application.subjects import Subject
from services.indexer.ports import DocumentCatalog
from services.indexer.records import PreparedDocument, ProjectKey, RequestKey, Written
from shared import consistency
from shared.domain import Cursor, DocumentInput, Project, ProjectId
from shared.errors import KnowledgeBeastError
from shared.observability import metrics, tracing
from shared.ports import Tokenizer

# Batches of one stream that are being cut or committed at a time: enough to keep the cutting and the disk busy, and the bound of
# what a stream holds in memory.
_BATCHES_IN_FLIGHT = 4

# A document as it was sent, or why it was refused.
Candidate = DocumentInput | KnowledgeBeastError
Outcome = Written | KnowledgeBeastError


@dataclass(frozen=True, slots=True)
class Batch:
    """What became of the documents of one batch, in order; the token covers all of them."""

    outcomes: Sequence[Outcome]
    token: str


def content_hash(document: DocumentInput) -> str:
    """Hash of title, text and metadata: equal content has an equal hash."""
    canonical = orjson.dumps([document.title, document.text, dict(document.metadata)], option=orjson.OPT_SORT_KEYS)
    return hashlib.blake2b(canonical, digest_size=16).hexdigest()


@dataclass(frozen=True, slots=True)
class _Pending:
    """A batch that is being cut."""

    candidates: Sequence[Candidate]
    prepared: asyncio.Task[Sequence[PreparedDocument]]


def _fingerprint(candidates: Sequence[Candidate]) -> bytes:
    """A hash of what a request asked for, refused documents included."""
    digest = hashlib.blake2b(digest_size=16)
    for candidate in candidates:
        parts = (candidate.id, content_hash(candidate)) if isinstance(candidate, DocumentInput) else ("", candidate.message)
        digest.update(orjson.dumps(parts))
    return digest.digest()


class Ingest:
    """The writing use cases of IndexerService."""

    def __init__(self, catalog: DocumentCatalog, tokenizer: Tokenizer, signals: Signals) -> None:
        self._catalog = catalog
        self._tokenizer = tokenizer
        self._signals = signals

    async def upsert(self, project_id: ProjectId, candidates: Sequence[Candidate], request_id: str) -> Batch:
        """Writes one batch. Raises NotFoundError; a document that is refused fails alone."""
        key, project = await self._catalog.find_project(project_id)
        prepared = await self._prepare(project, candidates)
        request = RequestKey(request_id, _fingerprint(candidates)) if request_id else None
        return await self._commit(key, project, candidates, prepared, request)

    async def stream(self, project_id: ProjectId, batches: AsyncIterator[Sequence[Candidate]]) -> AsyncGenerator[Batch, None]:
        """Writes batches as they come and yields what became of them, in order.

        Cutting a batch overlaps with committing those before it; commits keep the order of the batches. The source is read no further
        ahead than a few batches, so a consumer that does not read slows the producer down.
        """
        key, project = await self._catalog.find_project(project_id)
        window = asyncio.Semaphore(_BATCHES_IN_FLIGHT)
        pending: asyncio.Queue[_Pending | None] = asyncio.Queue()  # bounded by the window

        async def read() -> None:
            try:
                async for candidates in batches:
                    await window.acquire()
                    pending.put_nowait(_Pending(candidates, asyncio.create_task(self._prepare(project, candidates))))
            finally:
                pending.put_nowait(None)

        reader = asyncio.create_task(read())
        try:
            while (batch := await pending.get()) is not None:
                yield await self._commit(key, project, batch.candidates, await batch.prepared, request=None)
                window.release()
            await reader  # raises what ended the source
        finally:
            reader.cancel()
            while not pending.empty():
                batch = pending.get_nowait()
                if batch is not None:
                    batch.prepared.cancel()

    async def _prepare(self, project: Project, candidates: Sequence[Candidate]) -> Sequence[PreparedDocument]:
        """Cuts and hashes what is not refused."""
        accepted = [candidate for candidate in candidates if isinstance(candidate, DocumentInput)]

        def prepare() -> list[PreparedDocument]:
            return [
                PreparedDocument(source, cut(source.id, source.title, source.text, project.chunking, self._tokenizer), content_hash(source))
                for source in accepted
            ]

        return await asyncio.to_thread(prepare)

    async def _commit(
        self, key: ProjectKey, project: Project, candidates: Sequence[Candidate], prepared: Sequence[PreparedDocument], request: RequestKey | None
    ) -> Batch:
        """Commits what was prepared and puts the results beside the refusals, in the order of the candidates."""
        written, head = await self._catalog.upsert_documents(project.id, key, prepared, tracing.current(), request)
        self._signals.notify(key, Subject.COMMITTED)
        results = iter(written)
        outcomes: list[Outcome] = [next(results) if isinstance(candidate, DocumentInput) else candidate for candidate in candidates]
        for outcome in outcomes:
            metrics.DOCUMENTS_WRITTEN.labels(_outcome_label(outcome)).inc()
        return Batch(outcomes, consistency.encode(project.id, Cursor(project.epoch, head)))


def _outcome_label(outcome: Outcome) -> str:
    if isinstance(outcome, KnowledgeBeastError):
        return "refused"
    return "unchanged" if outcome.unchanged else "written"

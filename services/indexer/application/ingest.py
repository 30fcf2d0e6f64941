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
from services.indexer.ports import Disk, DocumentCatalog
from services.indexer.records import PreparedDocument, ProjectKey, RequestKey, Written
from services.indexer.sizes import MAX_DOCUMENT_BYTES, message_bytes
from shared import consistency
from shared.domain import ChunkingSettings, Cursor, DocumentInput, Project, ProjectId
from shared.errors import InvalidArgumentError, KnowledgeBeastError, ResourceExhaustedError
from shared.observability import metrics, tracing
from shared.ports import Tokenizer
from shared.resilience.admission import idle

# Batches of one stream that are being cut or committed at a time: enough to keep the cutting and the disk busy, and the bound of
# what a stream holds in memory.
_BATCHES_IN_FLIGHT = 4

# A document as it was sent, or why it was refused.
Candidate = DocumentInput | KnowledgeBeastError
Prepared = PreparedDocument | KnowledgeBeastError
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


def _fingerprint(candidates: Sequence[Candidate]) -> bytes:
    """A hash of what a request asked for, refused documents included."""
    digest = hashlib.blake2b(digest_size=16)
    for candidate in candidates:
        parts = (candidate.id, content_hash(candidate)) if isinstance(candidate, DocumentInput) else ("", candidate.message)
        digest.update(orjson.dumps(parts))
    return digest.digest()


class Ingest:
    """The writing use cases of IndexerService."""

    def __init__(self, catalog: DocumentCatalog, tokenizer: Tokenizer, disk: Disk, signals: Signals) -> None:
        self._catalog = catalog
        self._disk = disk
        self._tokenizer = tokenizer
        self._signals = signals
        self._tracer = tracing.get_tracer(__name__)

    async def upsert(self, project_id: ProjectId, candidates: Sequence[Candidate], request_id: str) -> Batch:
        """Writes one batch. Raises NotFoundError, ResourceExhaustedError; a document that is refused fails alone.

        What repeats a request that is committed gets its answer also while the disk is low: nothing is written for it.
        """
        key, project = await self._catalog.find_project(project_id)
        request = RequestKey(request_id, await asyncio.to_thread(_fingerprint, candidates)) if request_id else None
        try:
            await self._disk.require_room()
        except ResourceExhaustedError:
            if request is None or await self._catalog.recall(project.id, request) is None:
                raise
        return await self._commit(key, project, await self._prepare(project, candidates), request)

    async def stream(self, project_id: ProjectId, batches: AsyncIterator[Sequence[Candidate]]) -> AsyncGenerator[Batch, None]:
        """Writes batches as they come and yields what became of them, in order.

        Cutting a batch overlaps with committing those before it; commits keep the order of the batches. The source is read no further
        ahead than a few batches, so a consumer that does not read slows the producer down.
        """
        key, project = await self._catalog.find_project(project_id)
        window = asyncio.Semaphore(_BATCHES_IN_FLIGHT)
        pending: asyncio.Queue[asyncio.Task[Sequence[Prepared]] | None] = asyncio.Queue()  # bounded by the window

        async def read() -> None:
            try:
                async for candidates in batches:
                    await window.acquire()
                    pending.put_nowait(asyncio.create_task(self._prepare_new(project, candidates)))
            finally:
                pending.put_nowait(None)

        reader = asyncio.create_task(read())
        try:
            while (batch := await _next(pending)) is not None:
                yield await self._commit(key, project, await batch, request=None)
                window.release()
            await reader  # raises what ended the source
        finally:
            reader.cancel()
            while not pending.empty():
                batch = pending.get_nowait()
                if batch is not None:
                    batch.cancel()

    async def _prepare_new(self, project: Project, candidates: Sequence[Candidate]) -> Sequence[Prepared]:
        """Prepares what will be written. Raises ResourceExhaustedError while the disk is low."""
        await self._disk.require_room()
        return await self._prepare(project, candidates)

    async def _prepare(self, project: Project, candidates: Sequence[Candidate]) -> Sequence[Prepared]:
        """Cuts and hashes what is not refused; refuses what is too large to be sent on."""

        def prepare() -> list[Prepared]:
            return [
                _cut(index, candidate, project.chunking, self._tokenizer) if isinstance(candidate, DocumentInput) else candidate
                for index, candidate in enumerate(candidates)
            ]

        with self._tracer.start_as_current_span("documents.cut") as span:
            prepared = await asyncio.to_thread(prepare)
            if span.is_recording():
                accepted = [document for document in prepared if isinstance(document, PreparedDocument)]
                span.set_attributes(
                    {"kb.project": project.id, "kb.documents": len(accepted), "kb.chunks": sum(len(document.chunks) for document in accepted)}
                )
            return prepared

    async def _commit(self, key: ProjectKey, project: Project, prepared: Sequence[Prepared], request: RequestKey | None) -> Batch:
        """Commits what was accepted and puts the results beside the refusals, in order."""
        accepted = [document for document in prepared if isinstance(document, PreparedDocument)]
        written, head = await self._catalog.upsert_documents(project.id, key, accepted, tracing.current(), request)
        self._signals.notify(key, Subject.COMMITTED)
        results = iter(written)
        outcomes: list[Outcome] = [next(results) if isinstance(document, PreparedDocument) else document for document in prepared]
        for outcome in outcomes:
            metrics.DOCUMENTS_WRITTEN.labels(_outcome_label(outcome)).inc()
        return Batch(outcomes, consistency.encode(project.id, Cursor(project.epoch, head)))


def _cut(index: int, source: DocumentInput, settings: ChunkingSettings, tokenizer: Tokenizer) -> Prepared:
    """A document that is ready to be written, or why it cannot be."""
    chunks = cut(source.id, source.title, source.text, settings, tokenizer)
    size = message_bytes(chunks, orjson.dumps(dict(source.metadata)))
    if size > MAX_DOCUMENT_BYTES:
        return InvalidArgumentError.of(
            f"documents[{index}].text",
            f"takes {size / 1e6:.1f} MB with its {len(chunks):,} chunks and metadata; at most {MAX_DOCUMENT_BYTES / 1e6:.0f} MB: split it",
        )
    return PreparedDocument(source, chunks, content_hash(source))


async def _next(pending: asyncio.Queue[asyncio.Task[Sequence[Prepared]] | None]) -> asyncio.Task[Sequence[Prepared]] | None:
    """The next batch of a stream. As long as there is none nothing of the stream is being worked on: it waits for its client alone."""
    with idle():
        return await pending.get()


def _outcome_label(outcome: Outcome) -> str:
    if isinstance(outcome, KnowledgeBeastError):
        return "refused"
    return "unchanged" if outcome.unchanged else "written"

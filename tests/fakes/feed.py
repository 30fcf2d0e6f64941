"""A model of the catalog that gives out its change feed: in memory, log-compacted, and troublesome on demand."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import numpy as np

from shared.domain import (
    Chunk,
    ChunkId,
    ChunkingSettings,
    Cursor,
    Document,
    DocumentBatch,
    DocumentChange,
    DocumentId,
    FeedEvent,
    FeedStream,
    Heartbeat,
    Metadata,
    Project,
    ProjectBatch,
    ProjectChange,
    ProjectId,
    ProjectState,
    Range,
    Reset,
    ResetReason,
    SequenceNumber,
    TraceContext,
    Vector,
    VectorBatch,
    VectorSequence,
)
from shared.errors import NotFoundError, UnavailableError

TIME = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
DIMENSION = 8
TRACE = TraceContext("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")


def vector_of(text: str) -> Vector:
    """A vector of unit length that depends on the text alone."""
    seed = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")
    vector = np.random.default_rng(seed).standard_normal(DIMENSION).astype(np.float32)
    return np.asarray(vector / np.linalg.norm(vector), dtype=np.float32)


def chunks_of(document_id: str, title: str, text: str) -> tuple[Chunk, ...]:
    """One chunk a line; equal text keeps its id."""
    chunks: list[Chunk] = []
    seen: dict[str, int] = {}
    start = 0
    for line in text.split("\n"):
        digest = hashlib.blake2b(f"{title[:10]}\n{line}".encode(), digest_size=8).hexdigest()
        repeat = seen.setdefault(digest, 0)
        seen[digest] += 1
        chunk_id = ChunkId(f"{document_id}#{digest}" + (f".{repeat}" if repeat else ""))
        chunks.append(Chunk(chunk_id, len(chunks), line, start, start + len(line)))
        start += len(line) + 1
    return tuple(chunks)


def make_project(project_id: str, *, epoch: str = "e1", head: int = 0, generation: int = 1) -> Project:
    """A project that differs in what is asked for alone."""
    return Project(
        id=ProjectId(project_id),
        display_name=project_id.title(),
        description="",
        labels={"team": "search"},
        embedding_model="model",
        chunking=ChunkingSettings(),
        generation=generation,
        epoch=epoch,
        head=SequenceNumber(head),
        vector_sequence=VectorSequence(0),
        document_count=0,
        chunk_count=0,
        state=ProjectState.ACTIVE,
        create_time=TIME,
        update_time=TIME,
        etag="1",
    )


def make_document(document_id: str, text: str, *, title: str = "Title", metadata: Metadata | None = None, sequence: int = 1) -> Document:
    """A document whose chunks are its lines."""
    chunks = chunks_of(document_id, title, text)
    hashed = hashlib.blake2b(repr((title, text, metadata)).encode(), digest_size=8).hexdigest()
    return Document(DocumentId(document_id), title, "", metadata or {}, chunks, len(chunks), hashed, SequenceNumber(sequence), TIME, TIME)


def make_change(sequence: int, document_id: str, document: Document | None) -> DocumentChange:
    """A change; without a document a tombstone."""
    return DocumentChange(SequenceNumber(sequence), DocumentId(document_id), document, TIME, TRACE)


def make_range(start: int, end: int, *, head: int | None = None, epoch: str = "e1") -> Range:
    """`(start, end]`."""
    return Range(epoch, SequenceNumber(start), SequenceNumber(end), SequenceNumber(end if head is None else head))


def make_batch(start: int, *documents: Document | str, epoch: str = "e1", head: int | None = None) -> DocumentBatch:
    """A batch after `start` with one sequence a document; a text is the id of one that is deleted. Without `head` nothing is behind it."""
    changes = [
        make_change(sequence, one, None) if isinstance(one, str) else make_change(sequence, one.id, one)
        for sequence, one in enumerate(documents, start=start + 1)
    ]
    return DocumentBatch(make_range(start, start + len(documents), epoch=epoch, head=head), changes)


def make_vectors(start: int, end: int, *chunks: Chunk, epoch: str = "e1") -> VectorBatch:
    """The vectors of chunks."""
    matrix = np.array([vector_of(chunk.text) for chunk in chunks], dtype=np.float32).reshape(len(chunks), DIMENSION)
    return VectorBatch(make_range(start, end, epoch=epoch), [chunk.id for chunk in chunks], matrix)


@dataclass
class ModelProject:
    """A project of the model. `documents` are in the order of their last change; None is a tombstone."""

    project: Project
    head: int = 0
    floor: int = 0
    embedded: int = 0
    documents: dict[str, tuple[int, Document | None]] = field(default_factory=dict)

    @property
    def live(self) -> dict[str, Document]:
        """The documents that are there."""
        return {document_id: document for document_id, (_, document) in self.documents.items() if document is not None}


class ModelFeed:
    """Satisfies `services.query.replica.feed.Feed`. Use it from one event loop.

    Attributes:
        batch_size: changes a batch, so that a snapshot takes several.
        watched: (project or None for the list, cursor of documents or of the list, cursor of vectors) of every call.
        gaps_to_come: this many batches of documents will be left out of a stream, as if the server had a defect.
        resets_to_lose: this many resets of documents will be left out.
        only_snapshots: batches of documents are numbered wrongly in streams that continue a cursor, another defect.
        down: new streams fail.
    """

    def __init__(self, *, batch_size: int = 3) -> None:
        self.batch_size = batch_size
        self.projects: dict[str, ModelProject] = {}
        self.watched: list[tuple[str | None, Cursor | None, Cursor | None]] = []
        self.gaps_to_come = 0
        self.resets_to_lose = 0
        self.only_snapshots = False
        self.down = False
        self._list_epoch = "list1"
        self._list: dict[str, int] = {}
        self._list_head = 0
        self._epochs = 0
        self._changed = asyncio.Event()
        self._interruptions = 0

    # --- what happens in the catalog ---------------------------------------------------------------------------------------------------

    def create_project(self, project_id: str) -> None:
        """Creates a project, with an epoch of its own."""
        self._epochs += 1
        self.projects[project_id] = ModelProject(make_project(project_id, epoch=f"e{self._epochs}"))
        self._touch_list(project_id)

    def delete_project(self, project_id: str) -> None:
        """Deletes a project."""
        del self.projects[project_id]
        self._touch_list(project_id)

    def upsert(self, project_id: str, document_id: str, text: str, *, title: str = "Title", metadata: Metadata | None = None) -> None:
        """Writes a document."""
        model = self.projects[project_id]
        document = make_document(document_id, text, title=title, metadata=metadata, sequence=model.head + 1)
        self._change(model, document_id, document)

    def delete(self, project_id: str, document_id: str) -> None:
        """Deletes a document."""
        self._change(self.projects[project_id], document_id, None)

    def embed(self, project_id: str) -> None:
        """Embeds everything."""
        model = self.projects[project_id]
        model.embedded = model.head
        self._wake()

    def compact(self, project_id: str) -> None:
        """Forgets the tombstones."""
        model = self.projects[project_id]
        model.documents = {key: entry for key, entry in model.documents.items() if entry[1] is not None}
        model.floor = model.head

    def restore(self, project_id: str, *, lose: int) -> None:
        """Restores from a backup that lacks the last changes: another epoch, another project list."""
        model = self.projects[project_id]
        self._epochs += 1
        model.head = max(0, model.head - lose)
        model.documents = {key: entry for key, entry in model.documents.items() if entry[0] <= model.head}
        model.embedded = min(model.embedded, model.head)
        model.project = make_project(project_id, epoch=f"e{self._epochs}")
        self._list_epoch += "'"
        self._touch_list(project_id)
        self.interrupt()

    def interrupt(self) -> None:
        """Breaks every stream that is open."""
        self._interruptions += 1
        self._wake()

    # --- the feed ----------------------------------------------------------------------------------------------------------------------

    async def watch_project_list(self, cursor: Cursor | None) -> AsyncGenerator[FeedEvent, None]:
        """See the port."""
        self.watched.append((None, cursor, None))
        epoch, interruptions = self._list_epoch, self._begin()
        reason = _reset_reason(cursor, epoch, self._list_head, 0)
        at = cursor.sequence if cursor is not None and reason is None else 0
        if reason is not None:
            yield Reset(reason, FeedStream.PROJECTS, epoch)
        while True:
            changed = self._changed
            rest = sorted((sequence, project_id) for project_id, sequence in self._list.items() if sequence > at)
            if rest:
                part = rest[: self.batch_size]
                start, at = at, part[-1][0] if len(part) < len(rest) else self._list_head
                changes = [ProjectChange(SequenceNumber(number), ProjectId(one), self._described(one)) for number, one in part]
                yield ProjectBatch(make_range(start, at, head=self._list_head, epoch=epoch), changes)
                continue
            yield Heartbeat(epoch, SequenceNumber(self._list_head), VectorSequence(0), TIME)
            await self._wait(changed, interruptions)

    async def watch_project(
        self, project_id: ProjectId, documents: Cursor | None, vectors: Cursor | None, *, include_vectors: bool
    ) -> AsyncGenerator[FeedEvent, None]:
        """See the port."""
        self.watched.append((project_id, documents, vectors))
        interruptions = self._begin()
        model = self._find(project_id, None)
        epoch = model.project.epoch
        reason = _reset_reason(documents, epoch, model.head, model.floor)
        vector_reason = _reset_reason(vectors, epoch, model.head, 0) if include_vectors and reason is None else None
        at = documents.sequence if documents is not None and reason is None else 0
        vectors_at = vectors.sequence if vectors is not None and reason is None and vector_reason is None else 0
        if reason is not None and self.resets_to_lose > 0:
            self.resets_to_lose -= 1
        elif reason is not None:
            yield Reset(reason, FeedStream.DOCUMENTS, epoch)
        elif vector_reason is not None:
            yield Reset(vector_reason, FeedStream.VECTORS, epoch)
        while True:
            changed = self._changed
            self._find(project_id, epoch)
            if at < model.head:
                batch = self._documents(model, at)
                at = batch.range.end
                if self.gaps_to_come > 0:
                    self.gaps_to_come -= 1
                    continue
                if self.only_snapshots and reason is None:
                    batch = replace(batch, range=replace(batch.range, start=SequenceNumber(batch.range.start + 1)))
                yield batch
            elif include_vectors and vectors_at < model.embedded:
                rows = [chunk for number, one in model.documents.values() if one and vectors_at < number <= model.embedded for chunk in one.chunks]
                vectors_at, start = model.embedded, vectors_at
                yield make_vectors(start, vectors_at, *rows, epoch=epoch)
            else:
                yield Heartbeat(epoch, SequenceNumber(model.head), VectorSequence(model.embedded), TIME)
                await self._wait(changed, interruptions)

    # -----------------------------------------------------------------------------------------------------------------------------------

    def _documents(self, model: ModelProject, after: int) -> DocumentBatch:
        rest = sorted((sequence, key) for key, (sequence, _) in model.documents.items() if sequence > after)
        part = rest[: self.batch_size]
        end = part[-1][0] if len(part) < len(rest) else model.head
        changes = [make_change(sequence, key, model.documents[key][1]) for sequence, key in part]
        return DocumentBatch(make_range(after, end, head=model.head, epoch=model.project.epoch), changes)

    def _find(self, project_id: str, epoch: str | None) -> ModelProject:
        model = self.projects.get(project_id)
        if model is None or (epoch is not None and model.project.epoch != epoch):
            raise NotFoundError("no such project")
        return model

    def _described(self, project_id: str) -> Project | None:
        model = self.projects.get(project_id)
        return None if model is None else model.project

    def _change(self, model: ModelProject, document_id: str, document: Document | None) -> None:
        model.head += 1
        model.documents[document_id] = (model.head, document)
        self._wake()

    def _touch_list(self, project_id: str) -> None:
        self._list_head += 1
        self._list[project_id] = self._list_head
        self._wake()

    def _wake(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def _begin(self) -> int:
        if self.down:
            raise UnavailableError("down", component="change_feed")
        return self._interruptions

    async def _wait(self, changed: asyncio.Event, interruptions: int) -> None:
        if self._interruptions == interruptions:
            await changed.wait()
        if self._interruptions != interruptions:
            raise UnavailableError("interrupted", component="change_feed")


def _reset_reason(cursor: Cursor | None, epoch: str, head: int, floor: int) -> ResetReason | None:
    if cursor is None or cursor.sequence == 0:
        return ResetReason.NO_CURSOR
    if cursor.epoch != epoch:
        return ResetReason.EPOCH_CHANGED
    if cursor.sequence > head:
        return ResetReason.AHEAD_OF_HEAD
    return ResetReason.COMPACTED if cursor.sequence < floor else None

"""What the application of the indexer needs of the catalog, one narrow port a use.

Every method may also raise UnavailableError (shutting down, busy, the file cannot be read), ResourceExhaustedError (the disk is full, or too much
waits to be written) and CorruptionError. A write is answered when it is on disk. `SqliteCatalog` satisfies all of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

from services.indexer.records import (
    Advance,
    CatalogFigures,
    ChunkPage,
    DeletedProject,
    Failure,
    Lag,
    LaggingProject,
    NewProject,
    Position,
    PreparedDocument,
    ProjectionPage,
    ProjectKey,
    RequestKey,
    StoredDocument,
    StoredPage,
    UnembeddedChunk,
    Written,
)
from shared.digest import ProjectDigest, SequenceRange
from shared.domain import (
    ChunkId,
    Cursor,
    Document,
    DocumentBatch,
    DocumentId,
    Project,
    ProjectBatch,
    ProjectId,
    SequenceNumber,
    TraceContext,
    VectorBatch,
    Vectors,
    VectorSequence,
)
from shared.observability.recorded_writes import RecordedWrite
from shared.quarantine import QuarantinedChunk, QuarantineStage


class ProjectCatalog(Protocol):
    """Projects."""

    async def create_project(self, project: NewProject, request: RequestKey | None) -> Project:
        """Creates a project. Raises AlreadyExistsError; InvalidArgumentError if the request id was used for another request."""

    async def get_project(self, project_id: ProjectId) -> Project:
        """One project. Raises NotFoundError."""

    async def list_projects(self, after: str, limit: int) -> tuple[Sequence[Project], bool]:
        """Projects whose ids come after `after`, in order, at most `limit` and no more than fit a message; and whether there are more."""

    async def update_project(
        self, project_id: ProjectId, *, etag: str, display_name: str | None, description: str | None, labels: Mapping[str, str] | None
    ) -> Project:
        """Changes what is not None. Raises NotFoundError, ConflictError."""

    async def delete_project(self, project_id: ProjectId, *, etag: str) -> tuple[ProjectKey, int]:
        """Ends a project; returns its key and how many documents it had. Raises NotFoundError, ConflictError."""

    async def rebuild_vectors(self, project_id: ProjectId, *, again: bool = False) -> tuple[ProjectKey, Project]:
        """Gives a project a new, empty collection to write everything to, one that is being rebuilt only `again`; returns it as it is then.

        Raises NotFoundError.
        """


class DocumentCatalog(Protocol):
    """Documents."""

    async def find_project(self, project_id: ProjectId) -> tuple[ProjectKey, Project]:
        """A project with its key. Raises NotFoundError."""

    def upsert_documents(
        self, project_id: ProjectId, key: ProjectKey, prepared: Sequence[PreparedDocument], trace: TraceContext, request: RequestKey | None
    ) -> asyncio.Future[tuple[Sequence[Written], SequenceNumber]]:
        """Queues a write behind those queued before it. The future has what became of each document, and the head of the project.

        A request that was seen before gets its first answer. The future raises NotFoundError if the project was deleted, InvalidArgumentError if
        the request id was used for another request.
        """

    async def delete_documents(
        self, key: ProjectKey, targets: Sequence[tuple[DocumentId, SequenceNumber | None]], trace: TraceContext
    ) -> tuple[int, SequenceNumber]:
        """Deletes documents that are there and, where a sequence is given, have not changed since; returns how many, and the head."""

    async def recall(self, scope: str, request: RequestKey) -> bytes | None:
        """The answer that was kept for a request. Raises InvalidArgumentError if the request id was used for another request."""

    async def remember(self, scope: str, request: RequestKey, answer: bytes) -> bytes:
        """Keeps the answer of a request for 24 hours, unless there is one; returns the one that is kept."""

    async def get_document(self, key: ProjectKey, document_id: DocumentId) -> Document:
        """One document with text and chunks. Raises NotFoundError."""

    async def list_documents(self, key: ProjectKey, after: str, limit: int) -> Sequence[Document]:
        """Documents whose ids come after `after`, in order, without text and chunks."""


class FeedCatalog(Protocol):
    """The change feed."""

    async def find_project(self, project_id: ProjectId) -> tuple[ProjectKey, Project]:
        """A project with its key. Raises NotFoundError."""

    async def project_list_position(self) -> tuple[Cursor, SequenceNumber]:
        """The head of the project list's feed, and the floor up to which its tombstones are gone."""

    async def project_list_batch(self, after: SequenceNumber, limit: int) -> ProjectBatch:
        """Changes of the project list, at most `limit`."""

    async def position(self, key: ProjectKey) -> Position:
        """Where a project's feed stands."""

    async def document_batch(self, key: ProjectKey, after: SequenceNumber, limit: int, floor: SequenceNumber) -> DocumentBatch | None:
        """Changes of documents, at most `limit` and a few megabytes; the texts of documents are left out, their chunks carry them.

        None if tombstones after that sequence have been compacted away since the floor was at `floor`.
        """

    async def vector_batch(
        self, key: ProjectKey, after: SequenceNumber, position: tuple[int, int], up_to: SequenceNumber
    ) -> tuple[VectorBatch, tuple[int, int]]:
        """Vectors behind a position `(sequence, chunk key)` up to a sequence that is embedded, and the position behind them.

        The range begins at `after`. Its end equals its start when the batch is a part of one large document.
        """

    async def digest(self, key: ProjectKey, wanted: SequenceRange | None, parts: int, *, named: bool, unsent: bool) -> ProjectDigest:
        """What the documents of a range, or all of them, come to, in at most so many parts of equal width, all as of one moment.

        The parts end before the range does when they have many chunks. `named`: with the documents one by one; `unsent`: with the chunks whose
        vectors the feed does not send.
        """


class ProjectionCatalog(Protocol):
    """What has to be embedded and written to the vector store."""

    async def position(self, key: ProjectKey) -> Position:
        """Where a project stands, also if it is deleted."""

    async def projects_to_embed(self) -> Sequence[LaggingProject]:
        """Projects with changes that are not embedded."""

    async def projects_to_project(self) -> Sequence[LaggingProject]:
        """Projects with embedded changes that are not in the vector store."""

    async def projected_projects(self) -> Sequence[LaggingProject]:
        """Projects that have something in the vector store."""

    async def lag(self) -> Lag:
        """How far the vector store is behind, all projects together."""

    async def unembedded(self, project: LaggingProject, limit: int, after: tuple[int, int] = (0, 0)) -> Sequence[UnembeddedChunk]:
        """Chunks without a vector behind a position `(sequence, chunk key)`, the oldest first; those in quarantine are left out."""

    async def store_embeddings(
        self, project: LaggingProject, chunk_keys: Sequence[int], vectors: Vectors, failures: Sequence[Failure] = ()
    ) -> VectorSequence:
        """Keeps vectors, and puts what could not be embedded into quarantine; returns the sequence up to which the project is now embedded."""

    async def quarantine(self, project: LaggingProject, failures: Sequence[Failure]) -> None:
        """Puts chunks that the vector store refuses into quarantine."""

    async def projection_page(self, project: LaggingProject, position: tuple[int, int], limit: int) -> ProjectionPage:
        """What the vector store has to learn behind `position`, at most `limit` chunks; those in quarantine are left out."""

    async def advance(self, project: LaggingProject, sequence: SequenceNumber) -> Advance:
        """Every change up to `sequence` is in the project's collection; of no effect if the project has another collection by now."""

    async def recorded_writes(self, project: LaggingProject, after: SequenceNumber, up_to: SequenceNumber, limit: int) -> Sequence[RecordedWrite]:
        """Requests whose trace is recorded and that made changes as `made_searchable` tells them, the oldest, at most `limit`."""

    async def restart(self, project: LaggingProject) -> bool:
        """The vector store has lost the project: gives it a new collection to write everything to; False if it has another one by now."""


class QuarantineCatalog(Protocol):
    """Chunks in quarantine."""

    async def quarantined_chunks(self, project_id: ProjectId | None, after: int, limit: int) -> tuple[Sequence[QuarantinedChunk], int | None]:
        """Chunks in quarantine behind a place in their order, of one project or of all; and the place behind them, if there are more.

        Raises NotFoundError.
        """

    async def count_quarantined(self) -> Mapping[QuarantineStage, int]:
        """How many chunks are in quarantine, by where they failed."""

    async def retry_quarantined(self, project_id: ProjectId, chunk_ids: Sequence[ChunkId]) -> tuple[ProjectKey, int]:
        """Lets chunks, all of the project if none are named, be tried again; returns how many were in quarantine. Raises NotFoundError."""


class VerificationCatalog(Protocol):
    """What the vector store is compared with."""

    async def projected_project(self, project_id: ProjectId) -> LaggingProject:
        """A project as the projection sees it. Raises NotFoundError."""

    async def projected_projects(self) -> Sequence[LaggingProject]:
        """Projects that have something in the vector store."""

    async def expected_page(self, project: LaggingProject, position: tuple[int, int], limit: int) -> ChunkPage:
        """Chunks behind a position that were given to the vector store up to the project's vector sequence, at most `limit`."""

    async def expected_vectors(self, project: LaggingProject, chunk_ids: Collection[ChunkId]) -> tuple[Sequence[ChunkId], Vectors]:
        """Of these chunks, those that the vector store should have by now, with their vectors; none if the project has another collection by now."""

    async def unknown_chunks(self, project: LaggingProject, chunk_ids: Collection[ChunkId]) -> Sequence[ChunkId]:
        """Those of the ids that neither a chunk has nor one that is still to be deleted from the vector store."""

    async def known_collections(self, project_id: ProjectId) -> Collection[str]:
        """Names of the collections that belong to a project, or did and are to be dropped."""

    async def restart(self, project: LaggingProject) -> bool:
        """See ProjectionCatalog."""


class ScrubCatalog(Protocol):
    """Documents as the disk holds them."""

    async def stored_page(self, after: int, size: int) -> StoredPage | None:
        """Documents behind a key, in the order of their keys, about `size` bytes of them and at least one; None behind the last.

        Raises CorruptionError if it cannot even be read which there are.
        """

    async def mark_damaged(self, documents: Sequence[StoredDocument]) -> Sequence[StoredDocument]:
        """These documents are not what was written: writing one again with its old content is a change.

        Returns those of them that have not been written or deleted since they were read; the others are left alone.
        """


class HealthCatalog(Protocol):
    """What tells whether the catalog works."""

    async def probe(self) -> None:
        """Writes and commits a little. Raises what a write would raise."""

    async def figures(self) -> CatalogFigures:
        """How much there is of everything."""


class Disk(Protocol):
    """Whether there is room for more."""

    async def require_room(self) -> None:
        """Raises ResourceExhaustedError (reason DISK_LOW) while less is free on the catalog's disk than must be."""


class HousekeepingCatalog(Protocol):
    """What has to be cleared away."""

    async def deleted_projects(self) -> Sequence[DeletedProject]:
        """Deleted projects whose rows and collections are still there."""

    async def superseded_collections(self) -> Sequence[str]:
        """Collections that projects have left, and that are to be dropped."""

    async def forget_collection(self, name: str) -> None:
        """A collection that a project has left is gone."""

    async def purge_documents(self, key: ProjectKey, limit: int) -> int:
        """Removes at most `limit` documents of a deleted project; returns how many."""

    async def mark_purged(self, key: ProjectKey) -> None:
        """Nothing but the tombstone is left."""

    async def compact(self, *, tombstones_older_than: float, requests_older_than: float) -> int:
        """Removes tombstones and kept answers older than so many seconds; returns how many."""

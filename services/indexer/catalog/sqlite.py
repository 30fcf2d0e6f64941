"""The catalog on SQLite: one writing thread, a few reading connections, one file that one process owns."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import NoReturn, TypeVar

import apsw
import orjson

from services.indexer.catalog import (
    clock,
    digest,
    documents,
    feed,
    figures,
    housekeeping,
    projection,
    projects,
    quarantine,
    requests,
    scrubbing,
    verification,
)
from services.indexer.catalog.connection import ExclusiveLock, check_integrity, open_connection, require_safe_sqlite, settle_log
from services.indexer.catalog.migrations import migrate
from services.indexer.catalog.readers import Readers
from services.indexer.catalog.writer import Step, Writer, no_step
from services.indexer.catalog.writes import recorded_writes
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
from services.indexer.sizes import memory_bytes
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
from shared.observability import metrics
from shared.observability.logging import get_logger
from shared.observability.recorded_writes import RecordedWrite
from shared.quarantine import QuarantinedChunk, QuarantineStage

T = TypeVar("T")

_READERS = 4
_QUEUE_BYTES = 128 * 1024 * 1024
# Whoever puts an older copy of the catalog in place puts an empty file of this name beside it.
RESTORED_MARKER = "catalog.restored"

_log = get_logger(__name__)


class SqliteCatalog:
    """Satisfies every port of the catalog in `services/indexer/ports.py`.

    Reads run in threads, each in one transaction; writes are queued to the writer and answered when they are on disk. Every method may
    raise UnavailableError, ResourceExhaustedError (disk full) and CorruptionError besides what its port says.
    """

    def __init__(self, path: Path, lock: ExclusiveLock, writer: Writer, readers: Readers) -> None:
        self._path = path
        self._lock = lock
        self._writer = writer
        self._readers = readers

    @classmethod
    def open(cls, folder: Path, *, queue_bytes: int = _QUEUE_BYTES, step: Step = no_step) -> SqliteCatalog:
        """Opens or creates `folder/catalog.db`, checks it and brings it up to date. Blocks; call it in a thread.

        Args:
            folder: Of the catalog's files.
            queue_bytes: Of documents that wait to be committed, at most.
            step: Called after each step of a commit that a crash could follow, with its name, in the writer's thread.

        Raises ConfigurationError if another process has it, a newer version wrote it, or what it has cannot be put on disk for sure,
        CorruptionError if it is damaged.
        """
        require_safe_sqlite()
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "catalog.db"
        lock = ExclusiveLock(folder / "catalog.lock")
        connection: apsw.Connection | None = None
        try:
            connection = open_connection(path)
            check_integrity(connection, path)
            settle_log(connection, path)
            migrate(connection)
            with connection:
                projects.initialise(connection)
            marker = folder / RESTORED_MARKER
            if marker.exists():
                with connection:
                    projects.rotate_epochs(connection)
                marker.unlink()
                _log.warning("the catalog was restored from a copy; every replica and the vector store will be filled again")
        except BaseException:
            if connection is not None:
                connection.close(True)
            lock.release()
            raise
        return cls(path, lock, Writer(connection, max_bytes=queue_bytes, step=step), Readers(path, _READERS))

    async def close(self) -> None:
        """Finishes queued writes and closes the file."""
        await asyncio.to_thread(self._readers.close)
        await asyncio.to_thread(self._writer.close)
        self._lock.release()

    async def _read(self, read: Callable[[apsw.Connection], T]) -> T:
        return await self._readers.run(read)

    def _write(self, write: Callable[[apsw.Connection], T], size: int = 0) -> asyncio.Future[T]:
        return self._writer.submit(write, size)

    async def watch(self) -> NoReturn:
        """Waits until the disk fails, and raises what must end the process: UnavailableError (reason DISK_FAILED)."""
        await asyncio.wrap_future(self._writer.failed)
        raise AssertionError("the writer's failure has no result")

    async def probe(self) -> None:
        """Writes and commits a little. Raises what a write would raise."""
        await self._write(projects.probe)

    async def figures(self) -> CatalogFigures:
        """See HealthCatalog."""
        return await self._read(figures.figures)

    @property
    def waiting_bytes(self) -> int:
        """What waits to be committed holds so much memory. May be read by any thread, as the sizes below."""
        return self._writer.waiting_bytes

    @property
    def file_bytes(self) -> int:
        """Size of the database file."""
        return _size(self._path)

    @property
    def log_bytes(self) -> int:
        """Size of the write-ahead log; 0 if there is none."""
        return _size(self._path.with_name(f"{self._path.name}-wal"))

    # --- projects

    async def create_project(self, project: NewProject, request: RequestKey | None) -> Project:
        """See ProjectCatalog."""

        def job(connection: apsw.Connection) -> Project:
            if request and requests.recall(connection, "", request.id, request.fingerprint) is not None:
                return projects.get(connection, project.id)
            created = projects.create(connection, project)
            if request:
                requests.remember(connection, "", request.id, request.fingerprint, b"")
            return created

        return await self._write(job)

    async def get_project(self, project_id: ProjectId) -> Project:
        """See ProjectCatalog."""
        return await self._read(lambda connection: projects.get(connection, project_id))

    async def list_projects(self, after: str, limit: int) -> tuple[Sequence[Project], bool]:
        """See ProjectCatalog."""
        return await self._read(lambda connection: projects.page(connection, after, limit))

    async def update_project(
        self, project_id: ProjectId, *, etag: str, display_name: str | None, description: str | None, labels: Mapping[str, str] | None
    ) -> Project:
        """See ProjectCatalog."""
        return await self._write(
            lambda connection: projects.update(connection, project_id, etag=etag, display_name=display_name, description=description, labels=labels)
        )

    async def delete_project(self, project_id: ProjectId, *, etag: str) -> tuple[ProjectKey, int]:
        """See ProjectCatalog."""
        return await self._write(lambda connection: projects.delete(connection, project_id, etag=etag))

    async def rebuild_vectors(self, project_id: ProjectId, *, again: bool = False) -> tuple[ProjectKey, Project]:
        """See ProjectCatalog."""
        return await self._write(lambda connection: projection.rebuild(connection, project_id, again=again))

    # --- documents

    async def find_project(self, project_id: ProjectId) -> tuple[ProjectKey, Project]:
        """See DocumentCatalog."""

        def read(connection: apsw.Connection) -> tuple[ProjectKey, Project]:
            key = projects.key_of(connection, project_id)
            return key, projects.by_key(connection, key)

        return await self._read(read)

    def upsert_documents(
        self, project_id: ProjectId, key: ProjectKey, prepared: Sequence[PreparedDocument], trace: TraceContext, request: RequestKey | None
    ) -> asyncio.Future[tuple[Sequence[Written], SequenceNumber]]:
        """See DocumentCatalog."""

        def job(connection: apsw.Connection) -> tuple[Sequence[Written], SequenceNumber]:
            if request:
                answer = requests.recall(connection, project_id, request.id, request.fingerprint)
                if answer is not None:
                    rows, head = orjson.loads(answer)
                    return [Written(*row) for row in rows], SequenceNumber(head)
            written, head = documents.upsert(connection, key, prepared, trace)
            if request:
                answer = orjson.dumps([[(row.document_id, row.sequence, row.unchanged, row.chunk_count) for row in written], head])
                requests.remember(connection, project_id, request.id, request.fingerprint, answer)
            return written, head

        return self._write(job, sum(map(memory_bytes, prepared)))

    async def delete_documents(
        self, key: ProjectKey, targets: Sequence[tuple[DocumentId, SequenceNumber | None]], trace: TraceContext
    ) -> tuple[int, SequenceNumber]:
        """See DocumentCatalog."""
        return await self._write(lambda connection: documents.delete(connection, key, targets, trace))

    async def recall(self, scope: str, request: RequestKey) -> bytes | None:
        """See DocumentCatalog."""
        return await self._read(lambda connection: requests.recall(connection, scope, request.id, request.fingerprint))

    async def remember(self, scope: str, request: RequestKey, answer: bytes) -> bytes:
        """See DocumentCatalog."""
        return await self._write(lambda connection: requests.remember(connection, scope, request.id, request.fingerprint, answer))

    async def get_document(self, key: ProjectKey, document_id: DocumentId) -> Document:
        """See DocumentCatalog."""
        return await self._read(lambda connection: documents.get(connection, key, document_id))

    async def list_documents(self, key: ProjectKey, after: str, limit: int) -> Sequence[Document]:
        """See DocumentCatalog."""
        return await self._read(lambda connection: documents.page(connection, key, after, limit))

    # --- the feed

    async def project_list_position(self) -> tuple[Cursor, SequenceNumber]:
        """See FeedCatalog."""
        return await self._read(projects.list_position)

    async def project_list_batch(self, after: SequenceNumber, limit: int) -> ProjectBatch:
        """See FeedCatalog."""
        return await self._read(lambda connection: projects.list_batch(connection, after, limit))

    async def position(self, key: ProjectKey) -> Position:
        """See FeedCatalog."""
        return await self._read(lambda connection: feed.position(connection, key))

    async def document_batch(self, key: ProjectKey, after: SequenceNumber, limit: int, floor: SequenceNumber) -> DocumentBatch | None:
        """See FeedCatalog."""
        return await self._read(lambda connection: feed.document_batch(connection, key, after, limit, floor))

    async def vector_batch(
        self, key: ProjectKey, after: SequenceNumber, position: tuple[int, int], up_to: SequenceNumber
    ) -> tuple[VectorBatch, tuple[int, int]]:
        """See FeedCatalog."""
        return await self._read(lambda connection: feed.vector_batch(connection, key, after, position, up_to))

    async def digest(self, key: ProjectKey, wanted: SequenceRange | None, parts: int, *, named: bool, unsent: bool) -> ProjectDigest:
        """See FeedCatalog."""
        return await self._read(lambda connection: digest.digest(connection, key, wanted, parts, named=named, unsent=unsent))

    # --- the projection

    async def projects_to_embed(self) -> Sequence[LaggingProject]:
        """See ProjectionCatalog."""
        return await self._read(projection.projects_to_embed)

    async def projects_to_project(self) -> Sequence[LaggingProject]:
        """See ProjectionCatalog."""
        return await self._read(projection.projects_to_project)

    async def projected_projects(self) -> Sequence[LaggingProject]:
        """See ProjectionCatalog."""
        return await self._read(projection.projected_projects)

    async def lag(self) -> Lag:
        """See ProjectionCatalog."""
        return await self._read(figures.lag)

    async def unembedded(self, project: LaggingProject, limit: int, after: tuple[int, int] = (0, 0)) -> Sequence[UnembeddedChunk]:
        """See ProjectionCatalog."""
        return await self._read(lambda connection: projection.unembedded(connection, project, limit, after))

    async def store_embeddings(
        self, project: LaggingProject, chunk_keys: Sequence[int], vectors: Vectors, failures: Sequence[Failure] = ()
    ) -> VectorSequence:
        """See ProjectionCatalog."""
        sequence = await self._write(lambda connection: projection.store_embeddings(connection, project, chunk_keys, vectors, failures))
        metrics.QUARANTINE_EVENTS.labels("quarantined").inc(len(failures))
        return sequence

    async def quarantine(self, project: LaggingProject, failures: Sequence[Failure]) -> None:
        """See ProjectionCatalog."""
        held = await self._write(lambda connection: quarantine.hold(connection, project.key, QuarantineStage.VECTOR_STORE, failures))
        metrics.QUARANTINE_EVENTS.labels("quarantined").inc(held)

    async def projection_page(self, project: LaggingProject, position: tuple[int, int], limit: int) -> ProjectionPage:
        """See ProjectionCatalog."""
        return await self._read(lambda connection: projection.projection_page(connection, project, position, limit))

    async def advance(self, project: LaggingProject, sequence: SequenceNumber) -> Advance:
        """See ProjectionCatalog."""
        advance, released = await self._write(lambda connection: projection.advance(connection, project, sequence))
        metrics.QUARANTINE_EVENTS.labels("released").inc(released)
        return advance

    async def recorded_writes(self, project: LaggingProject, after: SequenceNumber, up_to: SequenceNumber, limit: int) -> Sequence[RecordedWrite]:
        """See ProjectionCatalog."""
        return await self._read(lambda connection: recorded_writes(connection, project, after, up_to, limit))

    async def restart(self, project: LaggingProject) -> bool:
        """See ProjectionCatalog."""
        return await self._write(lambda connection: projection.restart(connection, project.key, project.generation))

    # --- quarantine

    async def quarantined_chunks(self, project_id: ProjectId | None, after: int, limit: int) -> tuple[Sequence[QuarantinedChunk], int | None]:
        """See QuarantineCatalog."""

        def read(connection: apsw.Connection) -> tuple[Sequence[QuarantinedChunk], int | None]:
            return quarantine.page(connection, None if project_id is None else projects.key_of(connection, project_id), after, limit)

        return await self._read(read)

    async def count_quarantined(self) -> Mapping[QuarantineStage, int]:
        """See QuarantineCatalog."""
        return await self._read(quarantine.counts)

    async def retry_quarantined(self, project_id: ProjectId, chunk_ids: Sequence[ChunkId]) -> tuple[ProjectKey, int]:
        """See QuarantineCatalog."""

        def job(connection: apsw.Connection) -> tuple[ProjectKey, int]:
            key = projects.key_of(connection, project_id)
            return key, quarantine.retry(connection, key, chunk_ids)

        key, retried = await self._write(job)
        metrics.QUARANTINE_EVENTS.labels("retried").inc(retried)
        return key, retried

    # --- verification

    async def projected_project(self, project_id: ProjectId) -> LaggingProject:
        """See VerificationCatalog."""
        return await self._read(lambda connection: projection.projected_project(connection, project_id))

    async def expected_page(self, project: LaggingProject, position: tuple[int, int], limit: int) -> ChunkPage:
        """See VerificationCatalog."""
        return await self._read(lambda connection: verification.expected_page(connection, project, position, limit))

    async def expected_vectors(self, project: LaggingProject, chunk_ids: Collection[ChunkId]) -> tuple[Sequence[ChunkId], Vectors]:
        """See VerificationCatalog."""
        return await self._read(lambda connection: verification.expected_vectors(connection, project, chunk_ids))

    async def unknown_chunks(self, project: LaggingProject, chunk_ids: Collection[ChunkId]) -> Sequence[ChunkId]:
        """See VerificationCatalog."""
        return await self._read(lambda connection: verification.unknown_chunks(connection, project, chunk_ids))

    async def known_collections(self, project_id: ProjectId) -> Collection[str]:
        """See VerificationCatalog."""
        return await self._read(lambda connection: verification.known_collections(connection, project_id))

    # --- scrubbing

    async def stored_page(self, after: int, size: int) -> StoredPage | None:
        """See ScrubCatalog."""
        return await self._read(lambda connection: scrubbing.stored_page(connection, after, size))

    async def mark_damaged(self, documents: Sequence[StoredDocument]) -> Sequence[StoredDocument]:
        """See ScrubCatalog."""
        return await self._write(lambda connection: scrubbing.mark_damaged(connection, documents))

    # --- housekeeping

    async def deleted_projects(self) -> Sequence[DeletedProject]:
        """See HousekeepingCatalog."""
        return await self._read(housekeeping.deleted_projects)

    async def superseded_collections(self) -> Sequence[str]:
        """See HousekeepingCatalog."""
        return await self._read(housekeeping.superseded_collections)

    async def forget_collection(self, name: str) -> None:
        """See HousekeepingCatalog."""
        await self._write(lambda connection: housekeeping.forget_collection(connection, name))

    async def purge_documents(self, key: ProjectKey, limit: int) -> int:
        """See HousekeepingCatalog."""
        return await self._write(lambda connection: housekeeping.purge_documents(connection, key, limit))

    async def mark_purged(self, key: ProjectKey) -> None:
        """See HousekeepingCatalog."""
        await self._write(lambda connection: housekeeping.mark_purged(connection, key))

    async def compact(self, *, tombstones_older_than: float, requests_older_than: float) -> int:
        """See HousekeepingCatalog."""

        def job(connection: apsw.Connection) -> int:
            moment = clock.now()
            return housekeeping.compact_tombstones(connection, moment - int(tombstones_older_than * 1e6)) + housekeeping.forget_requests(
                connection, moment - int(requests_older_than * 1e6)
            )

        return await self._write(job)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0

"""The replica: a local copy of the catalog that can be made again from the change feed at any time."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np

from services.query.replica import documents as rows
from services.query.replica.applier import Applier
from services.query.replica.database import Database
from services.query.replica.inspection import Inspector
from services.query.replica.keyword import KeywordIndex
from services.query.replica.languages import query_terms, stem_language, word_terms
from services.query.replica.lock import lock_folder
from services.query.replica.model import CopyInspection, Pks, ReplicaCounts, ReplicaHit, ReplicaProject, ScoredPk
from services.query.replica.projects import load_list_cursor, load_projects, save_list_cursor
from services.query.replica.selection import Selections
from services.query.replica.snippets import snippets
from services.query.replica.state import ProjectState
from services.query.replica.waiter import Waiter
from shared.digest import ProjectDigest, SequenceRange
from shared.domain import (
    ChunkId,
    Cursor,
    DocumentBatch,
    DocumentId,
    Heartbeat,
    Project,
    ProjectId,
    Reset,
    SequenceNumber,
    Vector,
    VectorBatch,
    Vectors,
)
from shared.errors import NotFoundError
from shared.filters import Filter
from shared.resilience.deadline import Deadline
from shared.search import Snippet, Snippets


def _no_step(name: str) -> None:
    """What is called after each step of a write when nobody looks in."""


class Replica:
    """Documents, keyword index and vectors of all projects, for searching.

    Any number of threads may read; writes wait for each other. Methods block: those that a search needs for a few milliseconds at most at 100,000
    chunks, the others for as long as the disk or the project's size takes. Metadata is held in memory from the beginning, so no filter waits for it
    to be read, unless a write has failed. All that name a project raise NotFoundError when it is not there, and UnavailableError,
    ResourceExhaustedError or CorruptionError when the files cannot be used.
    """

    def __init__(self, path: Path, vectors_max: int, step: Callable[[str], None]) -> None:
        self._path = path
        self._lock_file = lock_folder(path)
        try:
            self._database = Database(path / "replica.db")
            if self._database.created:
                for folder in ("keyword", "vectors"):
                    shutil.rmtree(path / folder, ignore_errors=True)
            (path / "vectors").mkdir(exist_ok=True)
            self._index = KeywordIndex(path / "keyword")
            self._applier = Applier(self._database, self._index, path / "vectors", vectors_max, step)
            self._applier.recover()
            with self._database.reader() as connection:
                stored = load_projects(connection)
                self._list_cursor = load_list_cursor(connection)
            # Replaced, never changed, so that readers need no lock.
            self._states: dict[ProjectId, ProjectState] = {row.project.id: self._applier.load(row) for row in stored}
            self._applier.remove_strays(self._states.values())
        except BaseException:
            os.close(self._lock_file)
            raise
        self._inspector = Inspector(self._database, self._index, self._applier)
        self._selections = Selections(self._applier.read_metadata)
        self._closed = False
        self._documents_waiter = Waiter(self._documents_position)
        self._vectors_waiter = Waiter(self._vectors_position)

    @classmethod
    def open(cls, path: Path, *, vectors_max: int, step: Callable[[str], None] = _no_step) -> Replica:
        """Opens the replica in a folder, or begins an empty one, and repairs what a crash left.

        Args:
            path: the folder, for this process alone; made when it is not there.
            vectors_max: the most vectors to keep of a project; 0 keeps none.
            step: called after each step of a write that a crash could follow, with its name.

        Raises:
            ConfigurationError: another process has the folder, or SQLite is too old.
            UnavailableError: the files cannot be read or written.
        """
        path.mkdir(parents=True, exist_ok=True)
        return cls(path, vectors_max, step)

    def close(self) -> None:
        """Waits for the write that is going on, then closes the files. Later calls raise UnavailableError. May be called twice."""
        with self._applier.lock:
            if self._closed:
                return
            self._closed = True
            try:
                self._applier.save(self._states.values())
            finally:
                self._index.close()
                self._database.close()
                os.close(self._lock_file)

    # --- reading -----------------------------------------------------------------------------------------------------------------------

    def projects(self) -> tuple[ReplicaProject, ...]:
        """Every project, in the order of their ids."""
        states = self._states
        return tuple(states[project_id].describe() for project_id in sorted(states))

    def project(self, project_id: ProjectId) -> ReplicaProject:
        """One project."""
        return self._state(project_id).describe()

    def wants_vectors(self, project_id: ProjectId) -> bool:
        """Vectors of the project would be kept if they were sent."""
        state = self._state(project_id)
        return state.keep_vectors and not state.row.vectors_dropped

    def check(self) -> None:
        """Reads a little from the file. Raises CorruptionError or UnavailableError when that cannot be done."""
        with self._database.reader() as connection:
            connection.execute("SELECT count(*) FROM project").fetchone()

    def counts(self, project_id: ProjectId) -> ReplicaCounts:
        """What is there of a project; walks its rows."""
        key = self._state(project_id).row.key
        with self._database.reader() as connection:
            return rows.counts(connection, key)

    def totals(self) -> ReplicaCounts:
        """What is there of all projects; walks their rows."""
        with self._database.reader() as connection:
            return rows.totals(connection)

    def size_bytes(self) -> int:
        """What the files take; walks the folder."""
        size = 0
        for folder, _, names in os.walk(self._path):
            for name in names:
                with suppress(FileNotFoundError):  # segments of the index come and go meanwhile
                    size += (Path(folder) / name).stat().st_size
        return size

    def digest(self, project_id: ProjectId, wanted: SequenceRange, parts: int, *, named: bool) -> ProjectDigest:
        """What the documents of a range come to, in at most so many parts of equal width, as of one moment.

        The parts end before the range does when they have many chunks. `head` and `epoch` are the copy's own position then; no epoch when the copy
        has not begun. `named`: with the documents one by one.
        """
        return self._inspector.digest(self._state(project_id), wanted, parts, named=named)

    def inspect(self, project_id: ProjectId) -> CopyInspection:
        """Whether documents, keyword index and vectors agree with each other and with what was written. Reads all of them; changes wait meanwhile."""
        return self._inspector.inspect(self._state(project_id))

    def keyword(self, project_id: ProjectId, text: str, limit: int, allowed: Pks | None = None) -> list[ScoredPk]:
        """The best chunks for the words of a text, by falling BM25 score; among `allowed` (rising keys) when that is given."""
        row = self._state(project_id).row
        return self._index.search(row.key, text, limit, allowed, row.project.keyword)

    def keyword_ceiling(self, project_id: ProjectId, text: str) -> float:
        """The largest BM25 score that any chunk could have for the words of a text."""
        return self._index.ceiling(text, self._state(project_id).row.project.keyword)

    def vectors(self, project_id: ProjectId, vector: Vector, limit: int, allowed: Pks | None = None) -> list[ScoredPk] | None:
        """The nearest chunks by falling cosine, exactly; None when the project's vectors are not kept or are of another dimension.

        Vectors that have not arrived yet are missing: compare the project's `vectors_cursor`.
        """
        state = self._state(project_id)
        if not state.vectors_available:
            return None
        vectors = state.vectors
        if vectors is None:
            return []
        return vectors.top_k(vector, limit, allowed) if vector.shape == (vectors.dimension,) else None

    def vectors_of(self, project_id: ProjectId, pks: Pks) -> tuple[Pks, Vectors]:
        """Those of the chunks that have a vector here, in the order given, and their vectors, shape `(n, dimension)`."""
        vectors = self._state(project_id).vectors
        return (np.empty(0, np.int64), np.empty((0, 0), np.float32)) if vectors is None else vectors.gather(pks)

    def resolve(self, project_id: ProjectId, chunk_ids: Sequence[ChunkId]) -> dict[ChunkId, int]:
        """The keys of those chunks that are current."""
        key = self._state(project_id).row.key
        with self._database.reader() as connection:
            return rows.resolve(connection, key, chunk_ids)

    def hydrate(self, project_id: ProjectId, pks: Sequence[int]) -> list[ReplicaHit]:
        """The chunks with those keys, in that order; those that are no longer current are left out."""
        key = self._state(project_id).row.key
        with self._database.reader() as connection:
            return rows.hydrate(connection, key, pks)

    def chunk_ids(self, project_id: ProjectId, pks: Sequence[int]) -> dict[int, ChunkId]:
        """The ids of those chunks that are current, by key."""
        key = self._state(project_id).row.key
        with self._database.reader() as connection:
            return rows.chunk_ids(connection, key, pks)

    def documents_of(self, project_id: ProjectId, pks: Sequence[int]) -> dict[int, int]:
        """The keys of the documents of those chunks that are current, by the chunk's key."""
        return self._selections.documents_of(self._state(project_id), pks)

    def chunks_of(self, project_id: ProjectId, document_id: DocumentId) -> Pks:
        """Keys of a document's chunks, rising. Raises NotFoundError (reason `DOCUMENT_NOT_FOUND`)."""
        key = self._state(project_id).row.key
        with self._database.reader() as connection:
            pks = rows.chunks_of(connection, key, document_id)
        if pks is None:
            raise NotFoundError(f"project {project_id!r} has no document {document_id!r} here", reason="DOCUMENT_NOT_FOUND")
        return pks

    def snippets(self, project_id: ProjectId, query: str, texts: Sequence[str], wanted: Snippets) -> list[tuple[Snippet, ...]]:
        """For each text, the parts of it where most of the query's words are, in the order of the text."""
        settings = self._state(project_id).row.project.keyword
        return snippets(texts, frozenset(query_terms(settings, query)), partial(word_terms, stem_language(settings)), wanted)

    def allowed(self, project_id: ProjectId, condition: Filter) -> Pks:
        """Keys of the chunks whose document matches the filter, rising; the array cannot be written to."""
        return self._selections.allowed(self._state(project_id), condition)

    # --- waiting -----------------------------------------------------------------------------------------------------------------------

    async def wait_for_documents(self, project_id: ProjectId, wanted: Cursor, deadline: Deadline) -> bool:
        """True as soon as the documents up to `wanted` can be found by keyword, False when the time passes first.

        The project need not be known yet, nor the epoch.
        """
        return await self._documents_waiter.wait_for(project_id, wanted, deadline.remaining())

    async def wait_for_vectors(self, project_id: ProjectId, wanted: Cursor, deadline: Deadline) -> bool:
        """True as soon as the vectors up to `wanted` are in the vector store, as the indexer tells, or here; False when the time passes first."""
        return await self._vectors_waiter.wait_for(project_id, wanted, deadline.remaining())

    # --- writing -----------------------------------------------------------------------------------------------------------------------

    @property
    def project_list_cursor(self) -> Cursor | None:
        """How far the list of projects has been applied."""
        return self._list_cursor

    def set_project_list_cursor(self, cursor: Cursor | None) -> None:
        """Notes how far the list of projects has been applied: to be called after its changes are."""
        with self._applier.lock:
            with self._database.transaction() as connection:
                save_list_cursor(connection, cursor)
            self._list_cursor = cursor

    def put_project(self, project: Project) -> bool:
        """Adds a project or notes its new settings. One that was deleted and created again (another epoch) loses its content.

        Returns:
            True when the project has no content now, so that its feed must be watched from the beginning.
        """
        with self._applier.lock:
            state = self._states.get(project.id)
            # The project's own feed may have told of the new epoch before the list did: then the content is that of the new one.
            begins = state is None or project.epoch != _epoch(state)
            if state is None:
                self._states = {**self._states, project.id: self._applier.create(project)}
            elif begins:
                # At no moment is there no such project: removing the old one may take a while.
                self._states = {**self._states, project.id: self._applier.replace(state, project)}
                self._applier.drop(state)
            else:
                self._applier.update(state, project)
        self._notify(project.id)
        return begins

    def drop_project(self, project_id: ProjectId) -> None:
        """Removes a project with all that is here of it; does nothing when there is none."""
        with self._applier.lock:
            state = self._states.get(project_id)
            if state is not None:
                self._drop(project_id, state)

    def apply_reset(self, project_id: ProjectId, event: Reset) -> None:
        """Drops the documents and vectors, or the vectors alone, of a project."""
        with self._applier.lock:
            self._applier.reset(self._state(project_id), event)

    def apply_documents(self, project_id: ProjectId, batch: DocumentBatch) -> None:
        """Applies changes of documents; they can be found when it returns. Raises FeedGapError."""
        with self._applier.lock:
            self._applier.documents(self._state(project_id), batch)
        self._notify(project_id)

    def apply_vectors(self, project_id: ProjectId, batch: VectorBatch) -> None:
        """Applies vectors. Raises FeedGapError."""
        with self._applier.lock:
            self._applier.vectors(self._state(project_id), batch)
        self._notify(project_id)

    def reindex(self, project_id: ProjectId) -> None:
        """Makes the keyword index of a project again from its chunks; other changes wait meanwhile."""
        with self._applier.lock:
            self._applier.reindex(self._state(project_id))

    def forget_vectors(self, project_id: ProjectId) -> None:
        """Drops the vectors of a project: its feed, watched again, sends them from the beginning."""
        with self._applier.lock:
            self._applier.forget_vectors(self._state(project_id))

    def apply_heartbeat(self, project_id: ProjectId, event: Heartbeat) -> None:
        """Notes how far the indexer is. Raises FeedGapError."""
        with self._applier.lock:
            self._applier.heartbeat(self._state(project_id), event)
        self._notify(project_id)

    # -----------------------------------------------------------------------------------------------------------------------------------

    def _drop(self, project_id: ProjectId, state: ProjectState) -> None:
        self._states = {other: kept for other, kept in self._states.items() if other != project_id}
        self._applier.drop(state)

    def _state(self, project_id: ProjectId) -> ProjectState:
        state = self._states.get(project_id)
        if state is None:
            raise NotFoundError(
                f"this replica knows no project {project_id!r}: create it, or retry in a moment if it is new", reason="PROJECT_NOT_FOUND"
            )
        return state

    def _notify(self, project_id: ProjectId) -> None:
        self._documents_waiter.notify(project_id)
        self._vectors_waiter.notify(project_id)

    def _documents_position(self, project_id: ProjectId) -> Cursor | None:
        state = self._states.get(project_id)
        return None if state is None else state.row.documents

    def _vectors_position(self, project_id: ProjectId) -> Cursor | None:
        state = self._states.get(project_id)
        if state is None:
            return None
        stored = Cursor(_epoch(state), SequenceNumber(state.row.vector_sequence))
        here = state.row.vectors if state.vectors_available else None
        return here if here is not None and here.epoch == stored.epoch and here.sequence > stored.sequence else stored


def _epoch(state: ProjectState) -> str:
    """The epoch of the content; without content, that of the settings."""
    documents = state.row.documents
    return state.row.project.epoch if documents is None else documents.epoch

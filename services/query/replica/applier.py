"""The writing side of the replica: applies events so that a crash between any two steps does no harm.

Documents: (1) one SQLite transaction changes documents and chunks and notes which entries of the keyword index are now wrong; (2) the noted
entries are made again and committed; (3) one SQLite transaction moves the cursor and clears the notes. After (1) a deleted or replaced chunk can
no longer be given out. A crash after (1) or (2) leaves the notes, which the next opening works off, and the old cursor, from which the feed
repeats what (1) did: that changes nothing. Keys of chunks are never used twice.

Vectors: (1) the vectors are written to free slots and flushed; (2) one SQLite transaction notes the slots and moves the cursor.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from collections.abc import Set as AbstractSet
from dataclasses import replace
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

import numpy as np

from services.query.replica import documents as rows
from services.query.replica.database import Database
from services.query.replica.documents import Delta
from services.query.replica.errors import FeedGapError
from services.query.replica.keyword import KeywordIndex
from services.query.replica.languages import stem_language
from services.query.replica.metadata import MetadataIndex
from services.query.replica.model import Pks
from services.query.replica.projects import ProjectRow, delete_project, insert_project, load_projects, save_project
from services.query.replica.state import ProjectState
from services.query.replica.vectors import Prepared, ProjectVectors
from shared.domain import (
    Cursor,
    DocumentBatch,
    FeedStream,
    Heartbeat,
    KeywordSettings,
    Project,
    Range,
    Reset,
    SequenceNumber,
    VectorBatch,
    Vectors,
)
from shared.errors import CorruptionError
from shared.observability.logging import get_logger

# Entries of the keyword index that are made again at a time.
_BLOCK = 1_000
_log = get_logger(__name__)


class Applier:
    """Changes the replica. One thread at a time; `lock` is for the caller to hold around every call.

    Args:
        database: documents and chunks.
        index: the keyword index.
        folder: where the files of vectors are.
        vectors_max: the most vectors to keep of a project; 0 keeps none.
        step: called after each step that a crash could follow, with its name; tests look in from there.
    """

    def __init__(self, database: Database, index: KeywordIndex, folder: Path, vectors_max: int, step: Callable[[str], None]) -> None:
        self._database = database
        self._index = index
        self._folder = folder
        self._vectors_max = vectors_max
        self._step = step
        self._settings: dict[int, KeywordSettings] = {}
        self.lock = threading.Lock()

    def recover(self) -> None:
        """Brings the keyword index to what the chunks say, whatever a crash left."""
        with self._database.reader() as connection:
            self._settings = {row.key: row.project.keyword for row in load_projects(connection)}
        self._index_pending()
        with self._database.reader() as connection:
            expected = rows.count_chunks(connection)
        if len(self._index) != expected:
            _log.warning("replica_index_rebuild", chunks=expected, indexed=len(self._index))
            self._index.clear()
            with self._database.transaction() as connection:
                rows.pend_everything(connection)
            self._index_pending()
        with self._database.transaction() as connection:
            rows.clear_pending(connection)

    def load(self, row: ProjectRow) -> ProjectState:
        """The state of a stored project. Vectors that are damaged, unwanted or wanted again are asked for from the beginning."""
        state = ProjectState(row, keep_vectors=self._vectors_max > 0, metadata=self.read_metadata(row.key))
        with self._database.reader() as connection:
            pks, slots = rows.vector_slots(connection, row.key)
            chunks = rows.counts(connection, row.key).chunks if row.vectors_dropped else 0
        if not state.keep_vectors:
            if row.vectors is not None or row.dimension:
                self._restart_vectors(state, None)
        elif pks.size > self._vectors_max or (row.vectors_dropped and chunks <= self._vectors_max):
            self._restart_vectors(state, None)
        elif row.dimension:
            try:
                state.vectors = ProjectVectors(self._vectors_path(row), row.dimension, pks, slots)
            except CorruptionError:
                _log.warning("replica_vectors_damaged", project=row.project.id)
                self._restart_vectors(state, None)
        return state

    def create(self, project: Project) -> ProjectState:
        """Adds a project without content."""
        with self._database.transaction() as connection:
            row = insert_project(connection, project)
        self._settings[row.key] = project.keyword
        return ProjectState(row, keep_vectors=self._vectors_max > 0, metadata=MetadataIndex((), ()))

    def update(self, state: ProjectState, project: Project) -> None:
        """New settings of a project that is still the same incarnation."""
        row = state.row
        vectors = project.vector_sequence if project.generation != row.project.generation else max(row.vector_sequence, project.vector_sequence)
        reindex = stem_language(row.project.keyword) != stem_language(project.keyword)
        self._settings[row.key] = project.keyword
        if reindex:
            with self._database.transaction() as connection:
                rows.pend_project(connection, row.key)
        self._save(state, replace(row, project=project, head=max(row.head, project.head), vector_sequence=vectors))
        if reindex:
            self._index_pending()
            with self._database.transaction() as connection:
                rows.clear_pending(connection)
        state.changed()

    def drop(self, state: ProjectState) -> None:
        """Removes a project with everything of it."""
        with self._database.transaction() as connection:
            rows.delete_all(connection, state.row.key)
            delete_project(connection, state.row.key)
        self._step("project dropped")
        self._index_pending()
        with self._database.transaction() as connection:
            rows.clear_pending(connection)
        del self._settings[state.row.key]
        self._vectors_path(state.row).unlink(missing_ok=True)

    def reset(self, state: ProjectState, event: Reset) -> None:
        """Drops the documents (and their vectors), or the vectors alone; what follows begins at 0 of the event's epoch."""
        start = Cursor(event.epoch, SequenceNumber(0))
        if event.stream is FeedStream.VECTORS:
            self._restart_vectors(state, start)
        elif event.stream is FeedStream.DOCUMENTS:
            with self._database.transaction() as connection:
                rows.delete_all(connection, state.row.key)
                # No cursors until the index is empty too.
                save_project(connection, row := replace(state.row, documents=None, vectors=None))
            with state.lock:
                state.row, state.metadata, state.selection = row, MetadataIndex((), ()), state.selection + 1
            self._step("documents dropped")
            self._index_pending()
            self._restart_vectors(state, start)
            self._finish(state, replace(state.row, documents=start, head=SequenceNumber(0)))
            state.changed()
        state.contact_time = datetime.now(UTC)

    def documents(self, state: ProjectState, batch: DocumentBatch) -> None:
        """Applies changes of documents. Raises FeedGapError."""
        _check(batch.range, state.row.documents, "documents")
        metadata = state.metadata
        try:
            with self._database.transaction() as connection:
                delta = rows.apply_changes(connection, state.row.key, batch.changes)
            self._follow(state, delta, metadata)
        except BaseException:
            with state.lock:  # what was committed is not known
                state.metadata, state.selection = None, state.selection + 1
            raise
        state.changed()
        self._step("documents stored")
        self._index_pending({chunk for chunk, _ in delta.chunks})
        state.changed()
        self._step("documents indexed")
        self._finish(state, replace(state.row, documents=Cursor(batch.range.epoch, batch.range.end), head=max(state.row.head, batch.range.head)))
        self._step("documents finished")

    def vectors(self, state: ProjectState, batch: VectorBatch) -> None:
        """Applies vectors; those of chunks that are not current are left out. Raises FeedGapError."""
        _check(batch.range, state.row.vectors, "vectors")
        documents = state.row.documents
        if documents is None or documents.epoch != batch.range.epoch or documents.sequence < batch.range.end:
            raise FeedGapError("vectors came before the documents that they belong to")
        row = replace(state.row, vectors=Cursor(batch.range.epoch, batch.range.end), head=max(state.row.head, batch.range.head))
        if not state.vectors_available or not batch.chunk_ids:
            self._save(state, row)
            return
        pks, vectors = self._current(row.key, batch)
        if state.vectors is None:
            row = replace(row, dimension=vectors.shape[1])
            self._vectors_path(row).unlink(missing_ok=True)
            state.vectors = ProjectVectors(self._vectors_path(row), row.dimension, np.empty(0, np.int64), np.empty(0, np.int64))
        if vectors.shape[1] != state.vectors.dimension:
            raise FeedGapError(f"vectors of {vectors.shape[1]} numbers follow vectors of {state.vectors.dimension}")
        known = state.vectors.gather(pks)[0].size
        if len(state.vectors) + pks.size - known > self._vectors_max:
            _log.warning("replica_vectors_dropped", project=row.project.id, limit=self._vectors_max)
            self._restart_vectors(state, row.vectors, dropped=True)
            self._save(state, replace(state.row, head=row.head))
            return
        prepared = state.vectors.prepare(pks, vectors)
        self._step("vectors flushed")
        self._save(state, row, prepared)
        state.changed()
        self._step("vectors finished")

    def heartbeat(self, state: ProjectState, event: Heartbeat) -> None:
        """Notes how far the indexer is; kept in memory until the next write. Raises FeedGapError when it is of another epoch."""
        if state.row.documents is None or state.row.documents.epoch != event.epoch:
            raise FeedGapError("the feed is of another epoch than the copy")
        further = event.vector_sequence != state.row.vector_sequence
        state.row = replace(state.row, head=event.head, vector_sequence=event.vector_sequence)
        if further:
            state.changed()
        state.contact_time = datetime.now(UTC)

    def save(self, states: Iterable[ProjectState]) -> None:
        """Writes what heartbeats told."""
        with self._database.transaction() as connection:
            for state in states:
                save_project(connection, state.row)

    def remove_strays(self, states: Iterable[ProjectState]) -> None:
        """Deletes files of vectors that no project refers to."""
        wanted = {self._vectors_path(state.row) for state in states}
        for path in self._folder.iterdir():
            if path not in wanted:
                path.unlink()

    def _follow(self, state: ProjectState, delta: Delta, metadata: MetadataIndex | None) -> None:
        """Brings what is held in memory to what was committed; `metadata` is as it was before the transaction."""
        if state.vectors is not None and delta.removed_chunks:
            state.vectors.remove(np.array(delta.removed_chunks, dtype=np.int64))
        with state.lock:
            # An index that a search has made meanwhile may have the changes or not.
            if following := metadata is not None and state.metadata is metadata:
                metadata.apply(delta)
            state.selection += 1
        if metadata is None or not following or metadata.worn:  # read beside the old one, which answers until then
            fresh = self.read_metadata(state.row.key)
            with state.lock:
                state.metadata, state.selection = fresh, state.selection + 1

    def read_metadata(self, key: int) -> MetadataIndex:
        """The metadata of a project's documents as they are stored. May be called by any thread."""
        with self._database.reader() as connection:
            return MetadataIndex(rows.all_metadata(connection, key), rows.all_chunks(connection, key))

    def _index_pending(self, fresh: AbstractSet[int] = frozenset()) -> None:
        """Makes the noted entries of the keyword index again. Repeating it changes nothing.

        Args:
            fresh: keys that were given out since the index was last committed, so that it cannot have them yet.
        """
        try:
            with self._database.reader() as connection:
                for project in rows.pending_projects(connection):
                    self._index.delete_project(project)
                pending = rows.pending_chunks(connection)
                while block := list(islice(pending, _BLOCK)):
                    self._index.delete([pk for _, pk, _, _ in block if pk not in fresh])
                    for project, pk, title, text in block:
                        if text is not None:
                            self._index.add(project, pk, title or "", text, self._settings[project])
            self._index.commit()
        except BaseException:
            self._index.rollback()
            raise

    def _current(self, key: int, batch: VectorBatch) -> tuple[Pks, Vectors]:
        """Rising keys of those chunks of the batch that are current, and their vectors."""
        with self._database.reader() as connection:
            found = rows.resolve(connection, key, batch.chunk_ids)
        places = {found[chunk_id]: place for place, chunk_id in enumerate(batch.chunk_ids) if chunk_id in found}
        pks = np.array(sorted(places), dtype=np.int64)
        return pks, np.asarray(batch.vectors, dtype=np.float32)[[places[pk] for pk in pks.tolist()]]

    def _save(self, state: ProjectState, row: ProjectRow, prepared: Prepared | None = None) -> None:
        with self._database.transaction() as connection:
            if prepared is not None:
                rows.set_vector_slots(connection, zip(prepared.pks.tolist(), prepared.slots.tolist(), strict=True))
            save_project(connection, row)
        if prepared is not None and state.vectors is not None:
            # Before the cursor can be seen: who finds it where a token asks for it must find the vectors, too.
            state.vectors.publish(prepared)
        state.row, state.contact_time = row, datetime.now(UTC)

    def _finish(self, state: ProjectState, row: ProjectRow) -> None:
        with self._database.transaction() as connection:
            rows.clear_pending(connection)
            save_project(connection, row)
        state.row, state.contact_time = row, datetime.now(UTC)

    def _restart_vectors(self, state: ProjectState, cursor: Cursor | None, *, dropped: bool = False) -> None:
        """Forgets the vectors; the next ones go to another file, so that searches that still read the old one see no mixture."""
        old = self._vectors_path(state.row)
        row = replace(state.row, vectors=cursor, vectors_file=state.row.vectors_file + 1, dimension=0, vectors_dropped=dropped)
        with self._database.transaction() as connection:
            rows.forget_vector_slots(connection, row.key)
            save_project(connection, row)
        state.row, state.vectors = row, None
        state.changed()
        old.unlink(missing_ok=True)

    def _vectors_path(self, row: ProjectRow) -> Path:
        return self._folder / f"{row.key}-{row.vectors_file}.f32"


def _check(covered: Range, cursor: Cursor | None, what: str) -> None:
    if cursor is None or covered.epoch != cursor.epoch or covered.start != cursor.sequence or covered.end < covered.start:
        here = "nothing" if cursor is None else f"{cursor.epoch}:{cursor.sequence}"
        raise FeedGapError(f"{what}: a batch of ({covered.start}, {covered.end}] in epoch {covered.epoch} does not continue {here}")

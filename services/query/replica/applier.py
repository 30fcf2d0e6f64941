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
from services.query.replica.projects import ProjectRow, delete_project, insert_project, load_projects, projects_aside, save_project, set_aside
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
        with self._database.transaction() as connection:
            for key in projects_aside(connection):
                rows.delete_all(connection, key)
                delete_project(connection, key)
            self._settings = {row.key: row.project.keyword for row in load_projects(connection)}
        self._index_pending()
        # By key, because a database that has lost its newest changes has as many chunks as it had, but not the same.
        if len(self._index) != self._count_chunks() or any(self.misindexed(key).size for key in self._settings):
            self.reindex_everything()
        with self._database.transaction() as connection:
            rows.clear_pending(connection)

    def misindexed(self, key: int) -> Pks:
        """Keys of a project's chunks that the keyword index does not have, or has twice or too many of."""
        with self._database.reader() as connection:
            there = rows.chunk_keys(connection, key)
        indexed = self._index.keys(key)
        distinct, counts = np.unique(indexed, return_counts=True)
        return np.union1d(np.setxor1d(there, distinct), distinct[counts > 1])

    def reindex(self, state: ProjectState) -> None:
        """Makes the keyword index of a project, or all of it if its files are damaged, again from the chunks. Searches see the old one until then."""
        if self._index.damaged():
            self.reindex_everything()
        else:
            with self._database.transaction() as connection:
                rows.pend_project(connection, state.row.key, from_nothing=True)
            self._index_pending()
            with self._database.transaction() as connection:
                rows.clear_pending(connection)
        state.changed()

    def forget_vectors(self, state: ProjectState) -> None:
        """Drops the vectors; they are asked for from the beginning when the project's feed is watched again."""
        self._restart_vectors(state, None)

    def reindex_everything(self) -> None:
        """Makes the keyword index again from the chunks; searches see the old one until it is done."""
        _log.warning("replica_index_rebuild", chunks=self._count_chunks(), indexed=len(self._index))
        self._index.clear()
        with self._database.transaction() as connection:
            rows.pend_everything(connection)
        self._index_pending()
        with self._database.transaction() as connection:
            rows.clear_pending(connection)

    def _count_chunks(self) -> int:
        with self._database.reader() as connection:
            return rows.count_chunks(connection)

    def load(self, row: ProjectRow) -> ProjectState:
        """The state of a stored project. Vectors that are damaged, unwanted or wanted again are asked for from the beginning."""
        state = ProjectState(row, keep_vectors=self._vectors_max > 0, metadata=self.read_metadata(row.key))
        # It ended in the middle of a copy, or of a few changes; at sequence 0 it may have been a copy whose end was not known yet.
        state.copying = row.documents is None or row.documents.sequence == 0 or row.documents.sequence < row.head
        with self._database.reader() as connection:
            pks, slots, checksums = rows.vector_slots(connection, row.key)
            chunks = rows.counts(connection, row.key).chunks if row.vectors_dropped else 0
        if not state.keep_vectors:
            if row.vectors is not None or row.dimension:
                self._restart_vectors(state, None)
        elif pks.size > self._vectors_max or (row.vectors_dropped and chunks <= self._vectors_max):
            self._restart_vectors(state, None)
        elif row.dimension:
            state.vectors = self._load_vectors(row, pks, slots, checksums)
            if state.vectors is None:
                _log.warning("replica_vectors_damaged", project=row.project.id)
                self._restart_vectors(state, None)
        return state

    def _load_vectors(self, row: ProjectRow, pks: Pks, slots: Pks, checksums: Pks) -> ProjectVectors | None:
        """The stored vectors; None if they are not as they were written."""
        try:
            vectors = ProjectVectors(self._vectors_path(row), row.dimension, pks, slots)
        except CorruptionError:
            return None
        return None if vectors.damaged(pks, slots, checksums).size else vectors

    def create(self, project: Project) -> ProjectState:
        """Adds a project without content."""
        with self._database.transaction() as connection:
            row = insert_project(connection, project)
        return self._begin(row)

    def replace(self, old: ProjectState, project: Project) -> ProjectState:
        """Adds another incarnation of a project without content. The old one is there until it is dropped, under a name that nobody asks for."""
        with self._database.transaction() as connection:
            set_aside(connection, old.row)
            row = insert_project(connection, project)
        self._step("project replaced")
        return self._begin(row)

    def _begin(self, row: ProjectRow) -> ProjectState:
        self._settings[row.key] = row.project.keyword
        state = ProjectState(row, keep_vectors=self._vectors_max > 0, metadata=MetadataIndex((), ()))
        state.begin_copy()
        return state

    def update(self, state: ProjectState, project: Project) -> None:
        """New settings of a project that is still the same incarnation."""
        row = state.row
        vectors = project.vector_sequence if project.generation != row.project.generation else max(row.vector_sequence, project.vector_sequence)
        reindex = stem_language(row.project.keyword) != stem_language(project.keyword)
        self._settings[row.key] = project.keyword
        if reindex:
            with self._database.transaction() as connection:
                rows.pend_project(connection, row.key, from_nothing=False)
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
        if event.stream is FeedStream.DOCUMENTS:
            # Until the first event behind it tells the head, nobody may take the empty copy for one that has caught up.
            state.contact_time = None
            state.begin_copy()
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
            self._finish(state, replace(state.row, documents=start, head=SequenceNumber(0)), heard=False)
            state.changed()
            return
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
        state.copied(batch.range.head)
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
        state.copied(event.head)
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
                rows.set_vector_slots(connection, zip(prepared.pks.tolist(), prepared.slots.tolist(), prepared.checksums, strict=True))
            save_project(connection, row)
        if prepared is not None and state.vectors is not None:
            # Before the cursor can be seen: who finds it where a token asks for it must find the vectors, too.
            state.vectors.publish(prepared)
        state.row, state.contact_time = row, datetime.now(UTC)

    def _finish(self, state: ProjectState, row: ProjectRow, *, heard: bool = True) -> None:
        with self._database.transaction() as connection:
            rows.clear_pending(connection)
            save_project(connection, row)
        state.row = row
        if heard:
            state.contact_time = datetime.now(UTC)

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

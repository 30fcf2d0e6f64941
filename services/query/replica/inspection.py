"""Looking at a project's copy as a whole: what it comes to, and whether its parts agree with each other and with what was written."""

from __future__ import annotations

import apsw

from services.query.replica import documents as rows
from services.query.replica.applier import Applier
from services.query.replica.database import Database
from services.query.replica.integrity import damaged_documents
from services.query.replica.keyword import KeywordIndex
from services.query.replica.model import CopyInspection, Pks
from services.query.replica.projects import load_project
from services.query.replica.state import ProjectState
from shared.digest import ProjectDigest, SequenceRange, walk
from shared.domain import SequenceNumber


class Inspector:
    """Reads a copy. Every method walks all of a project, and may be called by any thread.

    Args:
        database: documents and chunks.
        index: the keyword index.
        applier: whose lock keeps the parts together while they are compared: nothing is applied meanwhile, and searches go on.
    """

    def __init__(self, database: Database, index: KeywordIndex, applier: Applier) -> None:
        self._database = database
        self._index = index
        self._applier = applier

    def digest(self, state: ProjectState, wanted: SequenceRange, parts: int, *, named: bool) -> ProjectDigest:
        """See `Replica.digest`."""
        with self._database.snapshot() as connection:
            cursor = load_project(connection, state.row.key).documents
            digests, documents = walk(wanted.split(parts), lambda part: rows.digests(connection, state.row.key, part), named=named)
        return ProjectDigest("" if cursor is None else cursor.epoch, SequenceNumber(0) if cursor is None else cursor.sequence, digests, documents)

    def inspect(self, state: ProjectState) -> CopyInspection:
        """See `Replica.inspect`."""
        key = state.row.key
        with self._database.snapshot() as connection:
            row = load_project(connection, key)
            chunks = rows.counts(connection, key).chunks
            damaged = damaged_documents(connection, key)
            vectors = row.vectors if state.vectors_available else None
            unvectored = set() if vectors is None else rows.unvectored(connection, key)
        with self._applier.lock:
            misindexed = self._misindexed(key)
            wrong_vectors = self._wrong_vectors(state)
        return CopyInspection(row.documents, vectors, chunks, *map(frozenset, (damaged, misindexed, unvectored, wrong_vectors)))

    def _misindexed(self, key: int) -> set[str]:
        with self._database.reader() as connection:
            if rows.anything_pending(connection):  # a write has failed halfway; the next one goes on with it
                return set()
            wrong = rows.chunk_keys(connection, key) if self._index.damaged() else self._applier.misindexed(key)
            return _names(connection, key, wrong)

    def _wrong_vectors(self, state: ProjectState) -> set[str]:
        vectors = state.vectors
        if vectors is None:
            return set()
        with self._database.reader() as connection:
            return _names(connection, state.row.key, vectors.damaged(*rows.vector_slots(connection, state.row.key)))


def _names(connection: apsw.Connection, project: int, pks: Pks) -> set[str]:
    """The ids of chunks; a key that no chunk has is named as it is."""
    known = rows.chunk_ids(connection, project, pks.tolist())
    return {known.get(pk, f"key {pk} of no chunk") for pk in pks.tolist()}

"""SQL of projects and of the project list's feed."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any

import apsw
import orjson

from services.indexer.catalog import clock
from services.indexer.catalog.rows import Row, each, every, first, one
from services.indexer.records import NewProject, ProjectKey
from shared.domain import (
    ChunkingSettings,
    Cursor,
    Project,
    ProjectBatch,
    ProjectChange,
    ProjectId,
    ProjectState,
    Range,
    SequenceNumber,
    VectorSequence,
)
from shared.errors import AlreadyExistsError, ConflictError, NotFoundError

_COLUMNS = (
    "id, display_name, description, labels, embedding_model, max_tokens, overlap_tokens, generation, epoch, head, vector_sequence, document_count,"
    " chunk_count, state, create_time, update_time, revision"
)


def _project(row: Row) -> Project:  # a row of _COLUMNS
    return Project(
        id=ProjectId(row[0]),
        display_name=row[1],
        description=row[2],
        labels=orjson.loads(row[3]),
        embedding_model=row[4],
        chunking=ChunkingSettings(row[5], row[6]),
        generation=row[7],
        epoch=row[8],
        head=SequenceNumber(row[9]),
        vector_sequence=VectorSequence(row[10]),
        document_count=row[11],
        chunk_count=row[12],
        state=ProjectState(row[13]),
        create_time=clock.to_datetime(row[14]),
        update_time=clock.to_datetime(row[15]),
        etag=str(row[16]),
    )


def new_epoch() -> str:
    """A name for an incarnation: random, because two of them must never be equal."""
    return secrets.token_hex(8)


def initialise(connection: apsw.Connection) -> None:
    """Writes the values that a new catalog starts with."""
    connection.executemany(
        "INSERT INTO meta (key, value) VALUES (?, ?) ON CONFLICT DO NOTHING",
        [("epoch", new_epoch()), ("list_head", 0), ("list_floor", 0), ("last_generation", 0), ("probed", 0)],
    )


def rotate_epochs(connection: apsw.Connection) -> None:
    """Begins a new incarnation of every feed: the catalog was replaced by an older copy of itself.

    Consumers then start again, and the vectors, which have collections of the new epochs' names, are written to the vector store again.
    """
    connection.execute("UPDATE meta SET value = ? WHERE key = 'epoch'", (new_epoch(),))
    for key, vector_sequence in every(connection, "SELECT key, vector_sequence FROM project WHERE deleted = 0"):
        connection.execute("UPDATE project SET epoch = ?, vector_sequence = 0, rebuild_target = ? WHERE key = ?", (new_epoch(), vector_sequence, key))
        if vector_sequence:
            set_state(connection, ProjectKey(key), ProjectState.REBUILDING)


def _advance(connection: apsw.Connection, counter: str) -> int:
    row = one(connection, "UPDATE meta SET value = value + 1 WHERE key = ? RETURNING value", (counter,))
    return int(row[0])


def key_of(connection: apsw.Connection, project_id: ProjectId) -> ProjectKey:
    """The key of a project. Raises NotFoundError."""
    row = first(connection, "SELECT key FROM project WHERE id = ? AND deleted = 0", (project_id,))
    if row is None:
        raise NotFoundError(f"there is no project {project_id!r}: create it first, or list the projects", reason="PROJECT_NOT_FOUND")
    return ProjectKey(row[0])


def get(connection: apsw.Connection, project_id: ProjectId) -> Project:
    """One project. Raises NotFoundError."""
    key = key_of(connection, project_id)
    return by_key(connection, key)


def by_key(connection: apsw.Connection, key: ProjectKey) -> Project:
    """One project, also if it is deleted."""
    return _project(one(connection, f"SELECT {_COLUMNS} FROM project WHERE key = ?", (key.value,)))  # noqa: S608 - constant columns


def page(connection: apsw.Connection, after: str, limit: int) -> list[Project]:
    """Projects whose ids come after `after`, in order."""
    rows = each(
        connection,
        f"SELECT {_COLUMNS} FROM project WHERE deleted = 0 AND id > ? ORDER BY id LIMIT ?",  # noqa: S608 - constant columns
        (after, limit),
    )
    return [_project(row) for row in rows]


def probe(connection: apsw.Connection) -> None:
    """The smallest change there is, to see whether changes can be made."""
    connection.execute("UPDATE meta SET value = ? WHERE key = 'probed'", (clock.now(),))


def count(connection: apsw.Connection) -> int:
    """How many projects there are."""
    return int(one(connection, "SELECT count(*) FROM project WHERE deleted = 0")[0])


def create(connection: apsw.Connection, project: NewProject) -> Project:
    """Creates a project. Raises AlreadyExistsError."""
    if first(connection, "SELECT 1 FROM project WHERE id = ? AND deleted = 0", (project.id,)):
        raise AlreadyExistsError(f"there is already a project {project.id!r}: choose another id, or use that one", reason="PROJECT_EXISTS")
    moment = clock.now()
    connection.execute(
        "INSERT INTO project (id, display_name, description, labels, embedding_model, max_tokens, overlap_tokens, generation, epoch,"
        " state, list_sequence, create_time, update_time) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            project.id,
            project.display_name,
            project.description,
            orjson.dumps(dict(project.labels)).decode(),
            project.embedding_model,
            project.chunking.max_tokens,
            project.chunking.overlap_tokens,
            _advance(connection, "last_generation"),
            new_epoch(),
            ProjectState.ACTIVE.value,
            _advance(connection, "list_head"),
            moment,
            moment,
        ),
    )
    return by_key(connection, ProjectKey(connection.last_insert_rowid()))


def _require_etag(project: Project, etag: str) -> None:
    if etag and etag != project.etag:
        raise ConflictError(f"project {project.id!r} was changed meanwhile (etag {project.etag}, sent {etag}): read it again, then retry")


def update(
    connection: apsw.Connection,
    project_id: ProjectId,
    *,
    etag: str,
    display_name: str | None,
    description: str | None,
    labels: Mapping[str, str] | None,
) -> Project:
    """Changes what is given. Raises NotFoundError, ConflictError."""
    key = key_of(connection, project_id)
    _require_etag(by_key(connection, key), etag)
    connection.execute(
        "UPDATE project SET display_name = coalesce(?, display_name), description = coalesce(?, description), labels = coalesce(?, labels),"
        " revision = revision + 1, update_time = ?, list_sequence = ? WHERE key = ?",
        (
            display_name,
            description,
            None if labels is None else orjson.dumps(dict(labels)).decode(),
            clock.now(),
            _advance(connection, "list_head"),
            key.value,
        ),
    )
    return by_key(connection, key)


def delete(connection: apsw.Connection, project_id: ProjectId, *, etag: str) -> tuple[ProjectKey, int]:
    """Ends a project; its rows are purged later. Returns its key and how many documents it had. Raises NotFoundError, ConflictError."""
    key = key_of(connection, project_id)
    project = by_key(connection, key)
    _require_etag(project, etag)
    connection.execute(
        "UPDATE project SET deleted = 1, update_time = ?, list_sequence = ? WHERE key = ?",
        (clock.now(), _advance(connection, "list_head"), key.value),
    )
    connection.execute("DELETE FROM request WHERE scope = ?", (project_id,))
    return key, project.document_count


def set_state(connection: apsw.Connection, key: ProjectKey, state: ProjectState) -> None:
    """Changes the state, which the project list's feed tells."""
    connection.execute(
        "UPDATE project SET state = ?, list_sequence = ? WHERE key = ? AND deleted = 0", (state.value, _advance(connection, "list_head"), key.value)
    )


# --- the project list's feed ---------------------------------------------------------------------------------------------------------------


def list_position(connection: apsw.Connection) -> tuple[Cursor, SequenceNumber]:
    """The head of the project list's feed, and the floor below which its tombstones are compacted."""
    values: dict[str, Any] = dict(each(connection, "SELECT key, value FROM meta WHERE key IN ('epoch', 'list_head', 'list_floor')"))
    return Cursor(values["epoch"], SequenceNumber(values["list_head"])), SequenceNumber(values["list_floor"])


def list_batch(connection: apsw.Connection, after: SequenceNumber, limit: int) -> ProjectBatch:
    """The changes after a sequence, at most `limit`."""
    head, _ = list_position(connection)
    rows = every(
        connection,
        f"SELECT list_sequence, deleted, {_COLUMNS} FROM project WHERE list_sequence > ? ORDER BY list_sequence LIMIT ?",  # noqa: S608 - constant columns
        (after, limit),
    )
    changes = [ProjectChange(SequenceNumber(row[0]), ProjectId(row[2]), None if row[1] else _project(row[2:])) for row in rows]
    end = changes[-1].sequence if len(changes) == limit else head.sequence
    return ProjectBatch(Range(head.epoch, after, end, head.sequence), changes)

"""SQL of projects and of the project list's feed."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from typing import Any

import apsw
import orjson

from services.indexer.catalog import clock, quarantine
from services.indexer.catalog.rows import Row, each, every, first, one
from services.indexer.records import NewProject, ProjectKey
from shared.domain import (
    ChunkingSettings,
    Cursor,
    KeywordSettings,
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
    " chunk_count, state, create_time, update_time, revision, keyword_language, stemming, stop_words, more_stop_words"
)
# A batch of the list's feed, and a page, end with the project that brings them to about this many characters of free text: 500 projects with
# 1,000 stop words each would not fit a message.
_BATCH_CHARACTERS = 1_000_000


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
        keyword=KeywordSettings(row[17], stemming=bool(row[18]), stop_words=bool(row[19]), more_stop_words=tuple(orjson.loads(row[20]))),
    )


def _characters(row: Row) -> int:  # a row of _COLUMNS
    """Characters of the fields that may be long: description, labels, stop words."""
    return len(row[2]) + len(row[3]) + len(row[20])


def _bounded(rows: Iterator[Row], limit: int, start: int = 0) -> tuple[list[Row], bool]:
    """The first rows, at most `limit` and about 1,000,000 characters, and whether there are more. `_COLUMNS` begin at column `start`."""
    taken: list[Row] = []
    characters = 0
    for row in rows:
        if len(taken) == limit or characters >= _BATCH_CHARACTERS:
            return taken, True
        taken.append(row)
        characters += _characters(row[start:])
    return taken, False


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
    for (key,) in every(connection, "SELECT key FROM project WHERE deleted = 0"):
        connection.execute("UPDATE project SET epoch = ? WHERE key = ?", (new_epoch(), key))
        begin_rebuild(connection, ProjectKey(key))


def begin_rebuild(connection: apsw.Connection, key: ProjectKey) -> None:
    """Everything is to be written to the vector store again. Whoever calls this gives the project's collection another name.

    The project is being rebuilt until its vectors are where they were, or where they were to be when a rebuild is under way. One without
    vectors has nothing to rebuild.
    """
    quarantine.try_again_in_new_collection(connection, key)
    connection.execute(
        "UPDATE project SET vector_sequence = 0, rebuild_target = max(vector_sequence, iif(state = ?, rebuild_target, 0)) WHERE key = ?",
        (ProjectState.REBUILDING.value, key.value),
    )
    if one(connection, "SELECT rebuild_target FROM project WHERE key = ?", (key.value,))[0]:
        set_state(connection, key, ProjectState.REBUILDING)
    else:
        set_state(connection, key, ProjectState.ACTIVE)


def next_generation(connection: apsw.Connection) -> int:
    """A number that no collection of this catalog has had."""
    return _advance(connection, "last_generation")


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


def page(connection: apsw.Connection, after: str, limit: int) -> tuple[list[Project], bool]:
    """Projects whose ids come after `after`, in order, at most `limit` and no more than fit a message; and whether there are more."""
    rows = each(
        connection,
        f"SELECT {_COLUMNS} FROM project WHERE deleted = 0 AND id > ? ORDER BY id",  # noqa: S608 - constant columns
        (after,),
    )
    taken, more = _bounded(rows, limit)
    return [_project(row) for row in taken], more


def probe(connection: apsw.Connection) -> None:
    """The smallest change there is, to see whether changes can be made."""
    connection.execute("UPDATE meta SET value = ? WHERE key = 'probed'", (clock.now(),))


def create(connection: apsw.Connection, project: NewProject) -> Project:
    """Creates a project. Raises AlreadyExistsError."""
    if first(connection, "SELECT 1 FROM project WHERE id = ? AND deleted = 0", (project.id,)):
        raise AlreadyExistsError(f"there is already a project {project.id!r}: choose another id, or use that one", reason="PROJECT_EXISTS")
    moment = clock.now()
    connection.execute(
        "INSERT INTO project (id, display_name, description, labels, embedding_model, max_tokens, overlap_tokens, keyword_language, stemming,"
        " stop_words, more_stop_words, generation, epoch, state, list_sequence, create_time, update_time)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            project.id,
            project.display_name,
            project.description,
            orjson.dumps(dict(project.labels)).decode(),
            project.embedding_model,
            project.chunking.max_tokens,
            project.chunking.overlap_tokens,
            project.keyword.language,
            project.keyword.stemming,
            project.keyword.stop_words,
            orjson.dumps(project.keyword.more_stop_words).decode(),
            next_generation(connection),
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
    """The changes after a sequence, at most `limit` and no more than fit a message."""
    head, _ = list_position(connection)
    rows = each(
        connection,
        f"SELECT list_sequence, deleted, {_COLUMNS} FROM project WHERE list_sequence > ? ORDER BY list_sequence",  # noqa: S608 - constant columns
        (after,),
    )
    taken, more = _bounded(rows, limit, start=2)
    changes = [ProjectChange(SequenceNumber(row[0]), ProjectId(row[2]), None if row[1] else _project(row[2:])) for row in taken]
    end = changes[-1].sequence if more else head.sequence
    return ProjectBatch(Range(head.epoch, after, end, head.sequence), changes)

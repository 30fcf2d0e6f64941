"""The replica's rows about projects: settings, cursors, and where the vectors are."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import apsw
import orjson

from services.query.replica.integrity import row_checksum
from shared.domain import ChunkingSettings, Cursor, KeywordSettings, Project, ProjectState, SequenceNumber, VectorSequence
from shared.errors import NotFoundError

_LIST_CURSOR = "project_list_cursor"
_ASIDE = "-"  # no project's id begins with it
_SELECT = (
    "SELECT pk, settings, documents_epoch, documents_sequence, vectors_epoch, vectors_sequence, head, vector_sequence, vectors_file, dimension,"
    " vectors_dropped FROM project"
)


@dataclass(frozen=True, slots=True)
class ProjectRow:
    """A project as it is stored.

    Attributes:
        key: what other tables and the keyword index know the project by.
        vectors_file: number of the file that holds the vectors; another number after each reset.
        dimension: numbers a vector; 0 before the first vector.
        vectors_dropped: there were more vectors than may be kept.
    """

    key: int
    project: Project
    documents: Cursor | None
    vectors: Cursor | None
    head: SequenceNumber
    vector_sequence: VectorSequence
    vectors_file: int
    dimension: int
    vectors_dropped: bool


def encode_project(project: Project) -> str:
    """The settings as JSON."""
    return orjson.dumps(project).decode()


def decode_project(text: str) -> Project:
    """The inverse of `encode_project`. A project that was stored before there were settings of keyword search has the defaults."""
    fields: dict[str, Any] = orjson.loads(text)
    keyword = fields.get("keyword", {})
    return Project(
        **{
            **fields,
            "chunking": ChunkingSettings(**fields["chunking"]),
            "keyword": KeywordSettings(**keyword | {"more_stop_words": tuple(keyword.get("more_stop_words", ()))}),
            "state": ProjectState(fields["state"]),
            "create_time": datetime.fromisoformat(fields["create_time"]),
            "update_time": datetime.fromisoformat(fields["update_time"]),
        }
    )


def _cursor(epoch: str | None, sequence: int | None) -> Cursor | None:
    return None if epoch is None or sequence is None else Cursor(epoch, SequenceNumber(sequence))


def _columns(cursor: Cursor | None) -> tuple[str | None, int | None]:
    return (None, None) if cursor is None else (cursor.epoch, cursor.sequence)


def load_projects(connection: apsw.Connection) -> list[ProjectRow]:
    """All projects in the order of their ids, without those that were set aside."""
    return [_project_row(row) for row in connection.execute(f"{_SELECT} WHERE substr(id, 1, 1) <> ? ORDER BY id", (_ASIDE,))]


def load_project(connection: apsw.Connection, key: int) -> ProjectRow:
    """One project. Raises NotFoundError when it was dropped meanwhile."""
    row = connection.execute(f"{_SELECT} WHERE pk = ?", (key,)).fetchone()
    if row is None:
        raise NotFoundError("the project was dropped meanwhile", reason="PROJECT_NOT_FOUND")
    return _project_row(row)


def _project_row(row: tuple[Any, ...]) -> ProjectRow:  # a row of _SELECT
    key, settings, de, ds, ve, vs, head, vector, file, size, dropped = row
    return ProjectRow(
        key, decode_project(settings), _cursor(de, ds), _cursor(ve, vs), SequenceNumber(head), VectorSequence(vector), file, size, bool(dropped)
    )


def insert_project(connection: apsw.Connection, project: Project) -> ProjectRow:
    """Adds a project without content."""
    connection.execute("INSERT INTO project (id, settings, checksum) VALUES (?, '', 0)", (project.id,))
    key = connection.last_insert_rowid()
    row = ProjectRow(key, project, None, None, project.head, project.vector_sequence, 0, 0, vectors_dropped=False)
    save_project(connection, row)
    return row


def save_project(connection: apsw.Connection, row: ProjectRow) -> None:
    """Writes everything about a project that is there."""
    _save(connection, row, row.project.id)


def _save(connection: apsw.Connection, row: ProjectRow, name: str) -> None:
    values = (
        encode_project(row.project),
        *_columns(row.documents),
        *_columns(row.vectors),
        row.head,
        row.vector_sequence,
        row.vectors_file,
        row.dimension,
        row.vectors_dropped,
    )
    connection.execute(
        "UPDATE project SET settings = ?, documents_epoch = ?, documents_sequence = ?, vectors_epoch = ?, vectors_sequence = ?, head = ?,"
        " vector_sequence = ?, vectors_file = ?, dimension = ?, vectors_dropped = ?, checksum = ? WHERE pk = ?",
        (*values, row_checksum(name, *values), row.key),
    )


def set_aside(connection: apsw.Connection, row: ProjectRow) -> None:
    """Gives a project a name that no project has, so that another incarnation of it can take its place before all of it is removed."""
    name = f"{_ASIDE}{row.key}"
    connection.execute("UPDATE project SET id = ? WHERE pk = ?", (name, row.key))
    _save(connection, row, name)


def projects_aside(connection: apsw.Connection) -> list[int]:
    """Keys of projects that were set aside and are still there."""
    return [key for (key,) in connection.execute("SELECT pk FROM project WHERE substr(id, 1, 1) = ?", (_ASIDE,))]


def delete_project(connection: apsw.Connection, key: int) -> None:
    """Removes the project; its documents must be gone."""
    connection.execute("DELETE FROM project WHERE pk = ?", (key,))


def load_list_cursor(connection: apsw.Connection) -> Cursor | None:
    """How far the list of projects has been applied."""
    value = connection.execute("SELECT value FROM setting WHERE name = ?", (_LIST_CURSOR,)).get
    return None if value is None else Cursor(**orjson.loads(value))


def save_list_cursor(connection: apsw.Connection, cursor: Cursor | None) -> None:
    """Sets or forgets how far the list of projects has been applied."""
    if cursor is None:
        connection.execute("DELETE FROM setting WHERE name = ?", (_LIST_CURSOR,))
    else:
        row = (_LIST_CURSOR, orjson.dumps(cursor).decode())
        connection.execute("INSERT OR REPLACE INTO setting VALUES (?, ?, ?)", (*row, row_checksum(*row)))

"""The replica's rows about projects: settings, cursors, and where the vectors are."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import apsw
import orjson

from shared.domain import ChunkingSettings, Cursor, KeywordSettings, Project, ProjectState, SequenceNumber, VectorSequence

_LIST_CURSOR = "project_list_cursor"


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


def load_projects(connection: apsw.Connection) -> list[ProjectRow]:
    """All projects in the order of their ids."""
    rows = connection.execute(
        "SELECT pk, settings, documents_epoch, documents_sequence, vectors_epoch, vectors_sequence, head, vector_sequence, vectors_file, dimension,"
        " vectors_dropped FROM project ORDER BY id"
    )
    return [
        ProjectRow(
            key, decode_project(settings), _cursor(de, ds), _cursor(ve, vs), SequenceNumber(head), VectorSequence(vector), file, size, bool(dropped)
        )
        for key, settings, de, ds, ve, vs, head, vector, file, size, dropped in rows
    ]


def insert_project(connection: apsw.Connection, project: Project) -> ProjectRow:
    """Adds a project without content."""
    sql = "INSERT INTO project (id, settings, head, vector_sequence) VALUES (?, ?, ?, ?)"
    connection.execute(sql, (project.id, encode_project(project), project.head, project.vector_sequence))
    return ProjectRow(connection.last_insert_rowid(), project, None, None, project.head, project.vector_sequence, 0, 0, vectors_dropped=False)


def save_project(connection: apsw.Connection, row: ProjectRow) -> None:
    """Writes everything about a project that is there."""
    documents, vectors = row.documents, row.vectors
    connection.execute(
        "UPDATE project SET settings = ?, documents_epoch = ?, documents_sequence = ?, vectors_epoch = ?, vectors_sequence = ?, head = ?,"
        " vector_sequence = ?, vectors_file = ?, dimension = ?, vectors_dropped = ? WHERE pk = ?",
        (
            encode_project(row.project),
            documents and documents.epoch,
            documents and documents.sequence,
            vectors and vectors.epoch,
            vectors and vectors.sequence,
            row.head,
            row.vector_sequence,
            row.vectors_file,
            row.dimension,
            row.vectors_dropped,
            row.key,
        ),
    )


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
        connection.execute("INSERT OR REPLACE INTO setting VALUES (?, ?)", (_LIST_CURSOR, orjson.dumps(cursor).decode()))

"""SQL of what has to be cleared away: deleted projects, old tombstones, old answers."""

from __future__ import annotations

import apsw

from services.indexer.catalog.rows import each, every, one
from services.indexer.records import DeletedProject, ProjectKey
from shared.domain import ProjectId, collection_name


def deleted_projects(connection: apsw.Connection) -> list[DeletedProject]:
    """Projects that are to be purged."""
    rows = each(connection, "SELECT key, id, generation, epoch FROM project WHERE deleted = 1 AND purged = 0")
    return [DeletedProject(ProjectKey(key), collection_name(ProjectId(project_id), generation, epoch)) for key, project_id, generation, epoch in rows]


def superseded_collections(connection: apsw.Connection) -> list[str]:
    """Collections of generations that are over, and that may still be in the vector store."""
    return [row[0] for row in each(connection, "SELECT name FROM superseded_collection")]


def forget_collection(connection: apsw.Connection, name: str) -> None:
    """A superseded collection is gone from the vector store."""
    connection.execute("DELETE FROM superseded_collection WHERE name = ?", (name,))


def purge_documents(connection: apsw.Connection, key: ProjectKey, limit: int) -> int:
    """Removes at most `limit` documents of a deleted project with their chunks and vectors; returns how many."""
    rows = every(connection, "SELECT key FROM document WHERE project_key = ? LIMIT ?", (key.value, limit))
    connection.executemany("DELETE FROM chunk WHERE document_key = ?", rows)
    connection.executemany("DELETE FROM document WHERE key = ?", rows)
    return len(rows)


def mark_purged(connection: apsw.Connection, key: ProjectKey) -> None:
    """Nothing but the tombstone is left of the project."""
    connection.execute("UPDATE project SET purged = 1 WHERE key = ?", (key.value,))


def compact_tombstones(connection: apsw.Connection, before: int) -> int:
    """Removes tombstones that were written before a moment (µs) and are no longer needed by the projection; returns how many.

    The floor of the feed moves with them: a consumer that stands below it starts again.
    """
    removed = 0
    for key, sequence in every(
        connection,
        "SELECT document.project_key, max(document.sequence) FROM document JOIN project ON project.key = document.project_key"
        " WHERE document.deleted = 1 AND document.update_time < ? AND document.sequence <= project.vector_sequence GROUP BY document.project_key",
        (before,),
    ):
        connection.execute("UPDATE project SET floor = max(floor, ?) WHERE key = ?", (sequence, key))
        connection.execute("DELETE FROM document WHERE project_key = ? AND deleted = 1 AND sequence <= ?", (key, sequence))
        removed += connection.changes()
    row = one(connection, "SELECT max(list_sequence) FROM project WHERE purged = 1 AND update_time < ?", (before,))
    if row[0] is not None:
        connection.execute("UPDATE meta SET value = max(value, ?) WHERE key = 'list_floor'", (row[0],))
        connection.execute("DELETE FROM project WHERE purged = 1 AND update_time < ?", (before,))
        removed += connection.changes()
    return removed


def forget_requests(connection: apsw.Connection, before: int) -> int:
    """Removes answers that were kept before a moment (µs); returns how many."""
    connection.execute("DELETE FROM request WHERE create_time < ?", (before,))
    return connection.changes()

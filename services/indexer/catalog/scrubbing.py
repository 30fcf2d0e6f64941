"""SQL of looking for documents that the disk has changed: what is stored of them, as bytes, and marking those at fault."""

from __future__ import annotations

from collections.abc import Collection

import apsw

from services.indexer.catalog.rows import each
from services.indexer.records import StoredDocument


def stored_page(connection: apsw.Connection, after: int, limit: int) -> list[StoredDocument]:
    """Documents behind a key, in the order of their keys. Text as bytes: what the disk has changed may be no text any more."""
    rows = each(
        connection,
        "SELECT document.key, CAST(project.id AS BLOB), CAST(document.id AS BLOB), CAST(document.title AS BLOB), document.metadata,"
        " CAST(document.text AS BLOB), CAST(document.content_hash AS BLOB) FROM document JOIN project ON project.key = document.project_key"
        " WHERE document.key > ? AND document.deleted = 0 AND project.deleted = 0 ORDER BY document.key LIMIT ?",
        (after, limit),
    )
    return [StoredDocument(*row) for row in rows]


def mark_damaged(connection: apsw.Connection, keys: Collection[int]) -> None:
    """From now on these documents equal no other, so that writing one again with its old content is a change."""
    connection.executemany("UPDATE document SET content_hash = '' WHERE key = ?", [(key,) for key in keys])

"""SQL of looking for documents that the disk has changed: what is stored of them, as bytes, and marking those at fault."""

from __future__ import annotations

from collections.abc import Sequence

import apsw

from services.indexer.catalog.connection import disk_failed, translated_errors
from services.indexer.catalog.rows import Row, each, first
from services.indexer.records import StoredDocument, StoredPage
from shared.errors import CorruptionError, UnavailableError

# Of which only keys and lengths are read at first: some kilobytes each, of which the texts are no part.
_DOCUMENTS_A_PAGE = 200
# `octet_length` is told by the head of a row: what lies in pages of its own, most of a text, is not read for it.
_SIZES = "SELECT key, coalesce(octet_length(title) + octet_length(metadata) + octet_length(text), 0) FROM document WHERE key > ? ORDER BY key LIMIT ?"


def stored_page(connection: apsw.Connection, after: int, size: int) -> StoredPage | None:
    """Documents behind a key, in the order of their keys: as many as have `size` bytes together, and at least one; None behind the last.

    Raises CorruptionError if it cannot even be read which there are.
    """
    found: list[Row] = []
    try:
        with translated_errors():
            found.extend(each(connection, _SIZES, (after, _DOCUMENTS_A_PAGE)))
    except (CorruptionError, UnavailableError) as error:
        if not disk_failed(error):
            raise
        if not found:  # else the next page begins at the bad place
            raise CorruptionError(error.message) from error
    documents: list[StoredDocument] = []
    read, unreadable, position = 0, 0, None
    for key, length in found:
        if position is not None and read + length > size:
            break
        position = key
        read += length
        try:
            with translated_errors():
                document = _stored(connection, key)
        except (CorruptionError, UnavailableError) as error:
            if not disk_failed(error):
                raise
            unreadable += 1
            continue
        if document is not None:
            documents.append(document)
    return None if position is None else StoredPage(documents, unreadable, read, position)


def _stored(connection: apsw.Connection, key: int) -> StoredDocument | None:
    """A document, unless it is deleted. Text as bytes: what the disk has changed may be no text any more."""
    row = first(
        connection,
        "SELECT document.key, CAST(project.id AS BLOB), CAST(document.id AS BLOB), CAST(document.title AS BLOB), document.metadata,"
        " CAST(document.text AS BLOB), CAST(document.content_hash AS BLOB) FROM document JOIN project ON project.key = document.project_key"
        " WHERE document.key = ? AND document.deleted = 0 AND project.deleted = 0",
        (key,),
    )
    return None if row is None else StoredDocument(*row)


def mark_damaged(connection: apsw.Connection, documents: Sequence[StoredDocument]) -> list[StoredDocument]:
    """From now on these documents equal no other, so that writing one again with its old content is a change; returns those that were marked.

    One that has another hash than the one that was read has been written meanwhile: what was read is no more, and says nothing about it.
    """
    marked = []
    for document in documents:
        connection.execute(
            "UPDATE document SET content_hash = '' WHERE key = ? AND deleted = 0 AND CAST(content_hash AS BLOB) = ?",
            (document.key, document.content_hash),
        )
        if connection.changes():
            marked.append(document)
    return marked

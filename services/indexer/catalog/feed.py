"""SQL of a project's change feed: what changed after a sequence, as batches that state the range they cover."""

from __future__ import annotations

import apsw
import numpy as np

from services.indexer.catalog import clock, documents
from services.indexer.catalog.rows import Row, each, every, first
from services.indexer.catalog.salvage import readable, readable_metadata
from services.indexer.records import Position, ProjectKey
from services.indexer.sizes import message_bytes
from shared.domain import (
    ChunkId,
    Document,
    DocumentBatch,
    DocumentChange,
    DocumentId,
    Range,
    SequenceNumber,
    TraceContext,
    VectorBatch,
    VectorSequence,
)
from shared.errors import NotFoundError

# A batch ends with the document that brings it to this size: with the largest document that is accepted (MAX_DOCUMENT_BYTES) a message stays
# below the transport's limit.
_BATCH_BYTES = 2_000_000
_BATCH_VECTORS = 1_000
# Texts as bytes, because one that is damaged must not hold up those behind it.
_CHANGE = (
    "SELECT key, CAST(id AS BLOB), CAST(title AS BLOB), metadata, chunk_count, CAST(content_hash AS BLOB), sequence, create_time, update_time,"
    " deleted, CAST(traceparent AS BLOB), CAST(tracestate AS BLOB), CAST(text AS BLOB) FROM document"
)


def position(connection: apsw.Connection, key: ProjectKey) -> Position:
    """Where the feed stands now. Raises NotFoundError when not even the tombstone of the project is left."""
    row = first(
        connection, "SELECT epoch, head, floor, embedded_sequence, vector_sequence, generation, deleted FROM project WHERE key = ?", (key.value,)
    )
    if row is None:
        raise NotFoundError("the project was deleted", reason="PROJECT_NOT_FOUND")
    return Position(row[0], SequenceNumber(row[1]), SequenceNumber(row[2]), VectorSequence(row[3]), VectorSequence(row[4]), row[5], bool(row[6]))


def document_batch(connection: apsw.Connection, key: ProjectKey, after: SequenceNumber, limit: int, floor: SequenceNumber) -> DocumentBatch | None:
    """Changes of documents after a sequence, at most `limit`. Texts of documents are left out: their chunks carry them.

    Of a document that the disk has damaged comes what can be read. None if tombstones after that sequence have been compacted away since the floor
    was at `floor`.
    """
    here = position(connection, key)
    if 0 < after < here.floor and here.floor > floor:
        return None
    rows = each(
        connection,
        f"{_CHANGE} WHERE project_key = ? AND sequence > ? ORDER BY sequence LIMIT ?",
        (key.value, after, limit),
    )
    changes: list[DocumentChange] = []
    size = 0
    for row in rows:
        document: Document | None = None
        if not row[9]:
            document = _readable(connection, row)
            size += message_bytes(document.chunks, row[3])
        if document is not None or after > 0:  # a consumer that begins has just dropped what it held
            trace = TraceContext(readable(row[10]), readable(row[11]))
            changes.append(DocumentChange(SequenceNumber(row[6]), DocumentId(readable(row[1])), document, clock.to_datetime(row[8]), trace))
        limit -= 1
        if size >= _BATCH_BYTES or limit == 0:
            return DocumentBatch(Range(here.epoch, after, SequenceNumber(row[6]), here.head), changes)
    return DocumentBatch(Range(here.epoch, after, here.head, here.head), changes)


def _readable(connection: apsw.Connection, row: Row) -> Document:  # a row of _CHANGE
    return Document(
        id=DocumentId(readable(row[1])),
        title=readable(row[2]),
        text="",
        metadata=readable_metadata(row[3]),
        chunks=documents.chunks_of(connection, row[0], readable(row[12])),
        chunk_count=row[4],
        content_hash=readable(row[5]),
        sequence=SequenceNumber(row[6]),
        create_time=clock.to_datetime(row[7]),
        update_time=clock.to_datetime(row[8]),
    )


def vector_batch(
    connection: apsw.Connection, key: ProjectKey, after: SequenceNumber, position_after: tuple[int, int], up_to: SequenceNumber
) -> tuple[VectorBatch, tuple[int, int]]:
    """Vectors of live chunks behind a position `(sequence, chunk key)` and up to a sequence, at most 1,000; and the position behind them.

    `up_to` must not be beyond the embedded sequence. When more are left, the end of the range is the last sequence that is complete; it equals
    the start when the batch is a part of one large document.
    """
    here = position(connection, key)
    rows = every(
        connection,
        "SELECT chunk.id, embedding.vector, chunk.sequence, chunk.key FROM chunk JOIN embedding ON embedding.chunk_key = chunk.key"
        " WHERE chunk.project_key = ? AND (chunk.sequence, chunk.key) > (?, ?) AND chunk.sequence <= ? AND chunk.live"
        " ORDER BY chunk.sequence, chunk.key LIMIT ?",
        (key.value, *position_after, up_to, _BATCH_VECTORS),
    )
    complete = len(rows) < _BATCH_VECTORS
    end = up_to if complete else max(after, SequenceNumber(rows[-1][2] - 1))
    last = (up_to + 1, 0) if complete else (rows[-1][2], rows[-1][3])
    ids = [ChunkId(row[0]) for row in rows]
    vectors = np.frombuffer(b"".join(row[1] for row in rows), dtype="<f4").reshape(len(ids), -1) if ids else np.empty((0, 0), dtype=np.float32)
    return VectorBatch(Range(here.epoch, after, end, here.head), ids, vectors), last

"""SQL of documents: writing them with their chunks, reading and listing them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import apsw
import orjson

from services.indexer.catalog import clock
from services.indexer.catalog.rows import Row, each, first
from services.indexer.records import PreparedDocument, ProjectKey, Written
from shared.domain import Chunk, ChunkId, Document, DocumentId, Metadata, SequenceNumber, TraceContext
from shared.errors import NotFoundError


def encode_metadata(metadata: Metadata) -> bytes:
    """Metadata as canonical JSON."""
    return orjson.dumps(dict(metadata), option=orjson.OPT_SORT_KEYS)


def decode_metadata(data: bytes) -> Metadata:
    """Metadata from JSON; lists become tuples."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in orjson.loads(data).items()}


class _Change:
    """The changes of one job to one project: allocates their sequences and keeps the project's counters."""

    def __init__(self, connection: apsw.Connection, key: ProjectKey, trace: TraceContext) -> None:
        self._connection = connection
        self._key = key.value
        self._trace = trace
        row = first(connection, "SELECT head FROM project WHERE key = ? AND deleted = 0", (key.value,))
        if row is None:
            raise NotFoundError("the project was deleted meanwhile", reason="PROJECT_NOT_FOUND")
        self._head = int(row[0])
        self._moment = clock.now()
        self._documents = 0
        self._chunks = 0

    @property
    def head(self) -> SequenceNumber:
        """The last sequence that was allocated."""
        return SequenceNumber(self._head)

    def upsert(self, document: PreparedDocument) -> Written:
        """Writes one document unless it is there with the same content."""
        source = document.input
        row = first(
            self._connection,
            "SELECT key, sequence, deleted, content_hash, chunk_count FROM document WHERE project_key = ? AND id = ?",
            (self._key, source.id),
        )
        if row is not None and not row[2] and row[3] == document.content_hash:
            return Written(source.id, SequenceNumber(row[1]), unchanged=True, chunk_count=row[4])
        self._head += 1
        values = (
            self._head,
            source.title,
            encode_metadata(source.metadata),
            document.content_hash,
            len(document.chunks),
            self._moment,
            self._trace.traceparent,
            self._trace.tracestate,
            source.text,
        )
        if row is None:
            self._connection.execute(
                "INSERT INTO document (sequence, title, metadata, content_hash, chunk_count, update_time, traceparent, tracestate, text, create_time,"
                " project_key, id) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (*values, self._moment, self._key, source.id),
            )
            key = self._connection.last_insert_rowid()
        else:
            key = row[0]
            self._connection.execute(
                "UPDATE document SET sequence = ?, title = ?, metadata = ?, content_hash = ?, chunk_count = ?, update_time = ?, traceparent = ?,"
                " tracestate = ?, text = ?, create_time = iif(deleted, ?, create_time), deleted = 0 WHERE key = ?",
                (*values, self._moment, key),
            )
        self._documents += 1 if row is None or row[2] else 0
        self._chunks += len(document.chunks) - (0 if row is None or row[2] else row[4])
        self._replace_chunks(key, document.chunks, is_new=row is None)
        return Written(source.id, SequenceNumber(self._head), unchanged=False, chunk_count=len(document.chunks))

    def _replace_chunks(self, document_key: int, chunks: Sequence[Chunk], *, is_new: bool) -> None:
        """Makes `chunks` the live ones of the document. A chunk that stays keeps its sequence, so it is not projected again."""
        present: dict[str, tuple[int, int]] = {}
        if not is_new:
            rows = each(self._connection, "SELECT id, key, live FROM chunk WHERE document_key = ?", (document_key,))
            present = {chunk_id: (key, live) for chunk_id, key, live in rows}
        fresh = [
            (self._key, chunk.id, document_key, self._head, chunk.ordinal, chunk.start, chunk.end) for chunk in chunks if chunk.id not in present
        ]
        self._connection.executemany(
            "INSERT INTO chunk (project_key, id, document_key, sequence, live, ordinal, start_offset, end_offset) VALUES (?, ?, ?, ?, 1, ?, ?, ?)",
            fresh,
        )
        kept = [(self._head, chunk.ordinal, chunk.start, chunk.end, present[chunk.id][0]) for chunk in chunks if chunk.id in present]
        self._connection.executemany(
            "UPDATE chunk SET sequence = iif(live, sequence, ?), live = 1, ordinal = ?, start_offset = ?, end_offset = ? WHERE key = ?", kept
        )
        wanted = {chunk.id for chunk in chunks}
        gone = [(self._head, key) for chunk_id, (key, live) in present.items() if live and chunk_id not in wanted]
        self._connection.executemany("UPDATE chunk SET live = 0, sequence = ? WHERE key = ?", gone)

    def delete(self, document_id: DocumentId, sequence: SequenceNumber | None) -> bool:
        """Makes a document a tombstone. False if it is not there, or was changed after `sequence`."""
        row = first(
            self._connection,
            "SELECT key, chunk_count, sequence FROM document WHERE project_key = ? AND id = ? AND deleted = 0",
            (self._key, document_id),
        )
        if row is None or sequence not in {None, row[2]}:
            return False
        self._head += 1
        self._connection.execute(
            "UPDATE document SET sequence = ?, deleted = 1, title = '', metadata = x'7b7d', content_hash = '', chunk_count = 0, update_time = ?,"
            " traceparent = ?, tracestate = ?, text = '' WHERE key = ?",
            (self._head, self._moment, self._trace.traceparent, self._trace.tracestate, row[0]),
        )
        self._connection.execute("UPDATE chunk SET live = 0, sequence = ? WHERE document_key = ? AND live", (self._head, row[0]))
        self._documents -= 1
        self._chunks -= row[1]
        return True

    def finish(self) -> None:
        """Moves the project's head: the last step of the job, under the writer's transaction."""
        self._connection.execute(
            "UPDATE project SET head = ?, document_count = document_count + ?, chunk_count = chunk_count + ? WHERE key = ?",
            (self._head, self._documents, self._chunks, self._key),
        )


def upsert(
    connection: apsw.Connection, key: ProjectKey, documents: Iterable[PreparedDocument], trace: TraceContext
) -> tuple[list[Written], SequenceNumber]:
    """Writes documents in order. Returns what became of each, and the project's head."""
    change = _Change(connection, key, trace)
    written = [change.upsert(document) for document in documents]
    change.finish()
    return written, change.head


def delete(
    connection: apsw.Connection, key: ProjectKey, targets: Iterable[tuple[DocumentId, SequenceNumber | None]], trace: TraceContext
) -> tuple[int, SequenceNumber]:
    """Deletes documents that are there and, where a sequence is given, have not changed since. Returns how many, and the project's head."""
    change = _Change(connection, key, trace)
    deleted = sum(change.delete(document_id, sequence) for document_id, sequence in targets)
    change.finish()
    return deleted, change.head


# --- reading -------------------------------------------------------------------------------------------------------------------------------

_COLUMNS = "key, id, title, metadata, chunk_count, content_hash, sequence, create_time, update_time"


def from_row(row: Row, text: str = "", chunks: tuple[Chunk, ...] = ()) -> Document:  # a row of _COLUMNS
    """A document from a row that begins with the columns of `_COLUMNS`."""
    return Document(
        id=DocumentId(row[1]),
        title=row[2],
        text=text,
        metadata=decode_metadata(row[3]),
        chunks=chunks,
        chunk_count=row[4],
        content_hash=row[5],
        sequence=SequenceNumber(row[6]),
        create_time=clock.to_datetime(row[7]),
        update_time=clock.to_datetime(row[8]),
    )


def chunks_of(connection: apsw.Connection, document_key: int, text: str) -> tuple[Chunk, ...]:
    """The live chunks of a document, in order. Where the text is shorter than it was written, the last ones are cut off, or empty."""
    rows = each(
        connection, "SELECT id, ordinal, start_offset, end_offset FROM chunk WHERE document_key = ? AND live ORDER BY ordinal", (document_key,)
    )
    return tuple(Chunk(ChunkId(chunk_id), ordinal, text[start:end], start, end) for chunk_id, ordinal, start, end in rows)


def get(connection: apsw.Connection, key: ProjectKey, document_id: DocumentId) -> Document:
    """One document with its text and chunks. Raises NotFoundError."""
    row = first(
        connection,
        f"SELECT {_COLUMNS}, text FROM document WHERE project_key = ? AND id = ? AND deleted = 0",  # noqa: S608 - constant columns
        (key.value, document_id),
    )
    if row is None:
        raise NotFoundError(f"there is no document {document_id!r} in this project", reason="DOCUMENT_NOT_FOUND")
    return from_row(row, row[-1], chunks_of(connection, row[0], row[-1]))


def page(connection: apsw.Connection, key: ProjectKey, after: str, limit: int) -> list[Document]:
    """Documents whose ids come after `after`, in order, without text and chunks."""
    rows = each(
        connection,
        f"SELECT {_COLUMNS} FROM document WHERE project_key = ? AND id > ? AND deleted = 0 ORDER BY id LIMIT ?",  # noqa: S608 - constant columns
        (key.value, after, limit),
    )
    return [from_row(row) for row in rows]

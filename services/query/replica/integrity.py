"""Checksums of rows and vectors: what tells that a value on disk is no longer the one that was written.

SQLite notices pages that make no sense, and nothing else: a byte that flips inside a text or a number is a value like any other to it. So each row
carries a checksum of its values, and each vector one of its numbers. They are compared when the replica is opened, and whenever it is verified.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Sequence

import apsw

from shared.errors import CorruptionError

Value = str | int | None

# The columns that a row's checksum is made of, in order.
_COLUMNS = {
    "setting": ("name", "value"),
    "project": (
        *("id", "settings", "documents_epoch", "documents_sequence", "vectors_epoch", "vectors_sequence"),
        *("head", "vector_sequence", "vectors_file", "dimension", "vectors_dropped"),
    ),
    "document": ("project", "id", "title", "metadata", "sequence", "content_hash", "create_time", "update_time"),
    "chunk": ("project", "id", "document", "ordinal", "start_offset", "end_offset", "text"),
}


def row_checksum(*values: Value) -> int:
    """The checksum of a row's values, in the order of the table's list above. True and False count as 1 and 0, as SQLite has them."""
    texts = ["" if value is None else str(int(value)) if isinstance(value, bool) else str(value) for value in values]
    return zlib.crc32("\0".join(texts).encode())


def vector_checksum(pk: int, slot: int, numbers: bytes) -> int:
    """The checksum of a chunk's vector in its slot: a slot that stands for another chunk is noticed, too."""
    return zlib.crc32(numbers, zlib.crc32(b"%d %d" % (pk, slot)))


def check_rows(connection: apsw.Connection) -> None:
    """Raises CorruptionError if a row is not as it was written. 100,000 chunks take a fifth of a second."""
    for table in _COLUMNS:
        if any(True for _ in _damaged(connection.execute(f"SELECT '', {_values(table)} FROM {table} t"))):  # noqa: S608 - constant columns
            raise CorruptionError(f"a row of the replica's table {table} is damaged")


def damaged_documents(connection: apsw.Connection, project: int) -> set[str]:
    """Ids of documents of a project that are not as they were written, or whose chunks are not."""
    documents = f"SELECT CAST(t.id AS BLOB), {_values('document')} FROM document t WHERE t.project = ?"  # noqa: S608 - constant columns
    chunks = f"SELECT CAST(d.id AS BLOB), {_values('chunk')} FROM document d JOIN chunk t ON t.document = d.pk WHERE d.project = ?"  # noqa: S608 - same
    return {name for sql in (documents, chunks) for name in _damaged(connection.execute(sql, (project,)))}


def _values(table: str) -> str:
    """The columns of a row (`t`) as bytes, since what is damaged need not be text any more, and its checksum."""
    return ", ".join([*(f"CAST(t.{column} AS BLOB)" for column in _COLUMNS[table]), "t.checksum"])


def _damaged(rows: Iterable[Sequence[bytes | int | None]]) -> Iterator[str]:
    """The first column of those rows whose last one is not the checksum of the others."""
    for name, *values, checksum in rows:
        if zlib.crc32(b"\0".join([value if isinstance(value, bytes) else b"" for value in values])) != checksum:
            yield name.decode(errors="replace") if isinstance(name, bytes) else ""

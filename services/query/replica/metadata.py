"""Which chunks match a filter: the metadata of a project's documents, by field, in memory.

A condition is answered for the distinct values of its field, and spread over the documents that hold them by numpy: what matches is what
`shared.filters` defines, and 100,000 documents take about a millisecond.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from functools import reduce

import numpy as np
from numpy.typing import NDArray

from services.query.replica.column import Column
from services.query.replica.documents import Delta
from services.query.replica.growing import GrowingArray
from services.query.replica.model import Pks
from shared.domain import Metadata, MetadataValue
from shared.filters import AllOf, AnyOf, Filter, Negation

_NOBODY = -1
# Replaced and removed documents leave holes; beyond this many, and more holes than documents, `worn` asks for a fresh index.
_HOLES_TO_KEEP = 10_000
# Documents whose metadata is put into the columns at a time.
_BLOCK = 10_000


class MetadataIndex:
    """The metadata of one project. Not safe for several threads.

    A document is a row of each column that it has a field for; written again, it has another row, and nothing refers to the old one.

    Args:
        documents: (key, metadata).
        chunks: (key, key of the document), by rising key.
    """

    def __init__(self, documents: Iterable[tuple[int, Metadata]], chunks: Iterable[tuple[int, int]]) -> None:
        self._row_of_document: dict[int, int] = {}
        self._document_of_row = GrowingArray(np.int64)
        self._columns: dict[str, Column] = {}
        self._chunks = GrowingArray(np.int64)
        self._row_of_chunk = GrowingArray(np.int32)
        self._holes = 0
        self._put(documents)
        self._add_chunks(chunks)

    @property
    def worn(self) -> bool:
        """There are so many holes that building the index again pays."""
        return self._holes > max(_HOLES_TO_KEEP, len(self._row_of_document))

    def apply(self, delta: Delta) -> None:
        """Follows a transaction."""
        self._put(delta.documents)
        self._add_chunks(delta.chunks)
        if delta.removed_chunks:
            removed = np.array(delta.removed_chunks, dtype=np.int64)
            self._row_of_chunk.view[np.searchsorted(self._chunks.view, removed)] = _NOBODY
            self._holes += removed.size
        for key in delta.removed_documents:
            del self._row_of_document[key]
            self._holes += 1

    def select(self, condition: Filter) -> Pks:
        """Keys of the chunks whose document matches, rising."""
        # The last element answers for `_NOBODY`, which removed chunks have for a row.
        matches = np.append(self._rows(condition), np.False_)
        return self._chunks.view[matches[self._row_of_chunk.view]]

    def documents_of(self, chunks: Sequence[int]) -> dict[int, int]:
        """The keys of the documents of those chunks that are there, by the chunk's key."""
        known, wanted = self._chunks.view, np.array(chunks, dtype=np.int64)
        if not known.size or not wanted.size:
            return {}
        places = np.minimum(np.searchsorted(known, wanted), known.size - 1)
        rows = np.where(known[places] == wanted, self._row_of_chunk.view[places], _NOBODY)
        there = rows != _NOBODY
        return dict(zip(wanted[there].tolist(), self._document_of_row.view[rows[there]].tolist(), strict=True))

    def _put(self, documents: Iterable[tuple[int, Metadata]]) -> None:
        """Gives each document a new row, and its chunks, too."""
        replaced: dict[int, int] = {}
        entries: dict[str, list[tuple[int, MetadataValue]]] = {}
        keys: list[int] = []
        waiting = 0
        for key, metadata in documents:
            row = len(self._document_of_row) + len(keys)
            keys.append(key)
            before = self._row_of_document.get(key)
            if before is not None:
                replaced[before] = key
            self._row_of_document[key] = row
            for name, value in metadata.items():
                entries.setdefault(name, []).append((row, value))
            waiting += 1
            if waiting == _BLOCK:
                self._extend(keys, entries)
                waiting = 0
        self._extend(keys, entries)
        if replaced:
            self._holes += len(replaced)
            moved = np.arange(len(self._document_of_row) + 1, dtype=np.int32)
            moved[_NOBODY] = _NOBODY
            moved[list(replaced)] = [self._row_of_document[key] for key in replaced.values()]
            self._row_of_chunk.view[:] = moved[self._row_of_chunk.view]

    def _extend(self, keys: list[int], entries: dict[str, list[tuple[int, MetadataValue]]]) -> None:
        self._document_of_row.extend(keys)
        for name, values in entries.items():
            self._columns.setdefault(name, Column(name)).extend(values)
        keys.clear()
        entries.clear()

    def _add_chunks(self, chunks: Iterable[tuple[int, int]]) -> None:
        added = list(chunks)
        self._chunks.extend([chunk for chunk, _ in added])
        self._row_of_chunk.extend([self._row_of_document[document] for _, document in added])

    def _rows(self, condition: Filter) -> NDArray[np.bool_]:
        """Which rows match; the answer for rows that nothing refers to is arbitrary, because they have no chunks."""
        count = len(self._document_of_row)
        match condition:
            case AllOf(filters):
                return reduce(operator.and_, (self._rows(part) for part in filters), np.ones(count, dtype=np.bool_))
            case AnyOf(filters):
                return reduce(operator.or_, (self._rows(part) for part in filters), np.zeros(count, dtype=np.bool_))
            case Negation(inner):
                return ~self._rows(inner)
            case _:
                column = self._columns.get(condition.field)
                return np.zeros(count, dtype=np.bool_) if column is None else column.rows(condition, count)

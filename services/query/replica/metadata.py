"""Which chunks match a filter: the metadata of a project's documents, by column, in memory.

A condition is evaluated once for each distinct value of its field, with the one definition in `shared.filters`, and spread over the documents
that hold the value by numpy. So 100,000 documents take milliseconds unless nearly all hold different values in the field that is asked for.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable
from functools import reduce

import numpy as np
from numpy.typing import NDArray

from services.query.replica.documents import Delta
from services.query.replica.growing import GrowingArray
from services.query.replica.model import Pks
from shared.domain import Metadata, MetadataValue
from shared.filters import AllOf, AnyOf, Comparison, Filter, Membership, Negation, compile_filter

_NOBODY = -1
# Replaced and removed documents leave holes; beyond this many, and more holes than documents, `worn` asks for a fresh index.
_HOLES_TO_KEEP = 10_000


def _identity(value: MetadataValue) -> object:
    """What makes two values the same entry of the table: 1, 1.0 and True are equal in Python and are not here."""
    return tuple((type(part), part) for part in value) if isinstance(value, tuple) else (type(value), value)


class MetadataIndex:
    """The metadata of one project. Not safe for several threads.

    Every (field, value) pair that occurs has a number. Documents are rows; `_pair_of_entry` and `_row_of_entry` say which pairs a row has.
    """

    def __init__(self, documents: Iterable[tuple[int, Metadata]], chunks: Iterable[tuple[int, int]]) -> None:
        self._row_of_document: dict[int, int] = {}
        self._entries_of_row: list[tuple[int, int]] = []
        self._pairs: dict[tuple[str, object], int] = {}
        self._fields: dict[str, list[tuple[int, MetadataValue]]] = {}
        self._pair_of_entry = GrowingArray(np.int32)
        self._row_of_entry = GrowingArray(np.int32)
        self._chunks = GrowingArray(np.int64)
        self._row_of_chunk = GrowingArray(np.int32)
        self._holes = 0
        for key, metadata in documents:
            self._put(key, metadata)
        self._add_chunks(chunks)

    @property
    def worn(self) -> bool:
        """There are so many holes that building the index again pays."""
        return self._holes > max(_HOLES_TO_KEEP, len(self._row_of_document))

    def apply(self, delta: Delta) -> None:
        """Follows a transaction."""
        for key, metadata in delta.documents:
            self._put(key, metadata)
        self._add_chunks(delta.chunks)
        if delta.removed_chunks:
            chunks = self._chunks.view
            removed = np.array(delta.removed_chunks, dtype=np.int64)
            self._row_of_chunk.view[np.searchsorted(chunks, removed)] = _NOBODY
            self._holes += removed.size
        for key in delta.removed_documents:
            self._clear(self._row_of_document.pop(key))

    def select(self, condition: Filter) -> Pks:
        """Keys of the chunks whose document matches, rising."""
        # The last element answers for `_NOBODY`, which removed chunks have for a row.
        matches = np.append(self._rows(condition), np.False_)
        return self._chunks.view[matches[self._row_of_chunk.view]]

    def _put(self, key: int, metadata: Metadata) -> None:
        row = self._row_of_document.get(key)
        if row is None:
            row = self._row_of_document[key] = len(self._entries_of_row)
            self._entries_of_row.append((0, 0))
        else:
            self._clear(row)
        pairs = [self._pair(name, value) for name, value in metadata.items()]
        start = len(self._pair_of_entry)
        self._pair_of_entry.extend(pairs)
        self._row_of_entry.extend([row] * len(pairs))
        self._entries_of_row[row] = (start, start + len(pairs))

    def _clear(self, row: int) -> None:
        start, end = self._entries_of_row[row]
        self._row_of_entry.view[start:end] = _NOBODY
        self._holes += 1

    def _pair(self, name: str, value: MetadataValue) -> int:
        pair = self._pairs.setdefault((name, _identity(value)), len(self._pairs))
        values = self._fields.setdefault(name, [])
        if pair == len(self._pairs) - 1 and (not values or values[-1][0] != pair):
            values.append((pair, value))
        return pair

    def _add_chunks(self, chunks: Iterable[tuple[int, int]]) -> None:
        added = list(chunks)
        self._chunks.extend([chunk for chunk, _ in added])
        self._row_of_chunk.extend([self._row_of_document[document] for _, document in added])

    def _rows(self, condition: Filter) -> NDArray[np.bool_]:
        """Which rows match; the answer for rows whose document is gone is arbitrary, because they have no chunks."""
        match condition:
            case AllOf(filters):
                return reduce(operator.and_, (self._rows(part) for part in filters), np.ones(len(self._entries_of_row), dtype=np.bool_))
            case AnyOf(filters):
                return reduce(operator.or_, (self._rows(part) for part in filters), np.zeros(len(self._entries_of_row), dtype=np.bool_))
            case Negation(inner):
                return ~self._rows(inner)
            case Comparison() | Membership():
                return self._leaf(condition)

    def _leaf(self, condition: Comparison | Membership) -> NDArray[np.bool_]:
        predicate, name = compile_filter(condition), condition.field
        wanted = np.zeros(len(self._pairs), dtype=np.bool_)
        wanted[[pair for pair, value in self._fields.get(name, ()) if predicate({name: value})]] = True
        # One place more than rows: the last one takes the entries of `_NOBODY`. A row without the field does not match.
        rows = np.zeros(len(self._entries_of_row) + 1, dtype=np.bool_)
        rows[self._row_of_entry.view[wanted[self._pair_of_entry.view]]] = True
        return rows[:-1]

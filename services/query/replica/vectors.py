"""The vectors of one project: a memory-mapped float32 file with a slot a chunk, searched exactly.

Which chunk a slot belongs to is kept in SQLite, not here. The order that makes a crash harmless: `prepare` writes vectors to free slots and
flushes them to disk; then the caller commits the slots; then `publish` lets searches see them. A slot is free again only after `remove`, which the
caller calls once the chunk's removal is committed. So a committed slot always holds the vector of its chunk.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from services.query.replica.integrity import vector_checksum
from services.query.replica.model import Pks, ScoredPk
from shared.domain import Vector, Vectors
from shared.errors import CorruptionError, ResourceExhaustedError

_FIRST_CAPACITY = 256
_FLOAT_BYTES = 4
# Gathering two fifths of the rows costs as much as one product over all of them (100,000 × 384: 10,000 rows 1.5 ms, 40,000 5.5 ms, all 5.6 ms).
_LARGEST_GATHER = 0.4
# Rows gathered at a time, so that they are still in the processor's cache when they are multiplied (all at once cost 1.6 to 2 times as much).
_GATHER_BLOCK = 1_024


@dataclass(frozen=True, slots=True)
class _Snapshot:
    """What a search works on, never changed after it is made: `pks` rise, and `pks[i]` has its vector in `matrix[slots[i]]`."""

    matrix: NDArray[np.float32]
    pks: Pks
    slots: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Prepared:
    """Vectors that are on disk and that nobody sees yet: the checksum of each is to be committed with its slot."""

    pks: Pks
    slots: NDArray[np.int64]
    checksums: tuple[int, ...]


class ProjectVectors:
    """Vectors of one dimension. Any number of threads may search while one thread changes.

    Args:
        path: the file; made when it is not there.
        dimension: numbers a vector.
        pks: chunks that have a vector, rising.
        slots: where their vectors stand.

    Raises:
        CorruptionError: the file does not have a slot that it should have.
    """

    def __init__(self, path: Path, dimension: int, pks: Pks, slots: Pks) -> None:
        self._path = path
        self.dimension = dimension
        used = int(slots.max()) + 1 if slots.size else 0
        capacity = path.stat().st_size // (dimension * _FLOAT_BYTES) if path.exists() else 0
        if capacity < used or np.unique(slots).size != slots.size:
            raise CorruptionError("the replica's vectors are damaged")
        self._mapped = self._map(capacity or _FIRST_CAPACITY)
        self._snapshot = _Snapshot(np.asarray(self._mapped), pks, slots)
        self._used = used
        taken = np.zeros(used, dtype=np.bool_)
        taken[slots] = True
        self._free: list[int] = np.flatnonzero(~taken).tolist()

    def __len__(self) -> int:
        return self._snapshot.pks.size

    def prepare(self, pks: Pks, vectors: Vectors) -> Prepared:
        """Writes the vectors of chunks (rising keys) to free slots and flushes them. A chunk that has this very vector already is left out.

        Raises ResourceExhaustedError when the disk is full; nothing has changed then.
        """
        snapshot = self._snapshot
        there, places = _find(snapshot.pks, pks)
        same = np.zeros(pks.size, dtype=np.bool_)
        same[there] = (snapshot.matrix[snapshot.slots[places[there]]] == vectors[there]).all(axis=1)
        pks, vectors = pks[~same], vectors[~same]
        reused = self._free[: pks.size]
        fresh = range(self._used, self._used + pks.size - len(reused))
        slots = np.array([*reused, *fresh], dtype=np.int64)
        if not slots.size:
            return Prepared(pks, slots, ())
        self._reserve(self._used + len(fresh))
        self._mapped[slots] = vectors
        self._mapped.flush()
        # Of what was to be written, not of what stands there now.
        checksums = (vector_checksum(pk, slot, row.tobytes()) for pk, slot, row in zip(pks.tolist(), slots.tolist(), vectors, strict=True))
        return Prepared(pks, slots, tuple(checksums))

    def damaged(self, pks: Pks, slots: Pks, checksums: Pks) -> Pks:
        """Those of the keys whose slots do not hold what their checksums say; all as they are committed. 100,000 vectors take a fifth of a second."""
        matrix = self._snapshot.matrix
        rows = zip(pks.tolist(), slots.tolist(), checksums.tolist(), strict=True)
        wrong = [slot >= len(matrix) or vector_checksum(pk, slot, matrix[slot].tobytes()) != checksum for pk, slot, checksum in rows]
        return pks[np.array(wrong, dtype=np.bool_)]

    def publish(self, prepared: Prepared) -> None:
        """Lets searches see prepared vectors, whose slots must be committed. Slots that their chunks had before are free."""
        if not prepared.pks.size:
            return
        taken = set(prepared.slots.tolist())
        self._free = [slot for slot in self._free if slot not in taken]
        self._used = max(self._used, int(prepared.slots.max()) + 1)
        self.remove(prepared.pks)
        snapshot = self._snapshot
        places = np.searchsorted(snapshot.pks, prepared.pks)
        pks = np.insert(snapshot.pks, places, prepared.pks)
        self._snapshot = _Snapshot(snapshot.matrix, pks, np.insert(snapshot.slots, places, prepared.slots))

    def remove(self, pks: Pks) -> None:
        """Forgets chunks, whose removal must be committed, and frees their slots; unknown keys do not matter."""
        snapshot = self._snapshot
        there, places = _find(snapshot.pks, pks)
        if not there.any():
            return
        gone = np.unique(places[there])
        self._snapshot = _Snapshot(snapshot.matrix, np.delete(snapshot.pks, gone), np.delete(snapshot.slots, gone))
        self._free.extend(snapshot.slots[gone].tolist())

    def top_k(self, query: Vector, limit: int, allowed: Pks | None = None) -> list[ScoredPk]:
        """The chunks with the largest scalar product, largest first; equal ones by rising key.

        Args:
            query: shape `(dimension,)`, of unit length, so that the product is the cosine.
            limit: the most chunks to return, at least 1.
            allowed: rising keys; others are left out.
        """
        snapshot = self._snapshot
        pks, slots = snapshot.pks, snapshot.slots
        if allowed is not None:
            there, places = _find(pks, allowed)
            pks, slots = allowed[there], slots[places[there]]
        if not pks.size:
            return []
        used = int(snapshot.slots.max()) + 1
        few = slots.size <= _LARGEST_GATHER * used
        scores = _gathered_product(snapshot.matrix, slots, query) if few else (snapshot.matrix[:used] @ query)[slots]
        return _best(pks, scores, limit)

    def gather(self, pks: Pks) -> tuple[Pks, Vectors]:
        """Those of the keys that have a vector, in their order, and a copy of the vectors, shape `(n, dimension)`."""
        snapshot = self._snapshot
        there, places = _find(snapshot.pks, pks)
        return pks[there], np.asarray(snapshot.matrix[snapshot.slots[places[there]]])

    def _reserve(self, slots: int) -> None:
        matrix = self._snapshot.matrix
        if slots > len(matrix):
            capacity = len(matrix)
            while capacity < slots:
                capacity *= 2
            self._mapped = self._map(capacity)
            self._snapshot = _Snapshot(np.asarray(self._mapped), self._snapshot.pks, self._snapshot.slots)

    def _map(self, capacity: int) -> np.memmap[tuple[int, int], np.dtype[np.float32]]:
        # Blocks are reserved now: writing through a mapping to a sparse file on a full disk would end the process with SIGBUS.
        file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            os.posix_fallocate(file, 0, capacity * self.dimension * _FLOAT_BYTES)
            os.fsync(file)
        except OSError as error:
            raise ResourceExhaustedError("the disk of the replica is full: free space", retry_after=30.0, reason="DISK_FULL") from error
        finally:
            os.close(file)
        return np.memmap(self._path, dtype=np.float32, mode="r+", shape=(capacity, self.dimension))


def _find(sorted_pks: Pks, wanted: Pks) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Which of the wanted keys are there, and where they stand (arbitrary for the others)."""
    if not sorted_pks.size:
        return np.zeros(wanted.size, dtype=np.bool_), np.zeros(wanted.size, dtype=np.int64)
    places = np.minimum(np.searchsorted(sorted_pks, wanted), sorted_pks.size - 1)
    return sorted_pks[places] == wanted, places


def _gathered_product(matrix: NDArray[np.float32], rows: NDArray[np.int64], query: Vector) -> NDArray[np.float32]:
    """`matrix[rows] @ query`."""
    products = np.empty(rows.size, np.float32)
    buffer = np.empty((min(rows.size, _GATHER_BLOCK), matrix.shape[1]), np.float32)
    for start in range(0, rows.size, _GATHER_BLOCK):
        block = rows[start : start + _GATHER_BLOCK]
        part = buffer[: block.size]
        np.take(matrix, block, axis=0, out=part, mode="clip")  # unlike "raise", "clip" writes to the buffer directly
        np.dot(part, query, out=products[start : start + block.size])
    return products


def _best(pks: Pks, scores: NDArray[np.float32], limit: int) -> list[ScoredPk]:
    if scores.size > limit:
        # Everything that is as good as the last place stays, so that the key decides between equals and not the layout.
        candidates = np.flatnonzero(scores >= np.partition(scores, scores.size - limit)[scores.size - limit])
        pks, scores = pks[candidates], scores[candidates]
    order = np.lexsort((pks, -scores))[:limit]
    return [ScoredPk(pk, score) for pk, score in zip(pks[order].tolist(), scores[order].tolist(), strict=True)]

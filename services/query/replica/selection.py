"""Which chunks a filter selects, remembered for as long as nothing changes that."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from cachetools import LRUCache

from services.query.replica.metadata import MetadataIndex
from services.query.replica.model import Pks
from services.query.replica.state import ProjectState
from shared.filters import Filter

# Answers that are remembered, in all: 8 bytes a chunk and answer.
_BYTES = 32_000_000
_BYTES_AN_ANSWER = 500


class Selections:
    """Answers from the metadata of projects. May be used by any number of threads.

    Args:
        read: reads the metadata of the project with this key, if a failed write has left none.
    """

    def __init__(self, read: Callable[[int], MetadataIndex]) -> None:
        self._read = read
        self._answers: LRUCache[tuple[int, int, str], tuple[Pks, int]] = LRUCache(_BYTES, getsizeof=lambda answer: answer[1])
        self._lock = threading.Lock()

    def allowed(self, state: ProjectState, condition: Filter) -> Pks:
        """Keys of the chunks whose document matches, rising; the array cannot be written to."""
        with state.lock:
            # The text of a filter tells 1 from 1.0 and True, which are equal, and hash alike, in Python.
            key = (state.row.key, state.selection, repr(condition))
            with self._lock:
                known = self._answers.get(key)
            if known is not None:
                return known[0]
            pks = self._metadata(state).select(condition)
        pks.setflags(write=False)
        # A filter may name thousands of values, and its text is a part of the key.
        size = pks.nbytes + 4 * len(key[2]) + _BYTES_AN_ANSWER
        with self._lock:
            if size <= _BYTES:
                self._answers[key] = (pks, size)
        return pks

    def documents_of(self, state: ProjectState, pks: Sequence[int]) -> dict[int, int]:
        """The keys of the documents of those chunks that are current, by the chunk's key."""
        with state.lock:
            return self._metadata(state).documents_of(pks)

    def _metadata(self, state: ProjectState) -> MetadataIndex:
        """The project's metadata; the caller holds its lock."""
        if state.metadata is None:
            state.metadata = self._read(state.row.key)
        return state.metadata

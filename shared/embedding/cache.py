"""Remembers vectors of texts that were embedded before, in a bounded number of bytes."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence

import numpy as np
from cachetools import LRUCache
from opentelemetry.trace import Span

from shared.domain import Vector, Vectors
from shared.observability import tracing
from shared.ports import Embedder

_tracer = tracing.get_tracer(__name__)
_Key = tuple[str, str]
# What CPython takes for an entry beside its text and its numbers (tuples, array header, dictionary slots): measured with tracemalloc, rounded up.
_ENTRY_BYTES = 400


def _ignore(_: int) -> None:
    """Counts nothing."""


def normalise(text: str) -> str:
    """The text in Unicode form NFC, without whitespace at either end: texts that look the same are the same."""
    return unicodedata.normalize("NFC", text.strip())


def _size(key: _Key, vector: Vector) -> int:
    """Bytes of an entry. A text takes up to 4 bytes a character."""
    return _ENTRY_BYTES + 4 * len(key[1]) + vector.nbytes


class CachingEmbedder:
    """Wraps an embedder; the least recently used vectors make room for new ones. Satisfies `shared.ports.Embedder`.

    Texts are embedded in their normalised form (see `normalise`), so that an answer does not depend on which spelling came first. Use it
    from one event loop.

    Args:
        inner: The embedder.
        max_bytes: Bound of the cache in bytes, keys and overhead included.
        on_hit: Called with the number of texts that were answered from the cache, or by another text of the same call.
        on_miss: Called with the number of texts that are handed to `inner`.
    """

    def __init__(self, inner: Embedder, max_bytes: int, *, on_hit: Callable[[int], None] = _ignore, on_miss: Callable[[int], None] = _ignore) -> None:
        self._inner = inner
        self._on_hit = on_hit
        self._on_miss = on_miss
        self._vectors: LRUCache[_Key, tuple[Vector, int]] = LRUCache(max_bytes, getsizeof=lambda entry: entry[1])

    @property
    def model(self) -> str:
        """Name of the model."""
        return self._inner.model

    @property
    def dimension(self) -> int:
        """Numbers a vector."""
        return self._inner.dimension

    @property
    def size_bytes(self) -> int:
        """Bytes that the cache holds now."""
        return int(self._vectors.currsize)

    async def embed(self, texts: Sequence[str]) -> Vectors:
        """Vectors of unit length, float32, shape `(len(texts), dimension)`; the caller owns the array.

        Raises what `inner` raises; nothing is remembered of a call that failed.
        """
        with _tracer.start_as_current_span("EmbeddingEngine.embed") as span:
            return await self._embed(texts, span)

    async def _embed(self, texts: Sequence[str], span: Span) -> Vectors:
        model = self._inner.model
        keys = [(model, normalise(text)) for text in texts]
        found: dict[_Key, Vector] = {key: entry[0] for key in keys if (entry := self._vectors.get(key)) is not None}
        missing = [key for key in dict.fromkeys(keys) if key not in found]
        if span.is_recording():
            span.set_attributes({"kb.model": model, "kb.batch_size": len(keys), "kb.cache.hits": len(keys) - len(missing)})
        self._on_hit(len(keys) - len(missing))
        if missing:
            self._on_miss(len(missing))
            embedded = await self._inner.embed([text for _, text in missing])
            found.update(zip(missing, embedded, strict=True))
            for key in missing:
                self._remember(key, found[key])
        if not keys:
            return np.empty((0, self.dimension), np.float32)
        return np.stack([found[key] for key in keys])

    def _remember(self, key: _Key, vector: Vector) -> None:
        """Keeps a copy, which does not hold the memory of a whole batch, unless it alone is larger than the cache."""
        size = _size(key, vector)
        if size <= self._vectors.maxsize:
            self._vectors[key] = (vector.copy(), size)

"""The vector store in memory, with exact search, and with switches for what can go wrong."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Collection, Sequence

import numpy as np

from shared.domain import ChunkId, Vector, Vectors
from shared.errors import CollectionNotFoundError, VectorStoreError, VectorStoreUnavailableError
from shared.ports import ScoredChunk


class FakeVectorStore:
    """Satisfies `shared.ports.VectorStore`.

    Attributes:
        calls: How often each operation was called, failed calls included.
        collections: Vectors by collection and chunk id.
        miscounts: By how much too many `count` says of a collection.
        poison: Ids that no write may have: a write with one of them is refused as a whole.
    """

    def __init__(self) -> None:
        self.collections: dict[str, dict[ChunkId, Vector]] = {}
        self.calls: Counter[str] = Counter()
        self.miscounts: Counter[str] = Counter()
        self.poison: set[ChunkId] = set()
        self._errors: dict[str | None, tuple[Exception, int | None]] = {}
        self._hung: asyncio.Event | None = None
        self._called: dict[str, asyncio.Event] = {}

    def fail(self, error: Exception | None = None, *, times: int | None = None, operation: str | None = None) -> None:
        """From now on calls (of one operation, or all) raise the error, `times` times or until `heal`."""
        self._errors[operation] = (error or VectorStoreUnavailableError("The vector store does not answer."), times)

    def hang(self) -> None:
        """From now on calls end at their time limit."""
        self._hung = asyncio.Event()

    def heal(self) -> None:
        """Ends `fail` and `hang`; calls that hang go on."""
        self._errors.clear()
        if self._hung is not None:
            self._hung.set()
            self._hung = None

    async def called(self, operation: str) -> None:
        """Waits until the operation is called once more than now."""
        await self._called.setdefault(operation, asyncio.Event()).wait()

    async def query(self, collection: str, vector: Vector, limit: int, *, timeout: float) -> Sequence[ScoredChunk]:
        """See VectorReader. Exact; equal similarities by chunk id."""
        await self._pass("query", timeout)
        stored = self._collection(collection)
        if limit < 1 or not stored:
            return ()
        self._check_dimension(stored, vector)
        matrix = np.stack(list(stored.values()))
        scores = (matrix @ vector) / np.maximum(np.linalg.norm(matrix, axis=1) * np.linalg.norm(vector), 1e-12)
        hits = (ScoredChunk(chunk_id, float(score)) for chunk_id, score in zip(stored, scores, strict=True))
        return tuple(sorted(hits, key=lambda hit: (-hit.score, hit.chunk_id))[:limit])

    async def ping(self, *, timeout: float) -> None:
        """See VectorReader."""
        await self._pass("ping", timeout)

    async def ensure_collection(self, collection: str, *, timeout: float) -> None:
        """See VectorWriter."""
        await self._pass("ensure_collection", timeout)
        self.collections.setdefault(collection, {})

    async def drop_collection(self, collection: str, *, timeout: float) -> None:
        """See VectorWriter."""
        await self._pass("drop_collection", timeout)
        self.collections.pop(collection, None)

    async def add(self, collection: str, chunk_ids: Sequence[ChunkId], vectors: Vectors, *, timeout: float) -> None:
        """See VectorWriter."""
        await self._pass("add", timeout)
        if len(chunk_ids) != len(vectors):
            raise VectorStoreError(f"{len(chunk_ids)} ids for {len(vectors)} vectors.")
        stored = self._collection(collection)
        if not self.poison.isdisjoint(chunk_ids) or not np.isfinite(vectors).all():
            raise VectorStoreError("The vector store refuses the request.")
        for chunk_id, vector in zip(chunk_ids, vectors, strict=True):
            self._check_dimension(stored, vector)
            stored.setdefault(chunk_id, np.array(vector, np.float32))

    async def delete(self, collection: str, chunk_ids: Sequence[ChunkId], *, timeout: float) -> None:
        """See VectorWriter."""
        await self._pass("delete", timeout)
        stored = self._collection(collection)
        if not self.poison.isdisjoint(chunk_ids):
            raise VectorStoreError("The vector store refuses the request.")
        for chunk_id in chunk_ids:
            stored.pop(chunk_id, None)

    async def count(self, collection: str, *, timeout: float) -> int:
        """See VectorWriter."""
        await self._pass("count", timeout)
        return len(self._collection(collection)) + self.miscounts[collection]

    async def existing(self, collection: str, chunk_ids: Sequence[ChunkId], *, timeout: float) -> Collection[ChunkId]:
        """See VectorWriter."""
        await self._pass("existing", timeout)
        stored = self._collection(collection)
        return {chunk_id for chunk_id in chunk_ids if chunk_id in stored}

    async def list_ids(self, collection: str, *, offset: int, limit: int, timeout: float) -> Sequence[ChunkId]:
        """See VectorWriter. In the order in which they were added."""
        await self._pass("list_ids", timeout)
        return tuple(self._collection(collection))[offset : offset + limit]

    async def list_collections(self, *, timeout: float) -> Sequence[str]:
        """See VectorWriter."""
        await self._pass("list_collections", timeout)
        return tuple(self.collections)

    def _collection(self, name: str) -> dict[ChunkId, Vector]:
        try:
            return self.collections[name]
        except KeyError:
            raise CollectionNotFoundError("The vector store does not have the collection.") from None

    @staticmethod
    def _check_dimension(stored: dict[ChunkId, Vector], vector: Vector) -> None:
        if stored and next(iter(stored.values())).shape != vector.shape:
            raise VectorStoreError("The vector store refuses the request.")

    async def _pass(self, operation: str, timeout: float) -> None:
        """Raises or hangs as told; otherwise lets other tasks run once, as a network call would."""
        self.calls[operation] += 1
        if operation in self._called:
            self._called.pop(operation).set()
        await asyncio.sleep(0)
        if self._hung is not None:
            try:
                await asyncio.wait_for(self._hung.wait(), timeout)
            except TimeoutError as error:
                raise VectorStoreUnavailableError("The vector store does not answer.") from error
        for key in (operation, None):
            if key in self._errors:
                told, times = self._errors[key]
                if times == 1:
                    del self._errors[key]
                elif times is not None:
                    self._errors[key] = (told, times - 1)
                raise told

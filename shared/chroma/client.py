"""ChromaDB as a `shared.ports.VectorStore`. No retry and no breaker in here: resilient.py wraps them around."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from functools import partial
from typing import TypeVar
from urllib.parse import quote

import numpy as np
from cachetools import LRUCache
from opentelemetry.trace import TracerProvider

from shared.chroma import wire
from shared.chroma.transport import Transport
from shared.chroma.wire import HnswSettings
from shared.domain import ChunkId, Vector, Vectors
from shared.errors import CollectionNotFoundError, VectorStoreError, VectorStoreUnavailableError
from shared.ports import ScoredChunk

T = TypeVar("T")

SERVER_MAX_BATCH = 5461  # ids a request, from `/api/v2/pre-flight-checks` of 1.5.9
_KNOWN_COLLECTIONS = 10_000  # names whose id is remembered, about 2 MB
_PAGE = 1_000  # collections a page when listing; 1.4 KB each
_COSINE = "cosine"


class ChromaClient:
    """Speaks to a local `chroma run`, a Chroma server, distributed Chroma or Chroma Cloud.

    A collection's name is resolved to the server's id once and remembered. When the id turns out to be unknown (somebody deleted the collection,
    and perhaps made it again), the name is resolved once more before CollectionNotFoundError is raised.

    Every `timeout` is of the whole operation, however many requests it takes.

    Args:
        url: For example `http://127.0.0.1:8000`.
        tenant: ChromaDB's tenant; it must exist.
        database: ChromaDB's database in the tenant; it must exist.
        headers: Sent with every request, for example `{"x-chroma-token": …}`.
        ssl_context: For `https`, where the system's certificate authorities do not do.
        pool_size: Connections at most.
        connect_timeout: Seconds to establish a connection.
        batch_size: Vectors a request, at most what the server takes (5,461); 500 keeps its answer to other requests quick.
        hnsw: Settings of the collections that this client creates.
        tracer_provider: Where spans go; None is the global one.
    """

    def __init__(  # noqa: PLR0913 - settings of a connection, all but one by name and with defaults
        self,
        url: str,
        *,
        tenant: str = "default_tenant",
        database: str = "default_database",
        headers: Mapping[str, str] | None = None,
        ssl_context: ssl.SSLContext | None = None,
        pool_size: int = 64,
        connect_timeout: float = 1.0,
        batch_size: int = 500,
        hnsw: HnswSettings | None = None,
        tracer_provider: TracerProvider | None = None,
    ) -> None:
        self._transport = Transport(
            url, headers=headers or {}, ssl_context=ssl_context, pool_size=pool_size, connect_timeout=connect_timeout, tracer_provider=tracer_provider
        )
        self._collections = f"/tenants/{quote(tenant, safe='')}/databases/{quote(database, safe='')}/collections"
        self._batch_size = min(max(batch_size, 1), SERVER_MAX_BATCH)
        self._hnsw = hnsw or HnswSettings()
        self._ids: LRUCache[str, str] = LRUCache(_KNOWN_COLLECTIONS)

    async def close(self) -> None:
        """Closes all connections."""
        await self._transport.close()

    async def query(self, collection: str, vector: Vector, limit: int, *, timeout: float) -> Sequence[ScoredChunk]:
        """At most `limit` chunks by falling cosine similarity, approximately the nearest. All there are, if fewer."""
        if limit < 1:
            return ()
        body = wire.query_body(np.ascontiguousarray(vector, np.float32), limit)
        return await self._on_collection("query", "/query", collection, _until(timeout), wire.decode_hits, body)

    async def ping(self, *, timeout: float) -> None:
        """Returns when the heartbeat answers. Every other answer counts as unavailable, since what answers is then not ChromaDB."""
        try:
            await self._transport.call("heartbeat", "GET", "/heartbeat", until=_until(timeout), decode=wire.decode_heartbeat)
        except VectorStoreError as error:
            raise VectorStoreUnavailableError("The vector store does not answer as one.") from error.__cause__

    async def ensure_collection(self, collection: str, *, timeout: float) -> None:
        """Creates the collection unless it is there. Raises VectorStoreError when it is there with another distance than cosine."""
        body = wire.create_body(collection, self._hnsw)
        made = await self._transport.call(
            "create_collection", "POST", self._collections, body=body, until=_until(timeout), decode=wire.decode_collection
        )
        if made.space not in {_COSINE, None}:
            raise VectorStoreError(f"The collection {collection} is there with {made.space} distance; cosine is needed.")
        self._ids[collection] = made.id

    async def drop_collection(self, collection: str, *, timeout: float) -> None:
        """Drops the collection if it is there."""
        self._ids.pop(collection, None)
        path = f"{self._collections}/{quote(collection, safe='')}"
        try:
            await self._transport.call("delete_collection", "DELETE", path, until=_until(timeout), decode=wire.decode_object, collection=collection)
        except CollectionNotFoundError:
            return

    async def add(self, collection: str, chunk_ids: Sequence[ChunkId], vectors: Vectors, *, timeout: float) -> None:
        """Adds vectors in batches; ids that are there keep theirs. After an error some batches may be in."""
        if len(chunk_ids) != len(vectors):
            raise VectorStoreError(f"{len(chunk_ids)} ids for {len(vectors)} vectors.")
        until = _until(timeout)
        rows = np.ascontiguousarray(vectors, np.float32)
        for start in range(0, len(chunk_ids), self._batch_size):
            part = slice(start, start + self._batch_size)
            body = await asyncio.to_thread(wire.add_body, chunk_ids[part], rows[part])
            await self._on_collection("add", "/add", collection, until, wire.decode_object, body)

    async def delete(self, collection: str, chunk_ids: Sequence[ChunkId], *, timeout: float) -> None:
        """Deletes vectors in batches; ids that are not there are passed over. After an error some batches may be done."""
        until = _until(timeout)
        for start in range(0, len(chunk_ids), self._batch_size):
            body = wire.delete_body(chunk_ids[start : start + self._batch_size])
            await self._on_collection("delete", "/delete", collection, until, wire.decode_object, body)

    async def count(self, collection: str, *, timeout: float) -> int:
        """Vectors in the collection, those not yet in its graph included."""
        return await self._on_collection("count", "/count", collection, _until(timeout), wire.decode_count)

    async def existing(self, collection: str, chunk_ids: Sequence[ChunkId], *, timeout: float) -> Collection[ChunkId]:
        """Those of the ids that are there, asked for in batches. About 5 µs an id among 100,000."""
        until = _until(timeout)
        found: set[ChunkId] = set()
        for start in range(0, len(chunk_ids), self._batch_size):
            body = wire.ids_body(chunk_ids[start : start + self._batch_size])
            found.update(await self._on_collection("existing", "/get", collection, until, wire.decode_ids, body))
        return found

    async def list_ids(self, collection: str, *, offset: int, limit: int, timeout: float) -> Sequence[ChunkId]:
        """A page of ids. 100,000 take 2.1 s in pages of 1,000 and 0.2 s in pages of 20,000: the server walks to each page from the beginning."""
        return await self._on_collection("list_ids", "/get", collection, _until(timeout), wire.decode_ids, wire.page_body(offset, limit))

    async def list_collections(self, *, timeout: float) -> Sequence[str]:
        """Names of all collections of the database, page by page: one made or dropped meanwhile may be missed or named."""
        until = _until(timeout)
        names: dict[str, None] = {}
        offset = 0
        while True:
            path = f"{self._collections}?limit={_PAGE}&offset={offset}"
            page = await self._transport.call("list_collections", "GET", path, until=until, decode=wire.decode_collections)
            names.update(dict.fromkeys(item.name for item in page))
            if len(page) < _PAGE:
                return tuple(names)
            offset += _PAGE

    async def _on_collection(
        self, operation: str, action: str, collection: str, until: float, decode: Callable[[bytes], T], body: bytes | None = None
    ) -> T:
        """Calls an action of a collection by its id; resolves the name again when a remembered id is unknown to the server."""
        send: Callable[[str], Awaitable[T]] = partial(self._send, operation, action, collection, until, decode, body)
        if (known := self._ids.get(collection)) is not None:
            try:
                return await send(known)
            except CollectionNotFoundError:
                self._ids.pop(collection, None)
        found = await self._transport.call(
            "get_collection",
            "GET",
            f"{self._collections}/{quote(collection, safe='')}",
            until=until,
            decode=wire.decode_collection,
            collection=collection,
        )
        self._ids[collection] = found.id
        return await send(found.id)

    async def _send(
        self, operation: str, action: str, collection: str, until: float, decode: Callable[[bytes], T], body: bytes | None, collection_id: str
    ) -> T:
        return await self._transport.call(
            operation,
            "GET" if body is None else "POST",
            f"{self._collections}/{collection_id}{action}",
            until=until,
            decode=decode,
            body=body,
            collection=collection,
        )


def _until(timeout: float) -> float:
    """When `timeout` seconds are over, on the clock of the running event loop."""
    return asyncio.get_running_loop().time() + timeout

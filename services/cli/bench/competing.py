"""What a user would pick instead, as targets: bare ChromaDB with its official client, and LanceDB's hybrid search. Development extras."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import chromadb
from chromadb.config import Settings

from services.cli.bench.ask import Ask
from services.cli.bench.targets import Outcome, WithModel
from shared.domain import Vector
from shared.errors import ConfigurationError

COLLECTION = "bench"
TABLE = "bench"


class OfficialChroma(WithModel):
    """The query is embedded as our service does it, then `Collection.query` answers with text and metadata.

    By meaning alone: ChromaDB's own server has no keyword ranking.
    """

    def __init__(self, model_dir: str, concurrency: int, port: int) -> None:
        super().__init__(model_dir, concurrency)
        self._port = port

    async def open(self) -> None:
        """Loads the model and connects."""
        await super().open()
        await asyncio.to_thread(self._connect)

    def _connect(self) -> None:
        client = chromadb.HttpClient(host="127.0.0.1", port=self._port, settings=Settings(anonymized_telemetry=False))
        self._collection = client.get_collection(COLLECTION, embedding_function=None)

    async def prepare(self, ask: Ask) -> Ask:
        """Nothing: a user pays for all of it."""
        return ask

    async def send(self, prepared: Ask) -> Outcome:
        """Embeds and queries; the client blocks, so in a thread."""
        vector = await self.vector(prepared.query)
        where: Any = None if prepared.below is None else {"bucket": {"$lt": prepared.below}}
        found = await asyncio.to_thread(
            self._collection.query,
            query_embeddings=vector,
            n_results=prepared.top_k,
            where=where,
            include=["documents", "metadatas", "distances"],
        )
        return Outcome(tuple(found["ids"][0]))


class Lance(WithModel):
    """The query is embedded as our service does it, then LanceDB searches by meaning and keyword and fuses by reciprocal rank (k = 60)."""

    def __init__(self, model_dir: str, concurrency: int, path: str) -> None:
        super().__init__(model_dir, concurrency)
        self._path = path

    async def open(self) -> None:
        """Loads the model and opens the table."""
        await super().open()
        await asyncio.to_thread(self._connect)

    def _connect(self) -> None:
        lancedb, rerankers = require_lancedb()
        self._table = lancedb.connect(self._path).open_table(TABLE)
        self._reranker = rerankers.RRFReranker()

    async def prepare(self, ask: Ask) -> Ask:
        """Nothing: a user pays for all of it."""
        return ask

    async def send(self, prepared: Ask) -> Outcome:
        """Embeds and searches; the synchronous API blocks, so in a thread."""
        vector = await self.vector(prepared.query)
        return await asyncio.to_thread(self._search, prepared, vector)

    def _search(self, ask: Ask, vector: Vector) -> Outcome:
        if ask.mode == "vector":
            search = self._table.search(vector, vector_column_name="vector").distance_type("cosine")
        elif ask.mode == "keyword":
            search = self._table.search(ask.query, query_type="fts")
        else:
            search = self._table.search(query_type="hybrid").vector(vector).text(ask.query).distance_type("cosine").rerank(self._reranker)
        if ask.below is not None:
            search = search.where(f"bucket < {ask.below}", prefilter=True)
        found = search.select(["id", "title", "text", "package", "kind", "bucket", "year"]).limit(ask.top_k).to_arrow()
        return Outcome(tuple(found.column("id").to_pylist()))


def require_lancedb() -> tuple[Any, Any]:
    """LanceDB and its rerankers. Raises ConfigurationError that says how to install it."""
    os.environ.setdefault("LANCEDB_LOG", "error")  # it warns of every search that names its columns
    try:
        import lancedb  # noqa: PLC0415 - a development extra
        from lancedb import rerankers  # noqa: PLC0415 - same
    except ImportError as error:
        raise ConfigurationError("the section `competitors` needs LanceDB: pip install -e '.[bench]'") from error
    return lancedb, rerankers


TARGETS: dict[str, Any] = {"official_chroma": OfficialChroma, "lancedb": Lance}

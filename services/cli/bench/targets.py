"""What is measured, as the load generator sees it: something that answers one search. The parts that make the floor stand here, too."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import grpc.aio

from services.cli.bench.ask import Ask
from shared.chroma.client import ChromaClient
from shared.client import KnowledgeBeast, encode_search
from shared.domain import Vector
from shared.embedding.artifact import ModelExport
from shared.embedding.models import DEFAULT_MODEL, resolve_model
from shared.embedding.onnx import OnnxEmbedder
from shared.gen.knowledgebeast.query.v1 import query_pb2
from shared.search import SearchAnswer

Call = grpc.aio.UnaryUnaryMultiCallable[bytes, query_pb2.SearchResponse]
SEARCH_METHOD = "/knowledgebeast.query.v1.QueryService/Search"
CANDIDATES = 100  # what the query service asks ChromaDB for by default
TIMEOUT = 10.0  # seconds that one search may take
Prepared = TypeVar("Prepared")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What is known of one answer. `stages` are seconds inside the service: total, embed, vector, keyword, assemble (0: not needed)."""

    ids: tuple[str, ...] = ()
    degraded: bool = False
    cached: bool = False
    stages: tuple[float, ...] = ()


class Target(Protocol[Prepared]):
    """Answers searches. `prepare` does what is not to be measured, `send` what is."""

    async def open(self) -> None:
        """Connects and loads."""

    async def prepare(self, ask: Ask) -> Prepared:
        """What `send` takes."""

    async def send(self, prepared: Prepared) -> Outcome:
        """Answers one search."""

    async def close(self) -> None:
        """Lets go of everything."""


class Library:
    """The query service through `shared.client.KnowledgeBeast`: what a Python program sees."""

    def __init__(self, query: str, project: str, timeout: float = TIMEOUT) -> None:
        self._client = KnowledgeBeast(query=query, timeout=timeout)
        self._project = project

    async def open(self) -> None:
        """Makes the channel."""
        await self._client.__aenter__()

    async def prepare(self, ask: Ask) -> Ask:
        """Nothing: making the request is part of what a program pays."""
        return ask

    async def send(self, prepared: Ask) -> Outcome:
        """Searches."""
        return _outcome(await self._client.search(self._project, prepared.search_query()))

    async def close(self) -> None:
        """Closes the channel."""
        await self._client.__aexit__()


class Stub:
    """The query service through a bare grpc.aio channel, with requests made beforehand: the least that a Python client can cost."""

    def __init__(self, query: str, project: str, timeout: float = TIMEOUT) -> None:
        self._address = query
        self._project = project
        self._timeout = timeout

    async def open(self) -> None:
        """Makes the channel, without interceptors."""
        self._channel = grpc.aio.insecure_channel(self._address)
        self._call: Call = self._channel.unary_unary(SEARCH_METHOD, response_deserializer=query_pb2.SearchResponse.FromString)

    async def prepare(self, ask: Ask) -> bytes:
        """The request as it goes over the wire."""
        return encode_search.search(self._project, ask.search_query()).SerializeToString()

    async def send(self, prepared: bytes) -> Outcome:
        """Searches."""
        answer = await self._call(prepared, timeout=self._timeout)
        ids = tuple(hit.chunk.id for hit in answer.hits)
        spent = answer.timings
        parts = (spent.total, spent.embed, spent.vector, spent.keyword, spent.assemble)
        stages = tuple(part.seconds + part.nanos / 1e9 for part in parts)
        return Outcome(ids, answer.degraded_mode, answer.cached, stages)

    async def close(self) -> None:
        """Closes the channel."""
        await self._channel.close()


class Echo:
    """A bare grpc.aio server that answers with a response of the usual size: what the transport alone costs."""

    def __init__(self, address: str, project: str) -> None:
        self._address = address
        self._project = project

    async def open(self) -> None:
        """Makes the channel."""
        self._channel = grpc.aio.insecure_channel(self._address)
        self._call: Call = self._channel.unary_unary(SEARCH_METHOD, response_deserializer=query_pb2.SearchResponse.FromString)

    async def prepare(self, ask: Ask) -> bytes:
        """The request of a search."""
        return encode_search.search(self._project, ask.search_query()).SerializeToString()

    async def send(self, prepared: bytes) -> Outcome:
        """Has it answered."""
        await self._call(prepared, timeout=TIMEOUT)
        return Outcome()

    async def close(self) -> None:
        """Closes the channel."""
        await self._channel.close()


class WithModel:
    """What targets share that embed in the load generator's own process, with the same model and threads as the query service."""

    def __init__(self, model_dir: str, concurrency: int) -> None:
        self._embedder = OnnxEmbedder(ModelExport.of(resolve_model(DEFAULT_MODEL), Path(model_dir)), concurrency=concurrency, arena=True)

    async def open(self) -> None:
        """Loads the model."""
        await self._embedder.load()

    async def close(self) -> None:
        """Ends the threads."""
        await asyncio.to_thread(self._embedder.close)

    async def vector(self, text: str) -> Vector:
        """The vector of a text."""
        vector: Vector = (await self._embedder.embed([text]))[0]
        return vector


class Embed(WithModel):
    """The embedder alone."""

    async def prepare(self, ask: Ask) -> str:
        """The text."""
        return ask.query

    async def send(self, prepared: str) -> Outcome:
        """Embeds it."""
        await self.vector(prepared)
        return Outcome()


class _Collection(WithModel):
    """A collection of ChromaDB through our adapter, over its pooled connections."""

    def __init__(self, model_dir: str, concurrency: int, url: str, collection: str) -> None:
        super().__init__(model_dir, concurrency)
        self._client = ChromaClient(url)
        self._collection = collection

    async def near(self, vector: Vector) -> Outcome:
        """The nearest chunks, by id and distance alone."""
        found = await self._client.query(self._collection, vector, CANDIDATES, timeout=TIMEOUT)
        return Outcome(tuple(hit.chunk_id for hit in found))

    async def close(self) -> None:
        """Closes the connections and ends the threads."""
        await self._client.close()
        await super().close()


class Chroma(_Collection):
    """ChromaDB's query alone, with the vector made beforehand."""

    async def prepare(self, ask: Ask) -> Vector:
        """The query's vector."""
        return await self.vector(ask.query)

    async def send(self, prepared: Vector) -> Outcome:
        """Asks for the nearest."""
        return await self.near(prepared)


class Floor(_Collection):
    """Embedding, then ChromaDB's query: what a search by meaning cannot do without."""

    async def prepare(self, ask: Ask) -> str:
        """The text."""
        return ask.query

    async def send(self, prepared: str) -> Outcome:
        """Embeds it and asks for the nearest."""
        return await self.near(await self.vector(prepared))


def _outcome(answer: SearchAnswer) -> Outcome:
    spent = answer.timings
    stages = tuple(part or 0.0 for part in (spent.total, spent.embed, spent.vector, spent.keyword, spent.assemble))
    return Outcome(tuple(hit.chunk.id for hit in answer.hits), answer.degraded, answer.cached, stages)

"""The ports that both services reach the world through. Adapters satisfy them by shape; decorators (cache, retry, breaker) wrap them.

A consumer asks for the narrowest that serves it: the query service reads vectors, the projector writes them.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple, Protocol

from shared.domain import ChunkId, Vector, Vectors


class Embedder(Protocol):
    """Turns text into vectors."""

    @property
    def model(self) -> str:
        """Name of the model, as projects state it."""

    @property
    def dimension(self) -> int:
        """Numbers a vector."""

    async def embed(self, texts: Sequence[str]) -> Vectors:
        """Vectors of unit length, shape `(len(texts), dimension)`, in the order of the texts.

        Raises UnavailableError (component `embedding_model`) when the model is not there.
        """


class Tokenizer(Protocol):
    """Counts and locates the tokens of an embedding model."""

    @property
    def max_tokens(self) -> int:
        """Tokens that the model reads of a text, special tokens left out."""

    def offsets(self, text: str) -> Sequence[tuple[int, int]]:
        """Where each token of the text begins and ends (exclusive), in code points; special tokens left out."""


class Reranker(Protocol):
    """Reads a query and a text together and says how well the text answers."""

    @property
    def model(self) -> str:
        """Name or path of the model."""

    async def score(self, query: str, texts: Sequence[str]) -> Sequence[float]:
        """A score for each text, in their order; larger is better, and only scores of one call can be compared.

        Raises UnavailableError (component `reranker`) when the model is not there. A caller that gives up cancels the call.
        """


class ScoredChunk(NamedTuple):
    """A candidate of a leg. Larger scores are better."""

    chunk_id: ChunkId
    score: float


class VectorReader(Protocol):
    """Nearest neighbours in the vector store."""

    async def query(self, collection: str, vector: Vector, limit: int, *, timeout: float) -> Sequence[ScoredChunk]:
        """At most `limit` chunks by falling cosine similarity, within `timeout` seconds.

        Raises CollectionNotFoundError, VectorStoreUnavailableError (also on timeout), VectorStoreError.
        """

    async def ping(self, *, timeout: float) -> None:
        """Returns when the store answers. Raises VectorStoreUnavailableError."""


class VectorWriter(Protocol):
    """Writes to the vector store. Every call may be repeated: adding what is there and deleting what is not changes nothing.

    All raise VectorStoreUnavailableError (also on timeout; the call may or may not have been applied) and VectorStoreError.
    """

    async def ensure_collection(self, collection: str, *, timeout: float) -> None:
        """Creates the collection (cosine distance) unless it is there."""

    async def drop_collection(self, collection: str, *, timeout: float) -> None:
        """Drops the collection if it is there."""

    async def add(self, collection: str, chunk_ids: Sequence[ChunkId], vectors: Vectors, *, timeout: float) -> None:
        """Adds vectors; ids that are there keep the vector they have. Raises CollectionNotFoundError."""

    async def delete(self, collection: str, chunk_ids: Sequence[ChunkId], *, timeout: float) -> None:
        """Deletes vectors. Raises CollectionNotFoundError."""

    async def count(self, collection: str, *, timeout: float) -> int:
        """Vectors in the collection. Raises CollectionNotFoundError."""

    async def existing(self, collection: str, chunk_ids: Sequence[ChunkId], *, timeout: float) -> Collection[ChunkId]:
        """Those of the ids whose vectors the collection has. Raises CollectionNotFoundError."""

    async def list_ids(self, collection: str, *, offset: int, limit: int, timeout: float) -> Sequence[ChunkId]:
        """At most `limit` ids of the collection behind the first `offset`, in an order of the store's own, which stays as long as nothing is written.

        Fewer than `limit` are the last ones. Raises CollectionNotFoundError.
        """

    async def list_collections(self, *, timeout: float) -> Sequence[str]:
        """Names of all collections."""


class VectorStore(VectorReader, VectorWriter, Protocol):
    """Both sides."""

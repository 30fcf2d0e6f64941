"""An embedder and a tokenizer without a model."""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence

import numpy as np

from shared.domain import Vectors
from shared.errors import UnavailableError

_WORD = re.compile(r"\w+")
_TOKEN = re.compile(r"\S+")


class FakeEmbedder:
    """Texts that share words have similar vectors: each word adds a fixed random direction. Deterministic on every machine.

    Attributes:
        failure: Raised by `embed` and `load` while it is set.
        embedded: Every text that was embedded, in order.
        loaded: Whether `load` was called with success.
    """

    def __init__(self, model: str = "all-MiniLM-L6-v2", dimension: int = 384) -> None:
        self.model = model
        self.dimension = dimension
        self.failure: Exception | None = None
        self.embedded: list[str] = []
        self.loaded = False

    def fail(self, error: Exception | None = None) -> None:
        """Makes the following calls fail, by default as a missing model does."""
        self.failure = error or UnavailableError("the embedding model is not there", component="embedding_model")

    def recover(self) -> None:
        """Makes the following calls succeed."""
        self.failure = None

    async def load(self) -> None:
        """Loads nothing."""
        if self.failure:
            raise self.failure
        self.loaded = True

    async def embed(self, texts: Sequence[str]) -> Vectors:
        """Vectors of unit length; a text without words has that of the empty word."""
        if self.failure:
            raise self.failure
        self.embedded.extend(texts)
        vectors = np.zeros((len(texts), self.dimension), np.float32)
        for row, text in enumerate(texts):
            for word in _WORD.findall(text.casefold()) or [""]:
                vectors[row] += np.random.default_rng(zlib.crc32(word.encode())).standard_normal(self.dimension, np.float32)
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        vectors /= norms
        return vectors

    def close(self) -> None:
        """Has nothing to close."""


class FakeTokenizer:
    """Every run of non-whitespace is a token."""

    def __init__(self, max_tokens: int = 254) -> None:
        self.max_tokens = max_tokens

    def offsets(self, text: str) -> Sequence[tuple[int, int]]:
        """Where each word begins and ends."""
        return [match.span() for match in _TOKEN.finditer(text)]

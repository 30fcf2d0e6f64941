"""One embedding for a whole batch of searches."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import numpy as np

from shared.domain import Vectors
from shared.ports import Embedder


class BatchEmbedder:
    """Embeds all texts of a batch together when the first of them is asked for. Satisfies `shared.ports.Embedder` for one event loop.

    Args:
        inner: the embedder.
        texts: of the batch; others are refused.
    """

    def __init__(self, inner: Embedder, texts: Sequence[str]) -> None:
        self._inner = inner
        self._places = {text: place for place, text in enumerate(dict.fromkeys(texts))}
        self._embedding: asyncio.Task[Vectors] | None = None

    @property
    def model(self) -> str:
        """Name of the model."""
        return self._inner.model

    @property
    def dimension(self) -> int:
        """Numbers a vector."""
        return self._inner.dimension

    async def embed(self, texts: Sequence[str]) -> Vectors:
        """Vectors of texts of the batch, shape `(len(texts), dimension)`. Raises what the embedder raises, and KeyError for another text."""
        places = [self._places[text] for text in texts]
        if self._embedding is None:
            self._embedding = asyncio.create_task(self._all())
        # One caller that gives up must not take the vectors from the others.
        vectors = await asyncio.shield(self._embedding)
        return np.asarray(vectors[places])

    async def _all(self) -> Vectors:
        return await self._inner.embed(list(self._places))

    def close(self) -> None:
        """Ends an embedding that nobody waits for any more."""
        if self._embedding is not None:
            self._embedding.cancel()

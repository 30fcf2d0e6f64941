"""Embedding the queries of a batch of searches together."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import numpy as np

from shared.domain import Vectors
from shared.ports import Embedder

# Texts that are embedded at once: a call of the model gains from company, and a search of somebody else comes in between the calls.
_TOGETHER = 16


class BatchEmbedder:
    """Embeds the texts of a batch sixteen at a time, each time when the first of them is asked for. Satisfies `shared.ports.Embedder`.

    For one event loop.

    Args:
        inner: the embedder.
        texts: of the batch; others are refused.
    """

    def __init__(self, inner: Embedder, texts: Sequence[str]) -> None:
        self._inner = inner
        distinct = list(dict.fromkeys(texts))
        self._slices = [distinct[start : start + _TOGETHER] for start in range(0, len(distinct), _TOGETHER)]
        self._places = {text: divmod(place, _TOGETHER) for place, text in enumerate(distinct)}
        self._embedding: dict[int, asyncio.Task[Vectors]] = {}

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
        return np.stack([await self._vector(*self._places[text]) for text in texts])

    async def _vector(self, number: int, row: int) -> Vectors:
        task = self._embedding.get(number)
        if task is None:
            # Not cancelled with the batch: a search of somebody else may have joined one of these, and the work is a matter of milliseconds.
            task = self._embedding[number] = asyncio.create_task(self._embed(self._slices[number]))
        # One caller that gives up must not take the vectors from the others.
        return np.asarray((await asyncio.shield(task))[row])

    async def _embed(self, texts: Sequence[str]) -> Vectors:
        return await self._inner.embed(texts)

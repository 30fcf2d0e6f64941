"""Measures an embedder."""

from __future__ import annotations

from collections.abc import Sequence

from shared.domain import Vectors
from shared.observability import metrics
from shared.observability.exemplars import Timed
from shared.ports import Embedder


class MeasuredEmbedder:
    """Wraps an embedder; times its calls and counts their texts. Satisfies `shared.ports.Embedder`.

    It belongs behind a cache, where only what the model really has to do arrives.
    """

    def __init__(self, inner: Embedder) -> None:
        self._inner = inner

    @property
    def model(self) -> str:
        """Name of the model."""
        return self._inner.model

    @property
    def dimension(self) -> int:
        """Numbers a vector."""
        return self._inner.dimension

    async def embed(self, texts: Sequence[str]) -> Vectors:
        """See the port."""
        metrics.EMBEDDING_BATCH_SIZE.observe(len(texts))
        with Timed(metrics.EMBEDDING_DURATION):
            return await self._inner.embed(texts)

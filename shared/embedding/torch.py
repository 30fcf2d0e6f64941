"""Runs the original of a model with sentence-transformers: the reference, and the way to serve a model that cannot be exported.

Costs several times the memory, start time and latency of `shared.embedding.onnx`. torch is imported by `load`, not by importing this module.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from shared.domain import Vectors
from shared.embedding.artifact import COMPONENT
from shared.embedding.models import DEFAULT_DIMENSION, DEFAULT_MODEL, ModelSource
from shared.embedding.pool import CorePool
from shared.errors import UnavailableError

INSTALL_TORCH = (
    "PyTorch is not installed: run `pip install torch==2.13.0` first. Without a GPU, take the CPU build from PyTorch's CPU index "
    "(set pip's --index-url, or its index-url setting, to that index for this one command): the CUDA build takes over 5 GB"
)
MAX_BATCH = 32


def load_reference(source: ModelSource) -> Any:  # noqa: ANN401 - importing the type would import torch
    """The original model on the CPU, from safetensors weights, without any access to a model hub or code of the model's own.

    Raises ImportError when torch or sentence-transformers is missing.
    """
    from sentence_transformers import SentenceTransformer  # noqa: PLC0415 - takes seconds and imports torch

    model = SentenceTransformer(
        str(source.directory), device="cpu", local_files_only=True, trust_remote_code=False, model_kwargs={"use_safetensors": True}
    )
    model.max_seq_length = source.max_sequence
    return model.eval()


def encode(model: Any, texts: Sequence[str]) -> Vectors:  # noqa: ANN401 - see load_reference
    """Vectors of unit length, float32, shape `(len(texts), dimension)`."""
    vectors = model.encode(list(texts), batch_size=MAX_BATCH, normalize_embeddings=True, convert_to_numpy=True, show_progress_bar=False)
    return np.asarray(vectors, np.float32)


class TorchEmbedder:
    """Embeds with the original model. Satisfies `shared.ports.Embedder`.

    Args:
        source: The original model.
        concurrency: Calls of the model that run at the same time; torch may use several cores for each.
    """

    def __init__(self, source: ModelSource, *, concurrency: int) -> None:
        self._source = source
        self._pool = CorePool(concurrency, "embed-torch")
        self._loaded: Any = None

    @property
    def model(self) -> str:
        """Name of the model."""
        return self._source.name

    @property
    def dimension(self) -> int:
        """Numbers a vector. Raises UnavailableError for a model other than the default that is not loaded."""
        if self._loaded is None:
            if self.model == DEFAULT_MODEL:
                return DEFAULT_DIMENSION
            raise self._not_loaded()
        return int(self._loaded.get_embedding_dimension())

    async def load(self) -> None:
        """Loads the model, in some 5 s; nothing happens when it is loaded. May be tried again after a failure.

        Raises:
            UnavailableError: torch is missing, or the model cannot be read (component `embedding_model`).
        """
        if self._loaded is not None:
            return
        try:
            self._loaded = await self._pool.run(lambda: load_reference(self._source))
        except ImportError as error:
            raise UnavailableError(INSTALL_TORCH, component=COMPONENT, reason="MODEL_UNAVAILABLE") from error
        except (OSError, ValueError, RuntimeError) as error:
            raise UnavailableError(
                f"embedding model '{self.model}' cannot be loaded from {self._source.directory}", component=COMPONENT, reason="MODEL_UNAVAILABLE"
            ) from error

    async def embed(self, texts: Sequence[str]) -> Vectors:
        """Vectors of unit length, float32, shape `(len(texts), dimension)`, in the order of the texts.

        Raises:
            UnavailableError: the model is not loaded.
        """
        if self._loaded is None:
            raise self._not_loaded()
        if not texts:
            return np.empty((0, self.dimension), np.float32)
        return await self._pool.run(lambda: encode(self._loaded, texts))

    def close(self) -> None:
        """Ends the threads. Calls that wait for one are cancelled."""
        self._pool.close()

    def _not_loaded(self) -> UnavailableError:
        return UnavailableError(f"embedding model '{self.model}' is not loaded", component=COMPONENT, reason="MODEL_UNAVAILABLE")

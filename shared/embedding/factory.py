"""Makes the embedder and the tokenizer that the settings ask for."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Protocol

from shared.embedding.artifact import ModelExport
from shared.embedding.models import resolve_model
from shared.embedding.onnx import OnnxEmbedder
from shared.embedding.tokenizer import ModelTokenizer
from shared.embedding.torch import TorchEmbedder
from shared.ports import Embedder, Tokenizer


class LoadableEmbedder(Embedder, Protocol):
    """An embedder whose model is loaded after construction, so that a service can start, and say so, without it."""

    async def load(self) -> None:
        """Loads the model unless it is loaded. May be tried again. Raises UnavailableError (component `embedding_model`)."""

    def close(self) -> None:
        """Ends the threads."""


def create_embedder(backend: Literal["onnx", "torch"], model: str, model_dir: Path, *, concurrency: int, arena: bool) -> LoadableEmbedder:
    """An embedder that is not loaded yet.

    Args:
        backend: `onnx` runs the export in `model_dir`, `torch` the original (needs the `export` extra).
        model: Name of the default model, or path of a sentence-transformers folder.
        model_dir: Folder of exports.
        concurrency: Calls of the model at the same time.
        arena: See `OnnxEmbedder`; of no effect on torch.

    Raises:
        ConfigurationError: there is no such model.
    """
    source = resolve_model(model)
    if backend == "torch":
        return TorchEmbedder(source, concurrency=concurrency)
    return OnnxEmbedder(ModelExport.of(source, model_dir), concurrency=concurrency, arena=arena)


def create_tokenizer(model: str) -> Tokenizer:
    """The tokenizer of a model, ready to use; the model need not be exported.

    Raises:
        ConfigurationError: there is no such model, or its tokenizer cannot be read.
    """
    return ModelTokenizer(resolve_model(model))

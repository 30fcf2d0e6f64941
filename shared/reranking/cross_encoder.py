"""Scores texts against a query with a cross-encoder of sentence-transformers. torch is imported by `load`, not by importing this module."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from shared.embedding.pool import CorePool
from shared.embedding.torch import INSTALL_TORCH
from shared.errors import UnavailableError

COMPONENT = "reranker"
# Pairs that are scored in one go: what is still computed for a caller that has given up. With a model of MiniLM-L6's shape (6 layers, 384 wide) and
# texts of 140 words, 4 pairs take 0.2 s of a core; batches of 8 and of 16 cost as much a pair.
BATCH_SIZE = 4


def _load(model: str) -> Any:  # noqa: ANN401 - importing the type would import torch
    """The model on the CPU, from safetensors weights on this machine, without code of the model's own.

    From here on torch computes on the calling thread alone, in every thread of the process that has not used torch before: calls run side by side
    instead, and no more than their pool allows.
    """
    import torch  # noqa: PLC0415 - takes seconds
    from huggingface_hub import snapshot_download  # noqa: PLC0415 - same
    from sentence_transformers import CrossEncoder  # noqa: PLC0415 - same
    from transformers.utils import logging  # noqa: PLC0415 - same

    torch.set_num_threads(1)
    logging.disable_progress_bar()  # type: ignore[no-untyped-call] # the library's function has no annotations
    # A name is looked up here, because CrossEncoder asks the hub about a name even with local_files_only.
    folder = Path(model).expanduser()
    if not folder.is_dir():
        folder = Path(snapshot_download(model, local_files_only=True))
    loaded = CrossEncoder(str(folder), device="cpu", local_files_only=True, trust_remote_code=False, model_kwargs={"use_safetensors": True})
    _require_scores(loaded)
    # The first call sets up the tokenizer's truncation and padding, which must not happen in two threads at once.
    _predict(loaded, "warm", ["up"])
    return loaded


def _require_scores(model: Any) -> None:  # noqa: ANN401 - see _load
    """Raises ValueError unless the model was made to give one score a pair. Of an embedding model, the library would make up a random last layer."""
    trained = any(name.endswith("ForSequenceClassification") for name in model.config.architectures or ())
    if model[0].transformer_task == "sequence-classification" and not trained:
        raise ValueError("the model is no cross-encoder: it has no layer that gives a score")
    if model.num_labels != 1:
        raise ValueError(f"the model gives {model.num_labels} scores a pair: a reranker gives one")


def _predict(model: Any, query: str, texts: Sequence[str]) -> Sequence[float]:  # noqa: ANN401 - see _load
    """Scores of one batch; pairs are cut to the tokens that the model reads."""
    scores: Sequence[float] = model.predict([(query, text) for text in texts], batch_size=len(texts), show_progress_bar=False)
    return scores


def _batches(texts: Sequence[str]) -> Iterator[Sequence[int]]:
    """Indices of texts in batches of similar length, so that little is padded; the longest first, so that the threads end together."""
    order = sorted(range(len(texts)), key=lambda index: -len(texts[index]))
    for start in range(0, len(order), BATCH_SIZE):
        yield order[start : start + BATCH_SIZE]


class CrossEncoderReranker:
    """Reranks with a cross-encoder. Satisfies `shared.ports.Reranker` and `shared.embedding.loading.Loadable`.

    Args:
        model: Path of a sentence-transformers folder, or the name of a model in the Hugging Face cache of this machine. Nothing is downloaded.
        concurrency: Batches that are scored at the same time, each on one core.
    """

    def __init__(self, model: str, *, concurrency: int) -> None:
        self._name = model
        self._pool = CorePool(concurrency, "rerank")
        self._loaded: Any = None

    @property
    def model(self) -> str:
        """Name or path of the model."""
        return self._name

    async def load(self) -> None:
        """Loads the model, in some 5 to 10 s, most of them for torch; nothing happens when it is loaded. May be tried again after a failure.

        Raises:
            UnavailableError: torch is missing, or the model is not there or cannot be used (component `reranker`).
        """
        if self._loaded is not None:
            return
        try:
            self._loaded = await self._pool.run(lambda: _load(self._name))
        except ImportError as error:
            raise self._unavailable(f"cannot be loaded. {INSTALL_TORCH}, then sentence-transformers (the `export` extra)") from error
        except Exception as error:  # sentence-transformers, transformers and safetensors have error classes without a common base
            raise self._unavailable(
                "cannot be loaded: KB_RERANKER_MODEL must be the folder of a cross-encoder that gives one score, with safetensors weights, or the "
                "name of one that `hf download` has put on this machine"
            ) from error

    async def score(self, query: str, texts: Sequence[str]) -> Sequence[float]:
        """A score for each text, in their order, after the model's own activation; larger is better.

        Texts are scored in small batches. When the caller is cancelled, only batches under way are finished: at most `concurrency` of them.

        Raises:
            UnavailableError: the model is not loaded, or cannot score these texts.
        """
        loaded = self._loaded
        if loaded is None:
            raise self._unavailable("is not loaded")
        scores = np.empty(len(texts), np.float64)

        async def score_batch(indices: Sequence[int]) -> None:
            scores[indices] = await self._pool.run(lambda: _predict(loaded, query, [texts[index] for index in indices]))

        try:
            await asyncio.gather(*map(score_batch, _batches(texts)))
        except Exception as error:  # torch, transformers and tokenizers have error classes without a common base
            raise self._unavailable("failed") from error
        if not np.isfinite(scores).all():
            raise self._unavailable("gives scores that are no numbers")
        return [float(score) for score in scores]

    def close(self) -> None:
        """Ends the threads when their batches are done. Calls that wait for one are cancelled."""
        self._pool.close()

    def _unavailable(self, problem: str) -> UnavailableError:
        return UnavailableError(f"reranking model '{self._name}' {problem}", component=COMPONENT, reason="MODEL_UNAVAILABLE", retry_after=5.0)

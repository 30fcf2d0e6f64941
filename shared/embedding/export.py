"""Exports an embedding model for serving: sentence-transformers → ONNX with int8 weights, verified against the original.

`python -m shared.embedding.export` does it once for the model of the settings (`KB_EMBEDDING_MODEL`), or for `--model NAME|PATH`; when a valid
export is there it says so and exits at once. Needs the `export` extra (torch, onnx); the services do not.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.metadata
import importlib.util
import json
import logging
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from shared.config import CommonSettings, load
from shared.embedding.artifact import MANIFEST_FILE, MODEL_FILE, TOKENIZER_FILE, Manifest, ModelExport
from shared.embedding.models import DEFAULT_MODEL, ModelSource, hash_weights, resolve_model, sha256_of
from shared.embedding.onnx import OnnxEmbedder
from shared.embedding.tokenizer import ModelTokenizer
from shared.embedding.torch import INSTALL_TORCH, encode, load_reference
from shared.errors import ConfigurationError, KnowledgeBeastError, UnavailableError

# int8 weights keep .984 to .99 on real text; less than this is a broken conversion, not rounding.
MINIMUM_COSINE = 0.98
SENTENCES = (
    "How do plants turn light into sugar?",
    "The mitochondrion makes most of the energy that a cell uses, by oxidising sugars and fats.",
    "The committee adjourned without a vote; the report, 214 pages long, will be published in March.",
    "def binary_search(items, wanted): returns the index of the item, or None when it is not there.",
    "Patients who were given the drug recovered two days earlier than those who were given a placebo (p < 0.01).",
    "Der schnelle braune Fuchs springt über den faulen Hund.",
    "To restore a backup, stop the service, copy the newest snapshot into its folder, and start it again. " * 12,
)
_VERSIONS = ("torch", "sentence-transformers", "transformers", "tokenizers", "onnx", "onnxruntime")


@dataclass(frozen=True, slots=True)
class ExportResult:
    """What an export came to. `created` is False when a valid one was there. `seconds` of wall time."""

    export: ModelExport
    manifest: Manifest
    created: bool
    seconds: float


def _say_nothing(_: str) -> None:
    """Reports nothing."""


def _existing(export: ModelExport) -> Manifest | None:
    """The manifest of a valid export, None when there is none."""
    try:
        return export.verified()
    except UnavailableError:
        return None


def _require_torch() -> None:
    """Raises ConfigurationError, which says what to install, unless the original can be run."""
    if importlib.util.find_spec("torch") is None:
        raise ConfigurationError(INSTALL_TORCH)
    if importlib.util.find_spec("onnx") is None:
        raise ConfigurationError('onnx is not installed: run `pip install "onnx>=1.23.2"`')


def export_model(model: str, model_dir: Path, *, force: bool = False, report: Callable[[str], None] = _say_nothing) -> ExportResult:
    """Exports a model unless a valid export is there. Takes some 15 s; blocks, and runs an event loop of its own: not for use inside one.

    The export is made in a temporary folder and renamed: nobody sees half of it, and of two at once the first to finish stays.

    Args:
        model: Name of the default model, or path of a sentence-transformers folder.
        model_dir: Where exports are kept; made if need be.
        force: Replace a valid export too.
        report: Called with one line for each step.

    Raises:
        ConfigurationError: no such model, torch is missing, or the weights are not those they should be.
        UnavailableError: the result does not agree with the original; nothing was changed.
    """
    began = time.monotonic()
    source = resolve_model(model)
    export = ModelExport.of(source, model_dir)
    if not force and (manifest := _existing(export)):
        return ExportResult(export, manifest, created=False, seconds=time.monotonic() - began)
    _require_torch()
    if source.name == DEFAULT_MODEL and hash_weights(source.directory) != source.weights_sha256:
        raise ConfigurationError(f"the weights of {source.name} in {source.directory} are not the published ones: install the package again")
    model_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{export.directory.name}.", dir=model_dir) as temporary:
        built = ModelExport(export.name, export.weights_sha256, Path(temporary) / "export")
        built.directory.mkdir()
        manifest = _build(source, built, report)
        _publish(built, export, force=force)
    # That of another process, if it was quicker.
    return ExportResult(export, _existing(export) or manifest, created=True, seconds=time.monotonic() - began)


def _build(source: ModelSource, built: ModelExport, report: Callable[[str], None]) -> Manifest:
    """Makes a complete, verified export at `built`."""
    report(f"loading {source.name} from {source.directory}")
    logging.getLogger("sentence_transformers").setLevel(logging.WARNING)
    logging.getLogger("transformers").setLevel(logging.ERROR)
    # transformers draws a progress bar while it reads weights; the variable is read when huggingface_hub is imported.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    reference = load_reference(source)
    from shared.embedding.conversion import convert  # noqa: PLC0415 - imports torch, which only this function needs

    report("converting it to ONNX with int8 weights")
    convert(reference, built.directory / MODEL_FILE)
    shutil.copyfile(source.directory / "tokenizer.json", built.directory / TOKENIZER_FILE)
    manifest = Manifest(
        format=1,
        name=source.name,
        dimension=int(reference.get_embedding_dimension()),
        max_tokens=ModelTokenizer(source).max_tokens,
        weights_sha256=source.weights_sha256,
        quantisation="int8-dynamic-per-channel",
        minimum_cosine=0.0,
        files={file: sha256_of(built.directory / file) for file in (MODEL_FILE, TOKENIZER_FILE)},
        versions={package: importlib.metadata.version(package) for package in _VERSIONS},
    )
    _write(built, manifest)
    report(f"comparing it with the original on {len(SENTENCES)} texts")
    worst = float(np.min(np.sum(asyncio.run(_embed(built)) * encode(reference, SENTENCES), axis=1)))
    if not worst >= MINIMUM_COSINE:
        raise UnavailableError(
            f"the export of '{source.name}' does not agree with the original (cosine {worst:.3f}, at least {MINIMUM_COSINE} is wanted)",
            component="embedding_model",
        )
    manifest = manifest.model_copy(update={"minimum_cosine": round(worst, 4)})
    _write(built, manifest)
    return manifest


def _write(built: ModelExport, manifest: Manifest) -> None:
    (built.directory / MANIFEST_FILE).write_text(manifest.model_dump_json(indent=2) + "\n")


async def _embed(built: ModelExport) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """Vectors of the sentences by the export, loaded as a service loads it."""
    embedder = OnnxEmbedder(built, concurrency=1, arena=False)
    try:
        await embedder.load()
        return await embedder.embed(SENTENCES)
    finally:
        embedder.close()


def _publish(built: ModelExport, export: ModelExport, *, force: bool) -> None:
    """Gives the export its name. One that is there is moved aside first, unless it is valid and another process has just made it."""
    for _ in range(10):
        try:
            built.directory.rename(export.directory)
        except OSError:
            if not export.directory.exists():
                raise
        else:
            return
        if not force and _existing(export):
            return
        aside = built.directory.with_name(f"old-{time.monotonic_ns()}")  # removed with the temporary folder
        try:
            export.directory.rename(aside)
        except FileNotFoundError:
            continue  # another process moved it
    raise UnavailableError(f"{export.directory} is replaced again and again by other processes", component="embedding_model")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", metavar="NAME|PATH", help="the default model's name or a sentence-transformers folder (KB_EMBEDDING_MODEL)")
    parser.add_argument("--model-dir", type=Path, metavar="DIR", help="folder of exports (KB_MODEL_DIR)")
    parser.add_argument("--force", action="store_true", help="export anew even if a valid export is there")
    parser.add_argument("--json", action="store_true", help="print one JSON object and no progress")
    return parser.parse_args()


def main() -> None:
    """Entry point of the command. Exits 0 when a valid export is there at the end, else 1 with one line on standard error."""
    arguments = _arguments()
    report = _say_nothing if arguments.json else lambda line: print_line(f"{line} …")
    try:
        settings = load(CommonSettings)
        result = export_model(
            arguments.model or settings.embedding_model, arguments.model_dir or settings.model_dir, force=arguments.force, report=report
        )
    except KnowledgeBeastError as error:
        sys.exit(f"error: {error.message}")
    if arguments.json:
        fields = {"directory": str(result.export.directory), "created": result.created, "seconds": round(result.seconds, 2)}
        print_line(json.dumps({**fields, **result.manifest.model_dump(mode="json")}))
        return
    state = f"exported in {result.seconds:.1f} s" if result.created else "already exported"
    print_line(f"{result.manifest.name}: {state}, {result.manifest.dimension} numbers a vector, minimum cosine {result.manifest.minimum_cosine}")
    print_line(str(result.export.directory))


def print_line(line: str) -> None:
    """Writes a line to standard output at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()

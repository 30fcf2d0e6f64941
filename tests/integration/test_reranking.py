"""Reranking with a real cross-encoder: a small one, whose weights make it count shared words."""

from __future__ import annotations

import asyncio
import math
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.embedding.loading import ModelLoader
from shared.embedding.models import DEFAULT_MODEL, resolve_model
from shared.errors import UnavailableError
from shared.observability import metrics
from shared.ports import Reranker
from shared.reranking.cross_encoder import CrossEncoderReranker
from tests.fixtures.cross_encoder import build_cross_encoder
from tests.waiting import eventually

ROOT = Path(__file__).resolve().parents[2]
QUERY = "how do plants make sugar"
TEXTS = [
    "the committee adjourned without a vote",
    "plants turn light into sugar",
    "Sugar!",
    "in the leaves: that is how plants do make their sugar",
    "",
    "nobody knows how sugar is made, but plants do",
]
BY_SHARED_WORDS = [3, 5, 1, 2, 0, 4]  # five of them, four, two, one, none


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the model."""
    return build_cross_encoder(tmp_path_factory.mktemp("models") / "shared-words")


@pytest.fixture(scope="module")
def _rerankers(folder: Path) -> Iterator[dict[int, CrossEncoderReranker]]:
    """One reranker for each number of cores; their threads are of no event loop."""
    rerankers = {cores: CrossEncoderReranker(str(folder), concurrency=cores) for cores in (1, 2)}
    yield rerankers
    for reranker in rerankers.values():
        reranker.close()


@pytest.fixture
async def one_core(_rerankers: dict[int, CrossEncoderReranker]) -> CrossEncoderReranker:
    """A reranker that takes one core, loaded."""
    await _rerankers[1].load()
    return _rerankers[1]


@pytest.fixture
async def reranker(_rerankers: dict[int, CrossEncoderReranker]) -> Reranker:
    """A reranker that takes two cores, loaded."""
    await _rerankers[2].load()
    return _rerankers[2]


async def test_texts_are_scored_by_what_they_share_with_the_query(reranker: Reranker) -> None:
    """The model reads query and text together: another query orders the same texts otherwise."""
    scores = await reranker.score(QUERY, TEXTS)
    assert sorted(range(4), key=lambda index: -scores[BY_SHARED_WORDS[index]]) == [0, 1, 2, 3]
    assert scores[0] == pytest.approx(scores[4], abs=1e-3)
    other = await reranker.score("a vote of the committee", TEXTS)
    assert other.index(max(other)) == 0


async def test_scores_are_in_the_order_of_the_texts(reranker: Reranker) -> None:
    """However many there are, and although they are scored in batches of similar length."""
    texts = [f"{'word ' * (number * 7 % 40)}{QUERY if number % 3 == 0 else ''}" for number in range(50)]
    scores = await reranker.score(QUERY, texts)
    assert len(scores) == 50
    assert [number for number in range(50) if scores[number] > 0.5] == list(range(0, 50, 3))
    assert await reranker.score(QUERY, []) == []


async def test_what_the_model_cannot_read_is_cut_off(reranker: Reranker) -> None:
    """This model reads 128 tokens of query and text: words behind them count for nothing, and no text is too long."""
    filler = "light " * 5_000
    behind, before, alone = await reranker.score(QUERY, [filler + QUERY, f"{QUERY} {filler}", filler])
    assert behind == pytest.approx(alone, abs=1e-3)
    assert before > alone + 0.5


async def test_calls_at_the_same_time_do_not_disturb_each_other(reranker: Reranker, one_core: Reranker) -> None:
    """Threads share model and tokenizer, and give the scores that each call gives alone."""
    calls = [(f"{QUERY} {number}", [f"{text} {'light ' * number}" for text in TEXTS]) for number in range(12)]
    together = await asyncio.gather(*(reranker.score(query, texts) for query, texts in calls))
    for (query, texts), scores in zip(calls, together, strict=True):
        assert scores == pytest.approx(await one_core.score(query, texts), abs=1e-4)


async def test_a_model_that_fails_or_gives_no_numbers_is_unavailable(reranker: Reranker, tmp_path: Path) -> None:
    """Whatever goes wrong while it scores, the caller is told what it knows how to do without; the next call is served."""
    with pytest.raises(UnavailableError, match="failed"):
        await reranker.score("alpha", [None])  # type: ignore[list-item] # what makes the tokenizer raise an error of its own
    assert len(await reranker.score("alpha", ["alpha beta"])) == 1

    weightless = CrossEncoderReranker(str(build_cross_encoder(tmp_path / "nan", weight=math.nan)), concurrency=1)
    await weightless.load()
    try:
        with pytest.raises(UnavailableError, match="no numbers"):
            await weightless.score("alpha", ["alpha"])
    finally:
        weightless.close()


async def test_a_caller_that_gives_up_frees_the_core(one_core: Reranker) -> None:
    """After a cancellation only the batch under way is finished: the next call costs a fraction of what the whole would have."""
    texts = ["light " * 100] * 400
    begun = time.process_time()
    await one_core.score(QUERY, texts)
    whole = time.process_time() - begun

    given_up = asyncio.create_task(one_core.score(QUERY, texts))
    begun = time.process_time()
    await eventually(_process_time, lambda now: now > begun + whole / 50)
    given_up.cancel()
    with pytest.raises(asyncio.CancelledError):
        await given_up
    begun = time.process_time()
    await one_core.score(QUERY, ["light"])
    assert time.process_time() - begun < whole / 4


async def _process_time() -> float:
    return time.process_time()


def _pickle(weights: Path) -> None:
    """Replaces safetensors by sound weights in a form that may run code when it is read."""
    import torch  # noqa: PLC0415 - takes seconds
    from safetensors.torch import load_file  # noqa: PLC0415 - imports torch

    torch.save(load_file(weights), weights.with_name("pytorch_model.bin"))
    weights.unlink()


def _unusable(kind: str, target: Path, sound: Path) -> str:
    """A model that cannot be used: its name, or the path of its folder."""
    match kind:
        case "unknown name":
            return "nobody/has-this"
        case "no folder":
            return str(target)
        case "embedding model":
            return str(resolve_model(DEFAULT_MODEL).directory)
        case "three scores":
            return str(build_cross_encoder(target, labels=3))
    shutil.copytree(sound, target)
    weights = target / "model.safetensors"
    if kind == "damaged weights":
        weights.write_bytes(weights.read_bytes()[:-1])
    else:
        _pickle(weights)
    return str(target)


@pytest.mark.parametrize("kind", ["unknown name", "no folder", "embedding model", "three scores", "damaged weights", "pickled weights"])
async def test_a_model_that_cannot_be_used_is_reported(kind: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the model, the setting and what it must be; no network is asked, and the reranker stays unusable."""
    asked: list[object] = []
    monkeypatch.setattr(socket, "getaddrinfo", lambda *arguments, **_: asked.append(arguments))
    model = _unusable(kind, tmp_path / "model", folder)
    reranker = CrossEncoderReranker(model, concurrency=1)
    try:
        with pytest.raises(UnavailableError, match="KB_RERANKER_MODEL must be") as raised:
            await reranker.load()
        assert model in raised.value.message
        assert (raised.value.component, raised.value.reason) == ("reranker", "MODEL_UNAVAILABLE")
        with pytest.raises(UnavailableError, match="is not loaded"):
            await reranker.score(QUERY, TEXTS)
    finally:
        reranker.close()
    assert asked == []


async def test_a_model_that_comes_later_is_taken_up(folder: Path, tmp_path: Path) -> None:
    """A service starts without its model, says so in a metric, and loads it when it is put there."""
    place = tmp_path / "later"
    reranker = CrossEncoderReranker(str(place), concurrency=1)
    loader = ModelLoader(reranker, kind="reranking model", loaded=metrics.RERANKER_LOADED, retry_seconds=0.05)
    loading = asyncio.create_task(loader.run())
    try:
        await loader.settle(60)
        assert loader.settled.is_set()
        assert metrics.REGISTRY.get_sample_value("kb_reranker_loaded") == 0
        shutil.copytree(folder, tmp_path / "copy")
        (tmp_path / "copy").rename(place)
        await eventually(_loaded, lambda value: value == 1)
        assert len(await reranker.score(QUERY, TEXTS)) == len(TEXTS)
    finally:
        loading.cancel()
        await asyncio.gather(loading, return_exceptions=True)
        reranker.close()


async def _loaded() -> float | None:
    return metrics.REGISTRY.get_sample_value("kb_reranker_loaded")


async def test_a_model_by_name_is_found_where_it_was_downloaded_to(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`hf download` leaves it in the cache of this machine; loading it from there asks no network."""
    repository = tmp_path / "models--house--shared-words"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    shutil.copytree(folder, repository / "snapshots" / ("0" * 40))
    asked: list[object] = []
    monkeypatch.setattr(socket, "getaddrinfo", lambda *arguments, **_: asked.append(arguments))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    reranker = CrossEncoderReranker("house/shared-words", concurrency=1)
    try:
        await reranker.load()
        assert (reranker.model, len(await reranker.score(QUERY, TEXTS))) == ("house/shared-words", len(TEXTS))
    finally:
        reranker.close()
    assert asked == []


def test_importing_the_reranker_imports_no_model_library() -> None:
    """A service that does not rerank does not pay for torch."""
    code = "import sys, shared.reranking.cross_encoder; sys.exit(bool({'torch', 'transformers', 'sentence_transformers'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=60, check=False).returncode == 0

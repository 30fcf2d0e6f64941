"""What every embedder does, run on the fake and on the real ones."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from shared.embedding.cache import CachingEmbedder
from shared.embedding.factory import LoadableEmbedder, create_embedder
from shared.embedding.models import DEFAULT_MODEL, resolve_model
from shared.embedding.torch import TorchEmbedder
from shared.errors import UnavailableError
from shared.ports import Embedder
from tests.fakes.embedder import FakeEmbedder

TEXTS = [
    "How do plants turn light into sugar?",
    "Photosynthesis turns light into sugar in the leaves of plants.",
    "The committee adjourned without a vote.",
    "The committee will vote again on the report in March, and the vote will be public. " * 6,
]


@pytest.fixture(scope="module")
def torch_embedder() -> Iterator[TorchEmbedder]:
    """One original model for all tests of this module; skipped where torch is not installed."""
    pytest.importorskip("torch")
    embedder = TorchEmbedder(resolve_model(DEFAULT_MODEL), concurrency=1)
    yield embedder
    embedder.close()


@pytest.fixture(scope="module")
def onnx_model(model_dir: Path) -> Iterator[LoadableEmbedder]:
    """One exported model for all tests of this module, as the factory makes it."""
    embedder = create_embedder("onnx", DEFAULT_MODEL, model_dir, concurrency=2, arena=True)
    yield embedder
    embedder.close()


@pytest.fixture(params=["fake", "onnx", "torch", "cached onnx"])
async def subject(request: pytest.FixtureRequest) -> Embedder:
    """Each embedder, loaded."""
    match request.param:
        case "fake":
            return FakeEmbedder()
        case "torch":
            torch: TorchEmbedder = request.getfixturevalue("torch_embedder")
            await torch.load()
            return torch
    onnx: LoadableEmbedder = request.getfixturevalue("onnx_model")
    await onnx.load()
    return onnx if request.param == "onnx" else CachingEmbedder(onnx, 1_000_000)


async def test_vectors_have_the_stated_shape_and_unit_length(subject: Embedder) -> None:
    """Vectors are float32, one a text, of the embedder's dimension and of length 1."""
    vectors = await subject.embed(TEXTS)
    assert (len(TEXTS), subject.dimension) == vectors.shape
    assert np.float32 == vectors.dtype
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)


async def test_no_texts_give_no_vectors(subject: Embedder) -> None:
    """An empty list is answered with an array of no rows and the right width."""
    assert (0, subject.dimension) == (await subject.embed([])).shape


async def test_order_is_that_of_the_texts(subject: Embedder) -> None:
    """A text's vector stands where the text stood, whatever it is embedded together with."""
    together = await subject.embed(TEXTS)
    for index, text in enumerate(TEXTS):
        # int8 activations are scaled by the largest of the batch, so neighbours matter a little
        assert float((await subject.embed([text]))[0] @ together[index]) > 0.98


async def test_related_texts_are_nearer_than_unrelated(subject: Embedder) -> None:
    """Texts about the same thing score higher than texts about different things."""
    plants, leaves, committee, vote = await subject.embed(TEXTS)
    assert plants @ leaves > plants @ committee
    assert committee @ vote > leaves @ vote


async def test_texts_of_any_kind_are_embedded(subject: Embedder) -> None:
    """Empty, whitespace-only, very long and non-Latin texts get finite vectors of unit length."""
    vectors = await subject.embed(["", " \n", "word " * 5000, "漢字かな", "😀", "x" * 10_000])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)


async def test_model_and_dimension_are_those_of_projects(subject: Embedder) -> None:
    """The embedder states the model as projects do, and its dimension."""
    assert (subject.model, subject.dimension) == (DEFAULT_MODEL, 384)


@pytest.fixture(params=["fake", "onnx", "torch"])
def unusable(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[LoadableEmbedder]:
    """Embedders whose model is not there, or not loaded."""
    if request.param == "fake":
        fake = FakeEmbedder()
        fake.fail()
        yield fake
        return
    embedder = create_embedder(request.param, DEFAULT_MODEL, tmp_path, concurrency=1, arena=False)
    yield embedder
    embedder.close()


async def test_a_missing_model_is_reported_as_unavailable(unusable: LoadableEmbedder) -> None:
    """Without its model an embedder can be made and asked for its dimension; embedding says which component is at fault."""
    assert unusable.dimension == 384
    with pytest.raises(UnavailableError) as raised:
        await unusable.embed(["text"])
    assert raised.value.component == "embedding_model"

"""The memory-mapped vectors of a project."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.query.replica.model import Pks
from services.query.replica.vectors import ProjectVectors
from shared.domain import Vectors
from shared.errors import CorruptionError

DIMENSION = 4
NONE: Pks = np.empty(0, dtype=np.int64)


def keys(*values: int) -> Pks:
    """Keys as an array."""
    return np.array(values, dtype=np.int64)


def matrix(count: int, seed: int = 0) -> Vectors:
    """Some vectors of unit length."""
    values = np.random.default_rng(seed).standard_normal((count, DIMENSION)).astype(np.float32)
    return np.asarray(values / np.linalg.norm(values, axis=1, keepdims=True), dtype=np.float32)


def store(path: Path) -> ProjectVectors:
    """An empty store."""
    return ProjectVectors(path / "v.f32", DIMENSION, NONE, NONE)


def put(vectors: ProjectVectors, pks: Pks, values: Vectors) -> dict[int, int]:
    """Adds vectors; returns the slots as a caller would commit them."""
    prepared = vectors.prepare(pks, values)
    vectors.publish(prepared)
    return dict(zip(prepared.pks.tolist(), prepared.slots.tolist(), strict=True))


@pytest.mark.parametrize("allowed_count", [None, 0, 3, 300, 900])
def test_finds_the_nearest_exactly(tmp_path: Path, allowed_count: int | None) -> None:
    """The result is that of sorting all products, whether few, many or all keys are allowed."""
    values, vectors = matrix(1_000), store(tmp_path)
    put(vectors, np.arange(10, 1_010, dtype=np.int64), values)
    allowed = None if allowed_count is None else np.sort(np.random.default_rng(1).choice(1_000, allowed_count, replace=False) + 10)
    query = matrix(1, seed=2)[0]
    candidates = np.arange(10, 1_010) if allowed is None else allowed
    expected = sorted(((float(values[pk - 10] @ query), int(pk)) for pk in candidates), key=lambda one: -one[0])[:20]
    found = vectors.top_k(query, 20, allowed)
    assert [pk for _, pk in expected] == [hit.pk for hit in found]
    assert [score for score, _ in expected] == pytest.approx([hit.score for hit in found], abs=1e-6)


def test_equal_scores_are_ordered_by_key(tmp_path: Path) -> None:
    """Where the last place is shared, the smallest keys have it, wherever their slots are."""
    vectors, same = store(tmp_path), np.tile(matrix(1), (6, 1))
    put(vectors, keys(7, 8, 9), same[:3])
    put(vectors, keys(1, 2, 3), same[3:])
    assert [hit.pk for hit in vectors.top_k(same[0], 4)] == [1, 2, 3, 7]


def test_prepared_vectors_are_not_seen_before_they_are_published(tmp_path: Path) -> None:
    """A search between writing and committing does not find them, and preparing again after a failed commit does no harm."""
    vectors, values = store(tmp_path), matrix(2)
    vectors.prepare(keys(1, 2), values)
    assert vectors.top_k(values[0], 5) == []
    put(vectors, keys(1, 2), values)
    assert sorted(hit.pk for hit in vectors.top_k(values[0], 5)) == [1, 2]


def test_unknown_keys_are_ignored_and_known_ones_gathered(tmp_path: Path) -> None:
    """`gather` gives the vectors of those that are there, in the order asked for."""
    vectors, values = store(tmp_path), matrix(3)
    put(vectors, keys(1, 2, 3), values)
    vectors.remove(keys(2, 99))
    pks, found = vectors.gather(keys(3, 2, 1, 50))
    assert pks.tolist() == [3, 1]
    assert np.array_equal(values[[2, 0]], found)


def test_the_same_vector_again_writes_nothing(tmp_path: Path) -> None:
    """A replayed batch keeps the slots; another vector for a chunk takes another slot."""
    vectors, values = store(tmp_path), matrix(2)
    first = put(vectors, keys(1, 2), values)
    assert put(vectors, keys(1, 2), values) == {}
    replaced = put(vectors, keys(1), matrix(1, seed=9))
    assert replaced[1] not in first.values()
    assert len(vectors) == 2


def test_damage_is_noticed(tmp_path: Path) -> None:
    """A file that lacks a committed slot is refused."""
    with pytest.raises(CorruptionError):
        ProjectVectors(tmp_path / "v.f32", DIMENSION, keys(1), keys(0))


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.booleans(), st.sets(st.integers(1, 400), min_size=1, max_size=150)), max_size=12))
def test_survives_any_history_and_reopening(tmp_path_factory: pytest.TempPathFactory, history: list[tuple[bool, set[int]]]) -> None:
    """After any adds and removals, here and after opening the file again, every chunk has its own vector and the file does not leak slots."""
    path, truth, slots, most = tmp_path_factory.mktemp("v"), dict[int, int](), dict[int, int](), 0
    vectors = store(path)
    for turn, (adding, chosen) in enumerate(history):
        pks = keys(*sorted(chosen))
        if adding:
            slots |= put(vectors, pks, np.array([matrix(1, seed=turn * 1_000 + int(pk))[0] for pk in pks]))
            truth |= {int(pk): turn * 1_000 + int(pk) for pk in pks}
        else:
            vectors.remove(pks)
            for pk in chosen:
                truth.pop(pk, None)
                slots.pop(pk, None)
        most = max(most, len(truth))
    stored = keys(*sorted(slots))
    again = ProjectVectors(path / "v.f32", DIMENSION, stored, keys(*(slots[pk] for pk in stored.tolist())))
    assert len(set(slots.values())) == len(slots) == len(truth)
    assert max(slots.values(), default=0) < most + 150  # a batch that replaces vectors needs its slots beside the old ones
    for opened in (vectors, again):
        assert len(truth) == len(opened)
        pks, values = opened.gather(keys(*sorted(truth)))
        assert sorted(truth) == pks.tolist()
        assert all(np.array_equal(matrix(1, seed=truth[pk])[0], value) for pk, value in zip(pks.tolist(), values, strict=True))

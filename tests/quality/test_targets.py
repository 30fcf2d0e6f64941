"""Which figures are good enough."""

from __future__ import annotations

import pytest

from services.cli.quality.measure import Measures
from services.cli.quality.targets import checks, int8_check, outage_checks


def figures(keyword: float, vector: float, default: float) -> dict[str, Measures]:
    """NDCG@10 of three systems."""
    return {name: Measures(value, 1.0, 1.0, 10) for name, value in (("keyword", keyword), ("vector", vector), ("default", default))}


@pytest.mark.parametrize(
    ("name", "keyword", "vector", "default", "missed"),
    [
        ("golden", 0.79, 0.89, 0.91, []),
        ("golden", 0.79, 0.89, 0.90, []),
        ("golden", 0.79, 0.85, 0.8999, ["at least 0.9"]),
        ("golden", 0.80, 0.89, 0.91, ["keyword alone 0.8000 is below"]),
        ("golden", 0.79, 0.90, 0.91, ["vector alone 0.9000 is below"]),
        ("scifact", 0.69, 0.67, 0.7099, ["at least 0.71"]),
        ("cranfield", 0.35, 0.38, 0.4049, ["at least 0.405"]),
        ("cranfield", 0.42, 0.38, 0.41, ["above the better leg"]),
        ("of-a-user", 0.3, 0.2, 0.3, ["above the better leg"]),
        ("of-a-user", 0.3, 0.2, 0.31, []),
    ],
)
def test_a_missed_target_is_named(name: str, keyword: float, vector: float, default: float, missed: list[str]) -> None:
    """Each collection has its own; that hybrid beats both legs holds for all."""
    found = [check.text for check in checks(name, figures(keyword, vector, default)) if not check.met]

    assert len(found) == len(missed)
    assert all(part in text for part, text in zip(missed, found, strict=True))


def test_int8_may_be_better_than_fp32_and_not_much_worse() -> None:
    """The loss is what is bounded."""
    original = Measures(0.900, 1.0, 1.0, 10)

    assert int8_check(Measures(0.8951, 1.0, 1.0, 10), original).met
    assert int8_check(Measures(0.95, 1.0, 1.0, 10), original).met
    assert not int8_check(Measures(0.8949, 1.0, 1.0, 10), original).met


@pytest.mark.parametrize(
    ("dead_vectors", "dead_keyword", "missed"),
    [(0.90, 0.75, []), (0.9019, 0.75, []), (0.897, 0.75, ["the replica's vectors"]), (0.90, 0.9, ["without vectors"])],
)
def test_without_chromadb_answers_must_be_as_good_as_promised(dead_vectors: float, dead_keyword: float, missed: list[str]) -> None:
    """As with it, or as keyword search alone: neither worse nor better, which would mean that something else was measured."""
    found = outage_checks(*(Measures(value, 1.0, 1.0, 10) for value in (0.90, 0.75, dead_vectors, dead_keyword)))

    texts = [check.text for check in found if not check.met]
    assert len(texts) == len(missed)
    assert all(part in text for part, text in zip(missed, texts, strict=True))

"""The measures are what their definitions say."""

from __future__ import annotations

import math
import random

import pytest

from services.cli.quality.measure import Measures, mean, measure

pytest.importorskip("ir_measures", reason="of the extra `bench`")


def ndcg(ranking: list[str], gains: dict[str, int]) -> float:
    """Jarvelin and Kekalainen 2002 with linear gains, for the first ten."""
    found = sum(gains.get(document, 0) / math.log2(place + 2) for place, document in enumerate(ranking[:10]))
    best = sum(gain / math.log2(place + 2) for place, gain in enumerate(sorted(gains.values(), reverse=True)[:10]))
    return found / best


def test_measures_agree_with_their_definitions_computed_by_hand() -> None:
    """On a hundred random rankings of 0 to 150 documents with up to 20 judged ones."""
    random.seed(7)
    documents = [f"d{number}" for number in range(200)]
    judgements = {
        f"q{number}": {document: random.randint(1, 3) for document in random.sample(documents, random.randint(1, 20))} for number in range(100)
    }
    rankings = {topic: random.sample(documents, random.randint(0, 150)) for topic in judgements}

    measured = measure(rankings, judgements)

    for topic, ranking in rankings.items():
        gains = judgements[topic]
        first = next((place for place, document in enumerate(ranking[:10], 1) if document in gains), None)
        assert measured[topic].ndcg == pytest.approx(ndcg(ranking, gains), abs=1e-4), topic  # trec_eval is accurate to about five places
        assert measured[topic].recall == pytest.approx(len(set(ranking[:100]) & gains.keys()) / len(gains)), topic
        assert measured[topic].mrr == pytest.approx(0.0 if first is None else 1 / first), topic


def test_the_order_of_the_ranking_counts_and_not_that_of_the_ids() -> None:
    """Neighbours are told apart, whatever they are called."""
    measured = measure({"q": ["z", "a"], "r": ["a", "z"]}, {"q": {"z": 1}, "r": {"z": 1}})

    assert measured["q"].mrr == 1.0
    assert measured["r"].mrr == 0.5


def test_a_question_without_hits_counts_as_zero() -> None:
    """It is not left out of the mean."""
    measured = measure({"q": ["a"], "r": []}, {"q": {"a": 3}, "r": {"a": 3}})

    assert mean(measured.values()) == Measures(0.5, 0.5, 0.5, 2)

"""Our NDCG is that of trec_eval."""

from __future__ import annotations

import math

import ir_measures
from hypothesis import given
from hypothesis import strategies as st
from ir_measures import nDCG

from services.query.application.ndcg import ndcg

DOCUMENTS = st.sampled_from([f"d{number:02}" for number in range(30)])
RANKINGS = st.lists(DOCUMENTS, unique=True, max_size=25)
GAINS = st.dictionaries(DOCUMENTS, st.integers(0, 3), min_size=1).filter(lambda gains: max(gains.values()) > 0)


@given(RANKINGS, GAINS)
def test_it_is_what_ir_measures_says(ranking: list[str], gains: dict[str, int]) -> None:
    """For any ranking and any judgements, more of either than ten among them."""
    judged = [ir_measures.Qrel("q", document, gain) for document, gain in gains.items()]
    run = [ir_measures.ScoredDoc("q", document, -float(place)) for place, document in enumerate(ranking)]
    assert math.isclose(ndcg(ranking, gains), ir_measures.calc_aggregate([nDCG @ 10], judged, run)[nDCG @ 10], abs_tol=1e-9)


def test_the_best_order_is_one_and_nothing_found_is_zero() -> None:
    """The ends of the scale."""
    assert ndcg(["a", "b", "c"], {"a": 3, "b": 1, "x": 0}) == 1.0
    assert ndcg([], {"a": 3}) == 0.0
    assert math.isclose(ndcg(["b", "a"], {"a": 3}), 1 / math.log2(3))

"""Fusing two rankings: properties that hold for any candidates."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from services.query.application.fusion import RRF_K, Ranking, fuse
from services.query.application.query import Fusion

SCORES = st.floats(-1, 100, allow_nan=False)
RANKINGS = st.dictionaries(st.integers(0, 50), SCORES, max_size=20).map(lambda found: sorted(found.items(), key=lambda item: -item[1]))
METHODS = st.sampled_from(list(Fusion))
ALPHAS = st.floats(0, 1)


@given(METHODS, RANKINGS, RANKINGS, ALPHAS)
def test_each_candidate_comes_once_and_the_best_first(method: Fusion, vector: Ranking, keyword: Ranking, alpha: float) -> None:
    """The result has the candidates of the legs that weigh anything, sorted by score, equal scores by key."""
    fused = fuse(method, vector, keyword, alpha)
    expected = {key for key, _ in vector if alpha > 0} | {key for key, _ in keyword if alpha < 1}
    assert {key for key, _ in fused} == expected
    assert len(fused) == len(expected)
    assert fused == sorted(fused, key=lambda item: (-item[1], item[0]))


@given(METHODS, RANKINGS, ALPHAS)
def test_a_single_leg_keeps_its_order(method: Fusion, ranking: Ranking, alpha: float) -> None:
    """With nothing to fuse, no candidate overtakes another."""
    for vector, keyword, weight in ((ranking, [], max(alpha, 0.01)), ([], ranking, min(alpha, 0.99))):
        scores = dict(fuse(method, vector, keyword, weight))
        kept = [scores[key] for key, _ in ranking]
        assert kept == sorted(kept, reverse=True)


@given(RANKINGS, RANKINGS, ALPHAS)
def test_reciprocal_rank_is_the_published_formula(vector: Ranking, keyword: Ranking, alpha: float) -> None:
    """`alpha / (60 + rank) + (1 - alpha) / (60 + rank)`, a missing leg adding nothing."""
    by_vector = {key: rank for rank, (key, _) in enumerate(vector, 1)}
    by_keyword = {key: rank for rank, (key, _) in enumerate(keyword, 1)}
    for key, score in fuse(Fusion.RRF, vector, keyword, alpha):
        expected = (alpha / (RRF_K + by_vector[key]) if key in by_vector else 0) + (
            (1 - alpha) / (RRF_K + by_keyword[key]) if key in by_keyword else 0
        )
        assert abs(score - expected) < 1e-12


@given(RANKINGS, RANKINGS, ALPHAS)
def test_weighted_scores_stay_within_their_weights(vector: Ranking, keyword: Ranking, alpha: float) -> None:
    """Normalised legs give 0 to 1 in all."""
    assert all(-1e-9 <= score <= 1 + 1e-9 for _, score in fuse(Fusion.WEIGHTED, vector, keyword, alpha))


def test_a_candidate_of_both_legs_beats_those_of_one() -> None:
    """The point of fusing: agreement counts."""
    assert fuse(Fusion.RRF, [(1, 0.9), (2, 0.8)], [(3, 9.0), (2, 8.0)], 0.5)[0][0] == 2

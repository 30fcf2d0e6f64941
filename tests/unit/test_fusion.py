"""Fusing two rankings: properties that hold for any candidates."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.query.application.fusion import Fused, Least, Ranking, alone, reciprocal_rank_fusion, weighted_fusion
from shared.search import FusionMethod

SCORES = st.floats(-1, 100, allow_nan=False)
RANKINGS = st.dictionaries(st.integers(0, 50), SCORES, max_size=20).map(lambda found: sorted(found.items(), key=lambda item: -item[1]))
METHODS = st.sampled_from(list(FusionMethod))
ALPHAS = st.floats(0, 1)
KS = st.integers(1, 1000)
CEILING = 40.0


def fuse(method: FusionMethod, vector: Ranking, keyword: Ranking, *, alpha: float, k: int) -> Fused:
    """By either method."""
    if method is FusionMethod.RRF:
        return reciprocal_rank_fusion(vector, keyword, alpha=alpha, k=k)
    return weighted_fusion(vector, keyword, alpha=alpha, ceiling=CEILING)


@given(METHODS, RANKINGS, RANKINGS, ALPHAS, KS)
def test_every_candidate_of_a_leg_that_weighs_anything_has_a_score(
    method: FusionMethod, vector: Ranking, keyword: Ranking, alpha: float, k: int
) -> None:
    """And nothing else has."""
    fused = fuse(method, vector, keyword, alpha=alpha, k=k)
    assert set(fused.scores) == {key for key, _ in vector if alpha > 0} | {key for key, _ in keyword if alpha < 1}


@given(METHODS, RANKINGS, ALPHAS, KS)
def test_a_single_leg_keeps_its_order(method: FusionMethod, ranking: Ranking, alpha: float, k: int) -> None:
    """With nothing to fuse, no candidate overtakes another."""
    for vector, keyword, weight in ((ranking, [], max(alpha, 0.01)), ([], ranking, min(alpha, 0.99))):
        scores = fuse(method, vector, keyword, alpha=weight, k=k).scores
        kept = [scores[key] for key, _ in ranking]
        assert kept == sorted(kept, reverse=True)


@given(METHODS, RANKINGS, RANKINGS, ALPHAS, KS)
def test_contributions_add_up_to_the_score(method: FusionMethod, vector: Ranking, keyword: Ranking, alpha: float, k: int) -> None:
    """Exactly: what is explained is what was computed."""
    fused = fuse(method, vector, keyword, alpha=alpha, k=k)
    for key, score in fused.scores.items():
        legs = [leg for leg in (fused.vector.contribution(key), fused.keyword.contribution(key)) if leg is not None]
        assert sum(leg.contribution for leg in legs) == score
        assert all(leg.contribution == leg.weight * leg.normalized_score for leg in legs)


@given(st.permutations(range(1, 21)), st.permutations(range(11, 31)), ALPHAS, KS)
def test_reciprocal_rank_is_the_published_formula(first: list[int], second: list[int], alpha: float, k: int) -> None:
    """`alpha / (k + rank) + (1 - alpha) / (k + rank)`, a missing leg adding nothing."""
    vector = [(key, 1.0 - place / 100) for place, key in enumerate(first, 1)]
    keyword = [(key, 50.0 - place) for place, key in enumerate(second, 1)]
    for key, score in fuse(FusionMethod.RRF, vector, keyword, alpha=alpha, k=k).scores.items():
        expected = (alpha / (k + first.index(key) + 1) if key in first else 0) + ((1 - alpha) / (k + second.index(key) + 1) if key in second else 0)
        assert score == pytest.approx(expected, abs=1e-12)


@given(RANKINGS, RANKINGS.map(lambda ranking: [(key, abs(score)) for key, score in ranking if score >= 0]), ALPHAS)
def test_weighted_scores_stay_within_their_weights(vector: Ranking, keyword: Ranking, alpha: float) -> None:
    """Normalised legs give 0 to 1 in all; BM25 is never negative."""
    assert all(-1e-9 <= score <= 1 + 1e-9 for score in fuse(FusionMethod.WEIGHTED, vector, keyword, alpha=alpha, k=60).scores.values())


def test_a_candidate_of_both_legs_beats_those_of_one() -> None:
    """The point of fusing: agreement counts."""
    scores = fuse(FusionMethod.RRF, [(1, 0.9), (2, 0.8)], [(3, 9.0), (2, 8.0)], alpha=0.5, k=60).scores
    assert max(scores, key=scores.__getitem__) == 2


def test_a_small_constant_makes_the_first_places_count_more() -> None:
    """With k = 1 the best of one leg beats what is in the middle of both; with k = 60 it does not."""
    vector = [(key, 1 - key / 100) for key in range(10)]
    keyword = [(key, 1 - key / 100) for key in (20, 21, 22, 4)]
    for k, best in ((1, 0), (60, 4)):
        scores = fuse(FusionMethod.RRF, vector, keyword, alpha=0.6, k=k).scores
        assert max(scores, key=scores.__getitem__) == best


def test_equal_scores_of_a_leg_share_their_rank() -> None:
    """The order among equals is a replica's own affair, and must not show in an answer."""
    fused = alone(keyword=[(7, 2.0), (3, 2.0), (5, 1.0)])
    assert [leg.rank for key in (7, 3, 5) if (leg := fused.keyword.score(key))] == [1, 1, 3]
    assert fused.vector.score(7) is None


def test_a_keyword_leg_without_good_candidates_counts_little() -> None:
    """One ordinary word of many does not push the nearest by meaning off the top; a quarter of what was asked for counts fully."""
    vector = [(1, 0.8), (2, 0.5), (3, 0.3)]
    for best, first in ((1.0, 1), (CEILING / 4, 2)):
        scores = weighted_fusion(vector, [(2, best)], alpha=0.5, ceiling=CEILING).scores
        assert max(scores, key=scores.__getitem__) == first
    assert weighted_fusion([], [(2, CEILING / 8), (3, CEILING / 8)], alpha=0.5, ceiling=CEILING).scores == {2: 0.25, 3: 0.25}


def test_a_score_in_single_precision_is_a_threshold_that_keeps_its_own_candidate() -> None:
    """Clients see scores as floats; 0.123456789 reads 0.12345679 there, which is more."""
    vector = [(1, 0.9), (2, 0.123456789), (3, 0.1)]
    fused = weighted_fusion(vector, [], alpha=1.0, ceiling=0.0, least=Least(vector=float(np.float32(0.123456789))))
    assert set(fused.scores) == {1, 2}
    assert fused.scores == {key: score for key, score in weighted_fusion(vector, [], alpha=1.0, ceiling=0.0).scores.items() if key != 3}

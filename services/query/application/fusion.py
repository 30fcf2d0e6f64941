"""Fusing two ranked lists into one. Pure.

Reciprocal rank fusion: Cormack, Clarke and Büttcher, "Reciprocal Rank Fusion outperforms Condorcet and individual Rank Learning Methods",
SIGIR 2009. Weighted fusion is a convex combination of scores that are brought to 0..1: Bruch, Gai and Ingber, "An Analysis of Fusion Functions for
Hybrid Retrieval", TOIS 2023. How the scores are brought to 0..1 is chosen by measurement: docs/adr/0010-default-fusion.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from shared.search import LegContribution, LegScore

# Candidates of a leg: key and score, best first.
Ranking = Sequence[tuple[int, float]]

# With a quarter of what the query asks for, by weight of its words, a keyword candidate counts fully.
_CEILING_SHARE = 0.25


@dataclass(frozen=True, slots=True)
class Leg:
    """A leg's candidates by key, with what each is worth before it is weighted."""

    weight: float
    ranks: Mapping[int, int]
    scores: Mapping[int, float]
    normalized: Mapping[int, float]

    def score(self, key: int) -> LegScore | None:
        """How the leg saw a candidate; None if it did not have it."""
        return LegScore(self.ranks[key], self.scores[key]) if key in self.ranks else None

    def contribution(self, key: int) -> LegContribution | None:
        """What the leg adds to a candidate's fused score; None if it did not have it."""
        if key not in self.ranks:
            return None
        normalized = self.normalized[key]
        return LegContribution(self.ranks[key], self.scores[key], normalized, self.weight, self.weight * normalized)


@dataclass(frozen=True, slots=True)
class Fused:
    """Both legs, and every candidate's score: the sum of the legs' contributions. A leg of weight 0 adds no candidate."""

    vector: Leg
    keyword: Leg
    scores: Mapping[int, float]


def _ranks(ranking: Ranking) -> dict[int, int]:
    """Places from 1; equal scores share the better place, so that a rank does not depend on the order among equals."""
    ranks: dict[int, int] = {}
    place, before = 0, None
    for position, (key, score) in enumerate(ranking, 1):
        if score != before:
            place, before = position, score
        ranks[key] = place
    return ranks


def _min_max(ranking: Ranking) -> dict[int, float]:
    """Scores brought to 0..1 by the largest and the smallest; all 1 when they are equal."""
    if not ranking:
        return {}
    high, low = ranking[0][1], ranking[-1][1]
    spread = high - low
    return {key: (score - low) / spread if spread > 0 else 1.0 for key, score in ranking}


def _above_noise(ranking: Ranking, ceiling: float) -> dict[int, float]:
    """Keyword scores brought to 0..1 by the smallest candidate, and by the largest or a part of `ceiling`, whichever is more.

    So a best candidate that shares one ordinary word with the query, out of many, does not count as much as one that has all of them.
    """
    if not ranking:
        return {}
    best, last = ranking[0][1], ranking[-1][1]
    low = last if last < best else 0.0  # equal scores: each counts as much as it would at the top
    high = max(best, _CEILING_SHARE * ceiling)
    return {key: (score - low) / (high - low) if high > low else 1.0 for key, score in ranking}


def _leg(ranking: Ranking, weight: float, normalize: Callable[[Ranking, Mapping[int, int]], dict[int, float]]) -> Leg:
    ranks = _ranks(ranking)
    return Leg(weight, ranks, dict(ranking), normalize(ranking, ranks))


def _add(vector: Leg, keyword: Leg) -> Fused:
    scores: dict[int, float] = {}
    for leg in (vector, keyword):
        if leg.weight:
            for key, value in leg.normalized.items():
                scores[key] = scores.get(key, 0.0) + leg.weight * value
    return Fused(vector, keyword, scores)


def reciprocal_rank_fusion(vector: Ranking, keyword: Ranking, *, alpha: float, k: int) -> Fused:
    """`alpha / (k + rank)` of the vector leg plus `(1 - alpha) / (k + rank)` of the keyword leg; `alpha` is 0 to 1, both legs are best first."""

    def reciprocal(_: Ranking, ranks: Mapping[int, int]) -> dict[int, float]:
        return {key: 1 / (k + rank) for key, rank in ranks.items()}

    return _add(_leg(vector, alpha, reciprocal), _leg(keyword, 1 - alpha, reciprocal))


def weighted_fusion(vector: Ranking, keyword: Ranking, *, alpha: float, ceiling: float) -> Fused:
    """`alpha` times the normalised score of the vector leg plus `1 - alpha` times that of the keyword leg.

    Args:
        vector: candidates by cosine, best first; brought to 0..1 by the largest and the smallest.
        keyword: candidates by BM25, best first; brought to 0..1 by the smallest, and the largest or a quarter of `ceiling` if that is more.
        alpha: 0 to 1.
        ceiling: the largest BM25 score that any text could have for the query.
    """
    return _add(
        _leg(vector, alpha, lambda ranking, _: _min_max(ranking)), _leg(keyword, 1 - alpha, lambda ranking, _: _above_noise(ranking, ceiling))
    )


def alone(*, vector: Ranking = (), keyword: Ranking = ()) -> Fused:
    """One leg without the other (which is left empty): its own scores are the result."""
    return _add(*(_leg(ranking, 1.0 if ranking else 0.0, lambda own, _: dict(own)) for ranking in (vector, keyword)))

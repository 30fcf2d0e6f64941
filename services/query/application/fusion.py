"""Fusing two ranked lists into one. Pure.

Reciprocal rank fusion: Cormack, Clarke and Büttcher, "Reciprocal Rank Fusion outperforms Condorcet and individual Rank Learning Methods",
SIGIR 2009. Weighted fusion is a convex combination of scores that are brought to 0..1: Bruch, Gai and Ingber, "An Analysis of Fusion Functions for
Hybrid Retrieval", TOIS 2023. How the scores are brought to 0..1 is chosen by measurement: docs/adr/0010-default-fusion.md.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from shared.search import LegContribution, LegScore

# Candidates of a leg: key and score, best first.
Ranking = Sequence[tuple[int, float]]

# With a quarter of what the query asks for, by weight of its words, a keyword candidate counts fully.
_CEILING_SHARE = 0.25


@dataclass(frozen=True, slots=True)
class Least:
    """The score that a candidate of each leg must have; None: any."""

    vector: float | None = None
    keyword: float | None = None


_ANY = Least()


@dataclass(frozen=True, slots=True)
class Leg:
    """A leg's candidates, best first, and by key what each is worth before it is weighted."""

    weight: float
    ranking: Ranking
    scores: Mapping[int, float]
    normalized: Mapping[int, float]

    def score(self, key: int) -> LegScore | None:
        """How the leg saw a candidate; None if it did not have it. Equal scores share the better place: their order is a replica's own affair."""
        score = self.scores.get(key)
        if score is None:
            return None
        return LegScore(1 + bisect_left(self.ranking, -score, key=lambda candidate: -candidate[1]), score)

    def contribution(self, key: int) -> LegContribution | None:
        """What the leg adds to a candidate's fused score; None if it did not have it."""
        seen = self.score(key)
        if seen is None:
            return None
        normalized = self.normalized[key]
        return LegContribution(seen.rank, seen.score, normalized, self.weight, self.weight * normalized)


@dataclass(frozen=True, slots=True)
class Fused:
    """Both legs, and every candidate's score: the sum of the legs' contributions. A leg of weight 0 adds no candidate."""

    vector: Leg
    keyword: Leg
    scores: Mapping[int, float]


def _reciprocal(ranking: Ranking, k: int) -> dict[int, float]:
    """`1 / (k + rank)`, ranks from 1; equal scores share the better place."""
    normalized: dict[int, float] = {}
    place, before = 0, None
    for position, (key, score) in enumerate(ranking, 1):
        if score != before:
            place, before = position, score
        normalized[key] = 1 / (k + place)
    return normalized


def _between(ranking: Ranking, low: float, high: float) -> dict[int, float]:
    """Scores brought to 0..1; all 1 when there is nothing between."""
    spread = high - low
    return {key: (score - low) / spread for key, score in ranking} if spread > 0 else {key: 1.0 for key, _ in ranking}


def _min_max(ranking: Ranking) -> dict[int, float]:
    """By the smallest and the largest."""
    return _between(ranking, ranking[-1][1], ranking[0][1]) if ranking else {}


def _above_noise(ranking: Ranking, ceiling: float) -> dict[int, float]:
    """By the smallest candidate, and by the largest or a part of `ceiling`, whichever is more.

    So a best candidate that shares one ordinary word with the query, out of many, does not count as much as one that has all of them.
    """
    if not ranking:
        return {}
    best, last = ranking[0][1], ranking[-1][1]
    # Equal scores: each counts as much as it would at the top.
    return _between(ranking, last if last < best else 0.0, max(best, _CEILING_SHARE * ceiling))


def _leg(weight: float, ranking: Ranking, normalized: Mapping[int, float], least: float | None) -> Leg:
    """The leg without the candidates below `least`, which are left out now: what the others are worth does not depend on it."""
    if least is None:
        return Leg(weight, ranking, dict(ranking), normalized)
    # Scores are given out in single precision, so that is what they are compared in: a hit's own score does not leave it out.
    kept = [(key, score) for key, score in ranking if np.float32(score) >= np.float32(least)]
    return Leg(weight, kept, dict(kept), {key: normalized[key] for key, _ in kept})


def _add(vector: Leg, keyword: Leg) -> Fused:
    weight = vector.weight
    scores = {key: weight * value for key, value in vector.normalized.items()} if weight else {}
    weight = keyword.weight
    if weight:
        known = scores.get
        for key, value in keyword.normalized.items():
            scores[key] = known(key, 0.0) + weight * value
    return Fused(vector, keyword, scores)


def reciprocal_rank_fusion(vector: Ranking, keyword: Ranking, *, alpha: float, k: int, least: Least = _ANY) -> Fused:
    """`alpha / (k + rank)` of the vector leg plus `(1 - alpha) / (k + rank)` of the keyword leg; `alpha` is 0 to 1, both legs are best first."""
    return _add(_leg(alpha, vector, _reciprocal(vector, k), least.vector), _leg(1 - alpha, keyword, _reciprocal(keyword, k), least.keyword))


def weighted_fusion(vector: Ranking, keyword: Ranking, *, alpha: float, ceiling: float, least: Least = _ANY) -> Fused:
    """`alpha` times the normalised score of the vector leg plus `1 - alpha` times that of the keyword leg.

    Args:
        vector: candidates by cosine, best first; brought to 0..1 by the largest and the smallest.
        keyword: candidates by BM25, best first; brought to 0..1 by the smallest, and the largest or a quarter of `ceiling` if that is more.
        alpha: 0 to 1.
        ceiling: the largest BM25 score that any text could have for the query.
        least: candidates below are left out.
    """
    by_meaning, by_words = _min_max(vector), _above_noise(keyword, ceiling)
    return _add(_leg(alpha, vector, by_meaning, least.vector), _leg(1 - alpha, keyword, by_words, least.keyword))


def alone(*, vector: Ranking = (), keyword: Ranking = (), least: Least = _ANY) -> Fused:
    """One leg without the other (which is left empty): its own scores are the result."""
    return _add(
        _leg(1.0 if vector else 0.0, vector, dict(vector), least.vector), _leg(1.0 if keyword else 0.0, keyword, dict(keyword), least.keyword)
    )

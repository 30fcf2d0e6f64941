"""Fusing two ranked lists into one. Pure.

Reciprocal rank fusion: Cormack, Clarke and Büttcher, "Reciprocal Rank Fusion outperforms Condorcet and individual Rank Learning Methods",
SIGIR 2009; k = 60 is theirs. Weighted fusion brings each leg's scores to 0..1 by the smallest and largest of its candidates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from services.query.application.query import Fusion

RRF_K = 60

# Candidates of a leg: key and score, best first.
Ranking = Sequence[tuple[int, float]]


def reciprocal_rank(vector: Ranking, keyword: Ranking, alpha: float) -> dict[int, float]:
    """`alpha / (k + rank_vector) + (1 - alpha) / (k + rank_keyword)`; a leg that lacks a key adds nothing."""
    scores: dict[int, float] = {}
    for weight, ranking in ((alpha, vector), (1 - alpha, keyword)):
        for rank, (key, _) in enumerate(ranking, 1):
            scores[key] = scores.get(key, 0.0) + weight / (RRF_K + rank)
    return scores


def weighted(vector: Ranking, keyword: Ranking, alpha: float) -> dict[int, float]:
    """`alpha * vector + (1 - alpha) * keyword` of the normalised scores; a leg that lacks a key adds nothing."""
    scores: dict[int, float] = {}
    for weight, ranking in ((alpha, vector), (1 - alpha, keyword)):
        for key, score in _normalised(ranking).items():
            scores[key] = scores.get(key, 0.0) + weight * score
    return scores


def _normalised(ranking: Ranking) -> Mapping[int, float]:
    """Scores brought to 0..1; all 1 when they are equal."""
    if not ranking:
        return {}
    values = [score for _, score in ranking]
    low, spread = min(values), max(values) - min(values)
    return {key: (score - low) / spread if spread > 0 else 1.0 for key, score in ranking}


def fuse(method: Fusion, vector: Ranking, keyword: Ranking, alpha: float) -> list[tuple[int, float]]:
    """Keys and fused scores, the best first; equal scores in the order of the keys. A leg of weight 0 adds no key."""
    vector = vector if alpha > 0 else ()
    keyword = keyword if alpha < 1 else ()
    scores = (reciprocal_rank if method is Fusion.RRF else weighted)(vector, keyword, alpha)
    return sorted(scores.items(), key=lambda item: (-item[1], item[0]))

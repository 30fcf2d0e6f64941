"""Maximal marginal relevance: choosing hits for what they add to those before them. Pure.

Carbonell and Goldstein, "The Use of MMR, Diversity-Based Reranking for Reordering Documents and Producing Summaries", SIGIR 1998.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from shared.domain import Vectors
from shared.search import DiversityStep


def relevance_of(scores: Sequence[float]) -> NDArray[np.float64]:
    """Scores brought to 0..1; all 1 when they are equal."""
    values = np.asarray(scores, dtype=np.float64)
    spread = np.ptp(values) if values.size else 0.0
    return np.ones_like(values) if spread == 0 else (values - values.min()) / spread


def maximal_marginal_relevance(scores: Sequence[float], vectors: Vectors, lambda_: float, count: int) -> list[tuple[int, DiversityStep]]:
    """The first `count` candidates in their new order: the place of each in `scores`, and how it was chosen.

    The choice is greedy, so the beginning of a longer list is the shorter list. Among equals the earlier candidate wins.

    Args:
        scores: of the candidates, best first.
        vectors: shape `(len(scores), dimension)`, of unit length; zeros for a candidate without a vector, which then resembles nothing.
        lambda_: 1 is relevance alone, 0 diversity alone.
        count: how many to choose.
    """
    relevance = relevance_of(scores)
    similarity = np.zeros(relevance.size)
    left = np.ones(relevance.size, dtype=np.bool_)
    chosen: list[tuple[int, DiversityStep]] = []
    for _ in range(min(count, relevance.size)):
        values = np.where(left, lambda_ * relevance - (1 - lambda_) * similarity, -np.inf)
        best = int(values.argmax())
        left[best] = False
        chosen.append((best, DiversityStep(float(relevance[best]), float(similarity[best]), float(values[best]), best + 1)))
        to_best = vectors @ vectors[best]
        similarity = to_best.astype(np.float64) if len(chosen) == 1 else np.maximum(similarity, to_best)
    return chosen

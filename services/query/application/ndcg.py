"""NDCG: how much of the possible gain a ranking has, counting less what comes later. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

DEPTH = 10


def ndcg(ranking: Sequence[str], gains: Mapping[str, int], depth: int = DEPTH) -> float:
    """0 to 1, with linear gains, as trec_eval and `kb quality` have it.

    Args:
        ranking: documents, best first, each once.
        gains: of the documents that were judged; at least one is above 0.
        depth: how many documents count.
    """
    return _dcg(gains.get(document, 0) for document in ranking[:depth]) / _dcg(sorted(gains.values(), reverse=True)[:depth])


def _dcg(gains: Iterable[int]) -> float:
    return sum(gain / math.log2(place + 1) for place, gain in enumerate(gains, 1))

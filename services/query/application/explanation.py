"""How a hit's score came about. Pure."""

from __future__ import annotations

from services.query.application.fusion import Fused
from services.query.application.query import Query
from shared.search import DiversityStep, Explanation, FusionMethod, LegContribution, RerankingStep


def explain(query: Query, fused: Fused, key: int, diversity: DiversityStep | None, reranking: RerankingStep | None) -> Explanation:
    """The legs' contributions to a candidate's score, which add up to it, and what moved it afterwards."""
    vector, keyword = fused.vector.contribution(key), fused.keyword.contribution(key)
    score = fused.scores[key]
    terms = [_term(query, name, leg) for name, leg in (("vector", vector), ("keyword", keyword)) if leg is not None]
    return Explanation(vector, keyword, score, f"{' + '.join(terms)} = {score:.6g}", diversity, reranking)


def _term(query: Query, name: str, leg: LegContribution) -> str:
    if leg.weight == 1.0 and leg.normalized_score == leg.score:
        return f"{leg.score:.6g} ({name})"
    if query.fusion is FusionMethod.RRF:
        return f"{leg.weight:.4g} / ({query.rrf_k} + {leg.rank}) ({name})"
    return f"{leg.weight:.4g} × {leg.normalized_score:.6g} ({name})"

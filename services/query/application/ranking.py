"""The order of a search's candidates, and what made it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from services.query.application.fusion import Fused
from services.query.ports import SearchIndex
from shared.domain import ProjectId
from shared.search import RerankingStep


@dataclass(frozen=True, slots=True)
class Ranked:
    """Candidates in their order.

    Attributes:
        order: keys, best first.
        scores: what they are shown with; of those that were reranked, the reranker's.
        fused: the legs that they come from.
        reranked: those that the reranker has ordered; they stand before all others.
    """

    order: Sequence[int]
    scores: Mapping[int, float]
    fused: Fused
    reranked: Mapping[int, RerankingStep] = field(default_factory=dict)


def rank(index: SearchIndex, project_id: ProjectId, fused: Fused) -> Ranked:
    """Candidates by falling score; equal ones by chunk id, which is the same in every replica, while keys are not."""
    scores = fused.scores
    order = sorted(scores, key=scores.__getitem__, reverse=True)
    runs = [list(run) for _, run in groupby(order, key=scores.__getitem__)]
    equal = [key for run in runs if len(run) > 1 for key in run]
    if equal:
        ids = index.chunk_ids(project_id, equal)
        # One that is no longer current has no id, and will be no hit.
        order = [key for run in runs for key in (run if len(run) == 1 else sorted((key for key in run if key in ids), key=ids.__getitem__))]
    return Ranked(order, scores, fused)


def rerank(ranked: Ranked, scores: Mapping[int, float]) -> Ranked:
    """The scored candidates first, by falling score and else as they were; the others behind them as they were."""
    places = {key: place for place, key in enumerate(ranked.order, 1)}
    first = sorted(scores, key=lambda key: (-scores[key], places[key]))
    rest = [key for key in ranked.order if key not in scores]
    return Ranked([*first, *rest], {**ranked.scores, **scores}, ranked.fused, {key: RerankingStep(scores[key], places[key]) for key in first})

"""Embedding what is searched for: in its time, or not at all."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from services.query.application.degradation import Outages
from shared.domain import Vectors
from shared.errors import UnavailableError
from shared.ports import Embedder
from shared.resilience.deadline import Deadline
from shared.search import Degradation, DegradationReason

_COMPONENT = "embedding_model"


async def embed(embedder: Embedder, texts: Sequence[str], what: str, deadline: Deadline, budget: float, outages: Outages) -> Vectors | Degradation:
    """The vectors of the texts, or why they could not be had in `budget` seconds; `what` names the texts for people."""
    within = deadline.within(budget)
    try:
        async with asyncio.timeout(within.remaining()):
            vectors = await embedder.embed(texts)
    except (UnavailableError, TimeoutError) as error:
        # Who had less time than the embedder is given says nothing of the embedder.
        hurried = isinstance(error, TimeoutError) and within == deadline
        since = None if hurried else outages.failed(_COMPONENT)
        return Degradation(DegradationReason.EMBEDDING_UNAVAILABLE, _COMPONENT, f"{what} could not be embedded{' in time' * hurried}", since)
    outages.worked(_COMPONENT)
    return vectors

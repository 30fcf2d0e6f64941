"""What is told of a search once it is answered: counted for users' searches, and not for the canary's, which would move every objective."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

from services.query.application.degradation import Degradations
from services.query.application.ladder import refusals_counted
from services.query.application.query import Query, SimilarQuery
from services.query.application.slow_searches import SlowSearches
from shared.observability import exemplars, metrics
from shared.search import SearchAnswer, SearchMode

_SIMILAR = "similar"
_DURATION = {
    (mode, degraded): metrics.QUERY_DURATION.labels(mode, "true" if degraded else "false")
    for mode in (*(mode.value for mode in SearchMode), _SIMILAR)
    for degraded in (True, False)
}


class Account(Protocol):
    """Is told of every search, for what is similar included."""

    def answered(self, query: Query | SimilarQuery, answer: SearchAnswer, degradations: Degradations) -> None:
        """A search has its answer; `degradations` are all that the answer names."""

    def refusals(self) -> AbstractContextManager[None]:
        """Around computing an answer: notices a search that is refused because nothing stands in for its vectors."""


class Counted:
    """Metrics, and the log of slow searches."""

    def __init__(self, slow: SlowSearches) -> None:
        self._slow = slow

    def answered(self, query: Query | SimilarQuery, answer: SearchAnswer, degradations: Degradations) -> None:
        """See `Account`."""
        search = query if isinstance(query, Query) else None
        _DURATION[search.mode.value if search else _SIMILAR, answer.degraded].observe(answer.timings.total, exemplars.current())
        degradations.count()
        self._slow.note(
            "search" if search else _SIMILAR,
            query.project_id,
            answer,
            top_k=query.top_k,
            candidates=search.window if search else None,
            filtered=query.filter is not None,
        )

    def refusals(self) -> AbstractContextManager[None]:
        """See `Account`."""
        return refusals_counted()


class Uncounted:
    """Nothing."""

    def answered(self, query: Query | SimilarQuery, answer: SearchAnswer, degradations: Degradations) -> None:
        """See `Account`."""

    def refusals(self) -> AbstractContextManager[None]:
        """See `Account`."""
        return nullcontext()

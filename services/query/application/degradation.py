"""What is missing from an answer, why, and since when."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Final

from cachetools import LRUCache

from shared.domain import ProjectId
from shared.errors import UnavailableError
from shared.observability import metrics
from shared.search import Degradation, DegradationReason

# Seconds that a refused client is asked to wait: an outage that is over sooner was hardly one.
RETRY_AFTER: Final = 5.0
# Faults that are remembered. A fault with one project is forgotten when it is over, or with the least recent ones when there are more than this.
_REMEMBERED = 10_000
# What stood in for the vector leg.
_STEPS: Final[Mapping[DegradationReason, str]] = {
    DegradationReason.VECTOR_STORE_UNAVAILABLE: "replica_vectors",
    DegradationReason.LAST_GOOD_ANSWER: "last_answer",
    DegradationReason.VECTOR_LEG_MISSING: "keyword",
    DegradationReason.EMBEDDING_UNAVAILABLE: "keyword",
}


class Outages:
    """Remembers since when each component has been at fault, altogether or with one project. What works is forgotten. Use it from one event loop."""

    def __init__(self) -> None:
        self._since: LRUCache[tuple[str, ProjectId | None], datetime] = LRUCache(_REMEMBERED)

    def failed(self, component: str, project_id: ProjectId | None = None) -> datetime:
        """The component has failed, with this project if one is named; returns since when it has."""
        key = (component, project_id)
        since = self._since.get(key)
        if since is None:
            since = self._since[key] = datetime.now(UTC)
        return since

    def worked(self, component: str, project_id: ProjectId | None = None) -> None:
        """The component works; with this project, too, if one is named."""
        self._since.pop((component, None), None)
        if project_id is not None:
            self._since.pop((component, project_id), None)


class Degradations:
    """Collects what one answer lacks."""

    def __init__(self, outages: Outages) -> None:
        self._outages = outages
        self._found: list[Degradation] = []

    def add(self, reason: DegradationReason, component: str, message: str, *, since: datetime | None = None) -> None:
        """Notes that something is missing; `since` when, if that is known."""
        self._found.append(Degradation(reason, component, message, since))

    def failed(self, reason: DegradationReason, component: str, message: str, project_id: ProjectId | None = None) -> None:
        """Notes that something is missing because a component has failed, with this project if one is named."""
        self.add(reason, component, message, since=self._outages.failed(component, project_id))

    def extend(self, others: Iterable[Degradation]) -> None:
        """Takes over what was noted elsewhere."""
        self._found.extend(others)

    @property
    def found(self) -> tuple[Degradation, ...]:
        """What was noted."""
        return tuple(self._found)

    def refuse(self) -> None:
        """Raises UnavailableError if anything was noted: the caller wants no degraded answer."""
        if self._found:
            if self._step() is not None:
                metrics.FALLBACK_ANSWERS.labels("refused").inc()
            first = self._found[0]
            raise UnavailableError(
                f"{first.message}; the request allows no degraded answer: retry, or allow one",
                component=first.component,
                retry_after=RETRY_AFTER,
                reason="DEGRADED",
            )

    def _step(self) -> str | None:
        """What stood in for the vector leg; None if nothing had to."""
        return next((_STEPS[degradation.reason] for degradation in self._found if degradation.reason in _STEPS), None)

    def count(self) -> None:
        """Counts what was noted, once the answer is given."""
        for degradation in self._found:
            metrics.DEGRADED_ANSWERS.labels(degradation.reason.value).inc()
        if (step := self._step()) is not None:
            metrics.FALLBACK_ANSWERS.labels(step).inc()

"""What is missing from an answer, why, and since when."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

from shared.errors import UnavailableError
from shared.observability import metrics
from shared.search import Degradation, DegradationReason


class Outages:
    """Remembers since when each component has been at fault. A component that works is forgotten."""

    def __init__(self) -> None:
        self._since: dict[str, datetime] = {}

    def failed(self, component: str) -> datetime:
        """The component has failed; returns since when it has."""
        return self._since.setdefault(component, datetime.now(UTC))

    def worked(self, component: str) -> None:
        """The component works."""
        self._since.pop(component, None)


class Degradations:
    """Collects what one answer lacks."""

    def __init__(self, outages: Outages) -> None:
        self._outages = outages
        self._found: list[Degradation] = []

    def add(self, reason: DegradationReason, component: str, message: str, *, since: datetime | None = None) -> None:
        """Notes that something is missing; `since` if it is known better than by the component's first failure."""
        self._found.append(Degradation(reason, component, message, since or self._outages.failed(component)))

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
            first = self._found[0]
            raise UnavailableError(
                f"{first.message}; the request allows no degraded answer: retry, or allow one",
                component=first.component,
                retry_after=5.0,
                reason="DEGRADED",
            )

    def count(self) -> None:
        """Counts what was noted, once the answer is given."""
        for degradation in self._found:
            metrics.DEGRADED_ANSWERS.labels(degradation.reason.value).inc()

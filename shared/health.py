"""What a service knows of its own state, kept up to date in the background and shown in three ways: grpc.health.v1, StatusService, /health.

- `up`: works. `degraded`: works, but not as well as it could. `down`: does not work.
- The service is `unhealthy` only when a required component is down, `degraded` when anything else is not up.
- grpc.health.v1 tells readiness (`shared/serving.py`): stated ready, no required component down, not shutting down. A component that is not
  required, ChromaDB above all, changes nothing there.
"""

from __future__ import annotations

import asyncio
import enum
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Final

from shared.errors import KnowledgeBeastError
from shared.observability import metrics
from shared.observability.guarded import read_at_scrape
from shared.observability.logging import get_logger
from shared.serving import ServingStates

_log: Final = get_logger(__name__)

Details = Mapping[str, str | int | float | bool]


class ComponentStatus(enum.Enum):
    """How well a component works."""

    UP = "up"
    DEGRADED = "degraded"
    DOWN = "down"


class ServiceStatus(enum.Enum):
    """How well the service works."""

    HEALTHY = "healthy"
    DEGRADED = "degraded"
    UNHEALTHY = "unhealthy"


@dataclass(frozen=True, slots=True)
class Degraded:
    """What a check returns when its component works, but not as well as it could; `message` says why, for people."""

    message: str
    details: Details = field(default_factory=dict)


_FIGURES: Final = {ComponentStatus.DOWN: 0, ComponentStatus.DEGRADED: 1, ComponentStatus.UP: 2}  # of kb_component_status

Check = Callable[[], Awaitable[Details | Degraded]]
"""Returns figures of a component that is up, or `Degraded`. Raises when it is down."""

Figures = Callable[[], Details]
"""Figures that are read anew for each answer: at once, from memory, without raising."""


def _no_figures() -> Details:
    return {}


@dataclass(frozen=True, slots=True)
class ComponentReport:
    """The last result of a check."""

    status: ComponentStatus
    check_time: datetime
    message: str = ""
    details: Details = field(default_factory=dict)


@dataclass(slots=True)
class _Component:
    name: str
    check: Check
    interval: float
    timeout: float
    latency: bool
    figures: Figures
    report: ComponentReport
    pending: asyncio.Task[ComponentReport] | None = None


class HealthMonitor:
    """Runs the checks of the components, each at its own pace, and keeps their results.

    Args:
        service: `indexer` or `query`.
        states: is told of readiness.
        required: names of the components without which no request can be served.
    """

    def __init__(self, service: str, states: ServingStates, *, required: Collection[str] = ()) -> None:
        self.service = service
        self.start_time = datetime.now(UTC)
        self._states = states
        self._required = frozenset(required)
        self._components: dict[str, _Component] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._ready = False
        self._shutting_down = False

    def add_check(
        self, name: str, check: Check, *, interval: float = 5.0, timeout: float = 2.0, latency: bool = False, figures: Figures = _no_figures
    ) -> None:
        """Adds a component; before `start`.

        Args:
            name: for example `chromadb`.
            check: should bound its own outgoing calls. It never runs twice at the same time: one that is late counts as down and is awaited.
            interval: seconds between the end of one check and the beginning of the next.
            timeout: seconds after which a check that has not ended counts as down.
            latency: adds `latency_ms`, what the check took, to the details.
            figures: are added to the details whenever they are asked for, so that they are never older than the answer.
        """
        unknown = ComponentReport(ComponentStatus.DOWN, datetime.now(UTC), "not looked at yet")
        self._components[name] = component = _Component(name, check, interval, timeout, latency, figures, unknown)
        read_at_scrape(metrics.COMPONENT_STATUS.labels(name), lambda: _FIGURES[component.report.status])

    async def start(self) -> None:
        """Runs every check once, all at the same time, and then in the background until `stop`. Takes at most the longest time limit."""
        await asyncio.gather(*(self._look(component) for component in self._components.values()))
        self._publish()
        self._tasks = [asyncio.create_task(self._watch(component), name=f"health {component.name}") for component in self._components.values()]

    async def stop(self) -> None:
        """Ends the checks."""
        tasks = [*self._tasks, *(component.pending for component in self._components.values() if component.pending is not None)]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._tasks = []

    def set_ready(self, ready: bool) -> None:
        """States whether the service has all it needs to take requests."""
        self._ready = ready
        self._publish()

    def enter_shutdown(self) -> None:
        """From now on not ready, whatever happens: load balancers send no new calls. The process still counts as alive."""
        self._shutting_down = True
        self._publish()

    @property
    def ready(self) -> bool:
        """Whether requests can be taken: stated ready, no required component down, not shutting down."""
        return self._ready and not self._shutting_down and self.status is not ServiceStatus.UNHEALTHY

    @property
    def status(self) -> ServiceStatus:
        """The state of the service, from the last results."""
        worst = ServiceStatus.HEALTHY
        for name, component in self._components.items():
            if component.report.status is ComponentStatus.DOWN and name in self._required:
                return ServiceStatus.UNHEALTHY
            if component.report.status is not ComponentStatus.UP:
                worst = ServiceStatus.DEGRADED
        return worst

    def reports(self) -> Mapping[str, ComponentReport]:
        """The last result of each component, with its figures of now."""
        return {
            name: replace(component.report, details={**component.report.details, **component.figures()})
            for name, component in self._components.items()
        }

    def snapshot(self) -> dict[str, Any]:
        """The state as JSON for /health: `{"status": …, "components": {name: {"status": …, figures…}}, "timestamp": …}`."""
        components = {}
        for name, report in self.reports().items():
            message = {"message": report.message} if report.message else {}
            components[name] = {"status": report.status.value, **message, **report.details}
        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        return {"status": self.status.value, "components": components, "timestamp": now}

    async def _watch(self, component: _Component) -> None:
        while True:
            await asyncio.sleep(component.interval)
            before = component.report.status
            await self._look(component)
            if component.report.status is not before:
                _log.warning("component changed", component=component.name, status=component.report.status.value, message=component.report.message)
                self._publish()

    async def _look(self, component: _Component) -> None:
        """Runs the check, or waits on for the one that is late, at most its time limit."""
        if component.pending is None:
            component.pending = asyncio.create_task(_run(component))
        done, _ = await asyncio.wait({component.pending}, timeout=component.timeout)
        if done:
            component.report = component.pending.result()
            component.pending = None
        else:
            component.report = ComponentReport(ComponentStatus.DOWN, datetime.now(UTC), f"no answer within {component.timeout:g} s")

    def _publish(self) -> None:
        self._states.set_ready(self.ready)
        metrics.READY.set(self.ready)


async def _run(component: _Component) -> ComponentReport:
    """One check, whose errors are results too."""
    started = time.perf_counter()
    try:
        result = await component.check()
    except KnowledgeBeastError as error:
        return ComponentReport(ComponentStatus.DOWN, datetime.now(UTC), error.message)
    except Exception:  # noqa: BLE001 - a check that fails in a way nobody thought of must not end the monitoring
        _log.exception("health check failed", component=component.name)
        return ComponentReport(ComponentStatus.DOWN, datetime.now(UTC), "the check itself failed; see the log")
    figures = {"latency_ms": round((time.perf_counter() - started) * 1e3, 2)} if component.latency else {}
    if isinstance(result, Degraded):
        return ComponentReport(ComponentStatus.DEGRADED, datetime.now(UTC), result.message, {**figures, **result.details})
    return ComponentReport(ComponentStatus.UP, datetime.now(UTC), "", {**figures, **result})

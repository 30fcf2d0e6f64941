"""What a Prometheus knows, over its HTTP API (v1): values, ranges, alerts, rules, targets, exemplars."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from services.cli.observe.http_json import get_json
from shared.errors import UnavailableError

_TIMEOUT = 10.0  # seconds for one call; a query of a dashboard takes milliseconds
_PROGRAM = "prometheus"

Labels = Mapping[str, str]
_NO_LABELS: Labels = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Series:
    """One value of an instant query. A scalar has no labels. The value may be NaN or infinite."""

    labels: Labels
    value: float


@dataclass(frozen=True, slots=True)
class Range:
    """One series of a range query: (seconds since 1970, value), oldest first."""

    labels: Labels
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class Alert:
    """One instance of an alert that is pending or firing. `labels` are those of the alert, its name and severity included."""

    name: str
    state: str
    labels: Labels
    annotations: Labels


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule that is loaded. `kind` is `alerting` or `recording`; `state` is empty of the latter.

    `health` is `ok`, `err` or, before it was evaluated, `unknown`; `error` says why it is `err`. `wait` is its `for`, in seconds.
    """

    group: str
    name: str
    kind: str
    expression: str
    labels: Labels
    annotations: Labels
    wait: float
    state: str
    health: str
    error: str


@dataclass(frozen=True, slots=True)
class Target:
    """One target that is scraped. `health` is `up`, `down` or, before the first scrape, `unknown`; `error` is that of the last scrape."""

    job: str
    instance: str
    health: str
    error: str


@dataclass(frozen=True, slots=True)
class Exemplar:
    """One exemplar: the labels of its series, its own (`trace_id`), its value, and when it was seen in seconds since 1970."""

    series: Labels
    labels: Labels
    value: float
    time: float


class PrometheusApi:
    """Asks the Prometheus at `url`. It keeps no connection, so it may be used from any event loop.

    Every method raises InvalidArgumentError when Prometheus refuses the expression, DeadlineExceededError when it does not answer in time, and
    UnavailableError when it does not answer at all.
    """

    def __init__(self, url: str, *, timeout: float = _TIMEOUT) -> None:
        self.url = url.rstrip("/")
        self._timeout = timeout

    async def query(self, expression: str, *, at: float | None = None) -> tuple[Series, ...]:
        """The value of an expression now, or `at` seconds since 1970: one Series a series, one without labels for a scalar."""
        data = await self._get("query", {"query": expression} | ({} if at is None else {"time": str(at)}))
        if data["resultType"] == "scalar":
            return (Series(_NO_LABELS, float(data["result"][1])),)
        return tuple(Series(one["metric"], float(one["value"][1])) for one in data["result"])

    async def query_range(self, expression: str, *, start: float, end: float, step: float) -> tuple[Range, ...]:
        """An expression from `start` to `end` (seconds since 1970) every `step` seconds."""
        data = await self._get("query_range", {"query": expression, "start": str(start), "end": str(end), "step": str(step)})
        return tuple(Range(one["metric"], tuple((float(time), float(value)) for time, value in one["values"])) for one in data["result"])

    async def alerts(self) -> tuple[Alert, ...]:
        """The alerts that are pending or firing."""
        data = await self._get("alerts", {})
        return tuple(Alert(one["labels"]["alertname"], one["state"], one["labels"], one["annotations"]) for one in data["alerts"])

    async def rules(self) -> tuple[Rule, ...]:
        """The rules that are loaded, in the order of their groups."""
        data = await self._get("rules", {})
        return tuple(_rule(group["name"], rule) for group in data["groups"] for rule in group["rules"])

    async def targets(self) -> tuple[Target, ...]:
        """The targets that are scraped."""
        data = await self._get("targets", {"state": "active"})
        return tuple(Target(one["labels"]["job"], one["labels"]["instance"], one["health"], one["lastError"]) for one in data["activeTargets"])

    async def exemplars(self, expression: str, start: float, end: float) -> tuple[Exemplar, ...]:
        """The exemplars of the series that an expression reads, from `start` to `end` (seconds since 1970)."""
        data = await self._get("query_exemplars", {"query": expression, "start": str(start), "end": str(end)})
        return tuple(
            Exemplar(series["seriesLabels"], one["labels"], float(one["value"]), float(one["timestamp"]))
            for series in data
            for one in series["exemplars"]
        )

    async def _get(self, path: str, parameters: Mapping[str, str]) -> Any:  # noqa: ANN401 - JSON of Prometheus
        answer = await get_json(_PROGRAM, f"{self.url}/api/v1/{path}", parameters, self._timeout)
        if not isinstance(answer, dict) or answer.get("status") != "success":
            raise UnavailableError(f"what answers at {self.url} is no Prometheus", component=_PROGRAM)
        return answer["data"]


def _rule(group: str, rule: Mapping[str, Any]) -> Rule:
    return Rule(
        group,
        rule["name"],
        rule["type"],
        rule["query"],
        rule.get("labels", _NO_LABELS),
        rule.get("annotations", _NO_LABELS),
        float(rule.get("duration", 0)),
        rule.get("state", ""),
        rule["health"],
        rule.get("lastError", ""),
    )

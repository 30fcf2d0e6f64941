"""Asks a Prometheus everything that the dashboard and the rules ask it, and notes what has no answer."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from services.cli.observe.dashboard import Dashboard
from services.cli.observe.expressions import label_values, measured, one_line, selectors, substituted
from services.cli.observe.prometheus_api import PrometheusApi, Rule, Series
from shared.errors import InvalidArgumentError

# Grafana's is four scrapes, at least; with scrapes a second apart, enough for what happens every few seconds.
_RATE_SECONDS = 15
_TRACE = "trace_id"


@dataclass(frozen=True, slots=True)
class Finding:
    """What one expression gave.

    Attributes:
        kind: `panel`, `exemplars`, `annotation`, `variable`, `alert`, `rule` or `target`.
        name: Of the panel, the alert, …
        expression: As it stands in the file.
        series: How many series it returned; of an alert: what it compares returned.
        value: One of their values; None if there is none.
        problem: Why it is not all right; empty if it is.
        note: What else there is to say: that an alert has fired.
    """

    kind: str
    name: str
    expression: str
    series: int
    value: float | None
    problem: str = ""
    note: str = ""


def choices(dashboard: Dashboard, began: float) -> dict[str, str]:
    """What Grafana's variables stand for here; `began` (seconds since 1970) is the start of the range."""
    return {**dashboard.choices, "__rate_interval": f"{_RATE_SECONDS}s", "__range": f"{max(_RATE_SECONDS, math.ceil(time.time() - began))}s"}


async def check(prometheus: PrometheusApi, dashboard: Dashboard, began: float) -> list[Finding]:
    """Everything, in the order of the dashboard and then of the rules.

    Raises DeadlineExceededError or UnavailableError when Prometheus does not answer; an expression that it refuses is a finding.
    """
    values = choices(dashboard, began)
    findings = [await _panel_query(prometheus, panel.title, target.expression, values) for panel in dashboard.panels for target in panel.targets]
    for panel in dashboard.panels:
        findings += [await _exemplars(prometheus, panel.title, one.expression, values, began) for one in panel.targets if one.exemplars]
    findings += [await _annotation(prometheus, name, expression, began) for name, expression in dashboard.annotations.items()]
    findings += [await _variable(prometheus, name, definition, values) for name, definition in dashboard.variables.items()]
    for rule in await prometheus.rules():
        findings.append(await (_alert(prometheus, rule, began) if rule.kind == "alerting" else _recorded(prometheus, rule)))
    findings += [
        Finding("target", f"{target.job} {target.instance}", "up", 1, float(target.health == "up"), target.error)
        for target in await prometheus.targets()
    ]
    return findings


async def _panel_query(prometheus: PrometheusApi, title: str, expression: str, values: Mapping[str, str]) -> Finding:
    found, problem = await _asked(prometheus, substituted(expression, values))
    return _finding("panel", title, expression, found, problem)


async def _exemplars(prometheus: PrometheusApi, title: str, expression: str, values: Mapping[str, str], began: float) -> Finding:
    found = await prometheus.exemplars(substituted(expression, values), began, time.time())
    traced = [one for one in found if one.labels.get(_TRACE)]
    value = traced[-1].value if traced else None
    return Finding("exemplars", title, expression, len(traced), value, "" if traced else "no exemplar with a trace id")


async def _annotation(prometheus: PrometheusApi, name: str, expression: str, began: float) -> Finding:
    """Looked for over the whole range: now, all is well again."""
    found = await prometheus.query_range(expression, start=began, end=time.time(), step=1.0)
    names = ", ".join(sorted({one.labels.get("alertname", "") for one in found}))
    return Finding("annotation", name, expression, len(found), float(len(found)), "" if found else "nothing in the whole range", names)


async def _variable(prometheus: PrometheusApi, name: str, definition: str, values: Mapping[str, str]) -> Finding:
    asked = label_values(substituted(definition, values))
    if asked is None:
        return Finding("variable", name, definition, 0, None, "not of the form label_values(series, label)")
    found, problem = await _asked(prometheus, asked)
    return _finding("variable", name, definition, found, problem)


async def _recorded(prometheus: PrometheusApi, rule: Rule) -> Finding:
    """What the rule has recorded, not its expression: that it was evaluated and stored is part of it."""
    found, problem = await _asked(prometheus, rule.name)
    return _finding("rule", rule.name, rule.expression, found, rule.error or problem)


async def _alert(prometheus: PrometheusApi, rule: Rule, began: float) -> Finding:
    """An alert returns nothing while all is well. So it is asked for what it compares, and whether all the series that it reads are there."""
    found, problem = await _asked(prometheus, measured(rule.expression))
    missing = [one for one in selectors(rule.expression) if not (await _asked(prometheus, one))[0]]
    _, refused = await _asked(prometheus, rule.expression)
    fired = await prometheus.query_range(f'ALERTS{{alertname="{rule.name}",alertstate="firing"}}', start=began, end=time.time(), step=1.0)
    problem = rule.error or refused or problem or (f"no series: {', '.join(missing)}" if missing else "")
    return _finding("alert", rule.name, rule.expression, found, problem, "has fired" if fired else "")


async def _asked(prometheus: PrometheusApi, expression: str) -> tuple[Sequence[Series], str]:
    try:
        return await prometheus.query(expression), ""
    except InvalidArgumentError as error:
        return (), error.message


def _finding(kind: str, name: str, expression: str, found: Sequence[Series], problem: str, note: str = "") -> Finding:
    finite = [one.value for one in found if math.isfinite(one.value)]
    if not problem and not finite:
        problem = "no series" if not found else "no number"
    return Finding(kind, name, one_line(expression), len(found), max(finite, default=None), problem, note)

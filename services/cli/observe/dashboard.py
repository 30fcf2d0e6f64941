"""What stands in the dashboard's file: its panels, variables and annotations, as far as they are asked of Prometheus or drawn."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from services.cli.observe.configuration import DEPLOYMENTS
from shared.errors import FailedPreconditionError

FILE = DEPLOYMENTS / "grafana" / "dashboards" / "knowledgebeast-overview.json"
_ANY = ".*"  # what a variable stands for while all of its values are chosen


@dataclass(frozen=True, slots=True)
class Target:
    """One query of a panel. `instant`: its value at the end of the range is shown, not its course."""

    expression: str
    legend: str
    instant: bool
    exemplars: bool


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel.

    Attributes:
        row: Title of the row that it stands in.
        title: Its own.
        kind: Grafana's name of the visualisation: `timeseries`, `stat`, …
        place: x, y, width and height on a grid of 24 columns.
        targets: What it asks.
        form: The rest as it stands in the file.
    """

    row: str
    title: str
    kind: str
    place: tuple[int, int, int, int]
    targets: Sequence[Target]
    form: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Dashboard:
    """What is asked.

    Attributes:
        panels: In their order.
        annotations: Expressions by name.
        variables: `label_values(…)` by name, of those that ask Prometheus.
        choices: What they stand for while all of their values are chosen.
    """

    panels: Sequence[Panel]
    annotations: Mapping[str, str]
    variables: Mapping[str, str]
    choices: Mapping[str, str]


def load() -> Dashboard:
    """The dashboard of this project. Raises FailedPreconditionError if its file is not there."""
    try:
        form = json.loads(FILE.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise FailedPreconditionError(f"{FILE} is not there: this needs the project's folder") from error
    variables = [one for one in form["templating"]["list"] if one["type"] == "query"]
    return Dashboard(
        _panels(form["panels"]),
        {one["name"]: one["expr"] for one in form["annotations"]["list"]},
        {one["name"]: one["definition"] for one in variables},
        {one["name"]: one.get("allValue", _ANY) for one in variables},
    )


def _panels(forms: Sequence[Mapping[str, Any]]) -> list[Panel]:
    panels: list[Panel] = []
    row = ""
    for form in forms:
        if form["type"] == "row":
            row = form["title"]
            continue
        grid = form["gridPos"]
        targets = [Target(one["expr"], one.get("legendFormat", ""), bool(one.get("instant")), bool(one.get("exemplar"))) for one in form["targets"]]
        panels.append(Panel(row, form["title"], form["type"], (grid["x"], grid["y"], grid["w"], grid["h"]), targets, form))
    return panels

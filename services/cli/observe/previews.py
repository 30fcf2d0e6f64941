"""Draws the panels of the dashboard as pictures, a row each, from what a Prometheus has. Needs matplotlib (the `bench` extra).

They show what the panels would show, as far as that goes: no Grafana has drawn them, and they say so.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib import pyplot as plt

from services.cli.observe.dashboard import Dashboard, Panel
from services.cli.observe.drawing import Drawn, Space
from services.cli.observe.drawing import draw as draw_panel
from services.cli.observe.expressions import substituted
from services.cli.observe.prometheus_api import PrometheusApi, Range

_NOTICE = "preview drawn from live data by kb observe, not a Grafana screenshot"
_DPI = 100
_COLUMNS = 24
_COLUMN, _UNIT = 0.72, 0.42  # inches of a column, and of a unit of height, of Grafana's grid
_MARGIN = 0.45  # inches above the panels, for the title, and below, for the notice
_POINTS = 240  # of a line at most


async def draw(prometheus: PrometheusApi, dashboard: Dashboard, values: Mapping[str, str], began: float, folder: Path) -> list[Path]:
    """Draws every row into a PNG in `folder`; the files.

    `values` are what Grafana's variables stand for; the pictures go from `began`, in seconds since 1970, to now.
    Raises what PrometheusApi raises.
    """
    ended = time.time()
    rows: dict[str, list[tuple[Panel, Drawn]]] = {}
    for panel in dashboard.panels:
        rows.setdefault(panel.row, []).append((panel, await _drawn(prometheus, panel, values, began, ended)))
    return [_row(title, panels, folder / f"{title.lower()}.png") for title, panels in rows.items()]


async def _drawn(prometheus: PrometheusApi, panel: Panel, values: Mapping[str, str], began: float, ended: float) -> Drawn:
    series: list[tuple[str, Range]] = []
    for target in panel.targets:
        expression = substituted(target.expression, values)
        if target.instant:
            points = [Range(one.labels, ((ended, one.value),)) for one in await prometheus.query(expression, at=ended)]
        else:
            step = max(1.0, (ended - began) / _POINTS)
            points = list(await prometheus.query_range(expression, start=began, end=ended, step=step))
        series += [(_legend(target.legend, one.labels), one) for one in points]
    return Drawn(series, began, ended, await _exemplars(prometheus, panel, values, began, ended))


async def _exemplars(prometheus: PrometheusApi, panel: Panel, values: Mapping[str, str], began: float, ended: float) -> list[tuple[float, float]]:
    asked = [substituted(target.expression, values) for target in panel.targets if target.exemplars]
    return [(one.time, one.value) for expression in asked for one in await prometheus.exemplars(expression, began, ended)]


def _legend(form: str, labels: Mapping[str, str]) -> str:
    for name, value in labels.items():
        form = form.replace(f"{{{{{name}}}}}", value)
    return form


def _row(title: str, panels: Sequence[tuple[Panel, Drawn]], path: Path) -> Path:
    top = min(panel.place[1] for panel, _ in panels)
    units = max(panel.place[1] + panel.place[3] for panel, _ in panels) - top
    height = units * _UNIT + 2 * _MARGIN
    figure = plt.figure(figsize=(_COLUMNS * _COLUMN, height))
    try:
        for panel, drawn in panels:
            x, y, wide, high = panel.place
            space = Space(figure, x * _COLUMN, _MARGIN + (units - (y - top) - high) * _UNIT, wide * _COLUMN, high * _UNIT)
            draw_panel(space, panel, drawn)
        figure.text(0.01, 1 - _MARGIN / 2 / height, f"KnowledgeBeast overview: {title}", fontsize=13, fontweight="bold", va="center")
        figure.text(0.99, _MARGIN / 2 / height, _NOTICE, fontsize=9, color="#666666", ha="right", va="center")
        figure.savefig(path, dpi=_DPI, metadata={"Software": None})
        return path
    finally:
        plt.close(figure)

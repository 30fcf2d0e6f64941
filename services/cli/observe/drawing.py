"""Draws one panel with matplotlib, by the kind that Grafana calls it. Needs matplotlib (the `bench` extra)."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final

from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.dates import DateFormatter
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator, MultipleLocator

from services.cli.observe import units
from services.cli.observe.dashboard import Panel
from services.cli.observe.prometheus_api import Range

_PALETTE: Final = ("#73BF69", "#5794F2", "#FF9830", "#B877D9", "#F2495C", "#FADE2A", "#8AB8FF", "#37872D", "#FA6400", "#A352CC", "#3274D9", "#C4162A")
_GREY, _FAINT, _BLUE = "#555555", "#DDDDDD", "#3274D9"
_LEGENDS = 8  # entries of a legend that are drawn; Grafana scrolls
_NOTHING = "no data"


@dataclass(frozen=True, slots=True)
class Drawn:
    """What a panel shows: series with their legend, from when to when (seconds since 1970), and exemplars (when, value)."""

    series: Sequence[tuple[str, Range]]
    began: float
    ended: float
    exemplars: Sequence[tuple[float, float]] = ()


@dataclass(frozen=True, slots=True)
class Space:
    """Where on a figure a panel has its place: left, bottom, width and height, in inches."""

    figure: Figure
    left: float
    bottom: float
    width: float
    height: float

    def axes(self, left: float, bottom: float, right: float, top: float) -> Axes:
        """Axes in it, so many inches from its edges."""
        width, height = self.figure.get_size_inches()
        inner = (self.left + left, self.bottom + bottom, max(0.1, self.width - left - right), max(0.1, self.height - bottom - top))
        return self.figure.add_axes((inner[0] / width, inner[1] / height, inner[2] / width, inner[3] / height))


def draw(space: Space, panel: Panel, drawn: Drawn) -> None:
    """Frame, title and content."""
    width, height = space.figure.get_size_inches()
    corner = ((space.left + 0.04) / width, (space.bottom + 0.04) / height)
    space.figure.add_artist(Rectangle(corner, (space.width - 0.08) / width, (space.height - 0.08) / height, fill=False, edgecolor=_FAINT))
    top = (space.bottom + space.height - 0.2) / height
    space.figure.text((space.left + 0.14) / width, top, panel.title, fontsize=9, fontweight="bold", va="center")
    finite = [(legend, one) for legend, one in drawn.series if any(math.isfinite(value) for _, value in one.points)]
    if not finite:
        _say(space.axes(0.2, 0.2, 0.2, 0.4), panel.form["fieldConfig"]["defaults"].get("noValue", _NOTHING), _GREY, 12)
        return
    _KINDS[panel.kind](space, panel, replace(drawn, series=finite))


def _timeseries(space: Space, panel: Panel, drawn: Drawn) -> None:
    unit, custom = _unit(panel), panel.form["fieldConfig"]["defaults"].get("custom", {})
    axes = _over_time(space, drawn, legend_lines=math.ceil(min(len(drawn.series), _LEGENDS) / 2))
    series = sorted(drawn.series, key=lambda pair: -_most([pair]))  # what moves first, because the legend may be cut
    colours = [_colour(panel, legend, number) for number, (legend, _) in enumerate(series)]
    if custom.get("stacking", {}).get("mode") == "normal":
        times = sorted({at for _, one in series for at, _ in one.points})
        stacked = [[value if math.isfinite(value) else 0.0 for value in _on(one, times)] for _, one in series]
        axes.stackplot([_when(at) for at in times], stacked, labels=[legend for legend, _ in series], colors=colours, alpha=0.7)
    else:
        for (legend, one), colour in zip(series, colours, strict=True):
            axes.plot([_when(at) for at, _ in one.points], [value for _, value in one.points], label=legend, color=colour, linewidth=1.3)
    axes.plot([_when(at) for at, _ in drawn.exemplars], [value for _, value in drawn.exemplars], "D", color=_BLUE, markersize=2.5, alpha=0.5)
    axes.set_ylim(0, _upper(panel, axes.get_ylim()[1], _most(series)))
    for limit, colour in _steps(panel)[1:] if custom.get("thresholdsStyle", {}).get("mode") == "dashed" else ():
        if limit <= axes.get_ylim()[1]:  # one that is far above would press the lines to the floor
            axes.axhline(limit, color=colour, linestyle="--", linewidth=1)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: units.text(value, unit)))
    axes.yaxis.set_major_locator(MultipleLocator(2 ** math.ceil(math.log2(axes.get_ylim()[1] / 6))) if unit == "bytes" else MaxNLocator(5))
    axes.grid(visible=True, axis="y", color=_FAINT, linewidth=0.6)
    _legend(axes)


def _states(space: Space, panel: Panel, drawn: Drawn) -> None:
    axes = _over_time(space, drawn, legend_lines=1, left=1.5)
    texts = _texts(panel)
    for place, (_, one) in enumerate(drawn.series):
        changes = [point for number, point in enumerate(one.points) if number == 0 or one.points[number - 1][1] != point[1]]
        ends = [at for at, _ in changes[1:]] + [drawn.ended]
        for (at, value), end in zip(changes, ends, strict=True):
            start = _when(at)
            axes.barh(place, _when(end) - start, left=start, height=0.7, color=texts.get(value, ("", _GREY))[1])
    axes.set_yticks(range(len(drawn.series)), [legend for legend, _ in drawn.series], fontsize=7)
    axes.set_ylim(-0.6, len(drawn.series) - 0.4)
    for text, colour in texts.values():
        axes.plot([], [], color=colour, linewidth=5, label=text)
    _legend(axes, columns=3)


def _heatmap(space: Space, panel: Panel, drawn: Drawn) -> None:
    axes = _over_time(space, drawn, legend_lines=0, left=0.75)
    buckets = sorted(drawn.series, key=lambda pair: float(pair[1].labels["le"]))
    times = sorted({at for _, one in buckets for at, _ in one.points})
    upto = [_on(one, times) for _, one in buckets]
    # Prometheus' buckets count everything below; what fell into one of them is the difference to the one before.
    counts = [
        [max(0.0, here - below) for here, below in zip(row, before, strict=True)]
        for row, before in zip(upto, [[0.0] * len(times), *upto], strict=False)
    ]
    shown = [[value if value > 1e-9 else math.nan for value in row] for row in counts]
    most = max((value for row in counts for value in row), default=1.0)
    axes.pcolormesh(
        [_when(at) for at in times], range(len(buckets)), shown, cmap="turbo", norm=LogNorm(0.5, max(1.0, most)), shading="nearest", rasterized=True
    )
    axes.set_yticks(range(len(buckets)), [_bound(one.labels["le"]) for _, one in buckets], fontsize=6.5)
    axes.set_ylim(-0.5, len(buckets) - 0.5)
    del panel


def _numbers(space: Space, panel: Panel, drawn: Drawn) -> None:
    axes = space.axes(0.15, 0.12, 0.15, 0.38)
    axes.set_axis_off()
    axes.set(xlim=(0, 1), ylim=(0, 1))
    texts, count = _texts(panel), len(drawn.series)
    for place, (legend, one) in enumerate(drawn.series):
        value = one.points[-1][1]
        said, colour = texts.get(value, (units.text(value, _unit(panel)), _of_steps(panel, value)))
        y = 1 - (place + 0.5) / count
        if count > 1 or texts:
            axes.text(0.02, y, legend, fontsize=9, va="center", color=_GREY)
            axes.text(0.98, y, said, fontsize=min(22.0, 40 / count), va="center", ha="right", color=colour, fontweight="bold")
        else:
            axes.text(0.5, y, said, fontsize=28, va="center", ha="center", color=colour, fontweight="bold")


def _dials(space: Space, panel: Panel, drawn: Drawn) -> None:
    each = space.width / len(drawn.series)
    for place, (legend, one) in enumerate(drawn.series):
        value = min(1.0, max(0.0, one.points[-1][1]))
        axes = Space(space.figure, space.left + place * each, space.bottom, each, space.height).axes(0.1, 0.05, 0.1, 0.4)
        colour = _of_steps(panel, value)
        # Half a ring: the other half of the circle is not drawn.
        axes.pie(
            [value, 1 - value, 1], startangle=180, counterclock=False, colors=[colour, "#EEEEEE", "none"], wedgeprops={"width": 0.35}, radius=1.25
        )
        axes.text(0, 0.02, units.text(value, _unit(panel)), ha="center", va="center", fontsize=13, fontweight="bold", color=colour)
        axes.text(0, -0.5, legend, ha="center", va="center", fontsize=8, color=_GREY)


def _ring(space: Space, panel: Panel, drawn: Drawn) -> None:
    axes = space.axes(0.1, 0.15, space.width * 0.45, 0.4)
    series = sorted(drawn.series, key=lambda pair: -pair[1].points[-1][1])
    values = [one.points[-1][1] for _, one in series]
    whole = sum(values)
    colours = [_colour(panel, legend, number) for number, (legend, _) in enumerate(series)]
    parts = axes.pie(values, colors=colours, startangle=90, counterclock=False, wedgeprops={"width": 0.45, "edgecolor": "white"})[0]
    labels = [f"{legend}  {value:,.0f}  {value / whole:.1%}" for (legend, _), value in zip(series, values, strict=True)]
    axes.legend(parts, labels, loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8, frameon=False)


def _bars(space: Space, panel: Panel, drawn: Drawn) -> None:
    axes = space.axes(1.0, 0.35, 0.4, 0.45)
    series = sorted(drawn.series, key=lambda pair: pair[1].points[-1][1])
    values = [one.points[-1][1] for _, one in series]
    colour = panel.form["fieldConfig"]["defaults"]["color"]["fixedColor"]
    shown = axes.barh(range(len(series)), values, color=colour, alpha=0.7)
    axes.bar_label(shown, [units.text(value, _unit(panel)) for value in values], padding=3, fontsize=8)
    axes.set_yticks(range(len(series)), [legend for legend, _ in series], fontsize=8)
    axes.set_xlim(0, max(values) * 1.15 or 1)
    axes.tick_params(axis="x", labelsize=7)
    _bare(axes)


_KINDS: Final[Mapping[str, Callable[[Space, Panel, Drawn], None]]] = {
    "timeseries": _timeseries,
    "state-timeline": _states,
    "heatmap": _heatmap,
    "stat": _numbers,
    "gauge": _dials,
    "piechart": _ring,
    "barchart": _bars,
}


def _over_time(space: Space, drawn: Drawn, *, legend_lines: int, left: float = 0.75) -> Axes:
    """Axes whose horizontal one is the time."""
    axes = space.axes(left, 0.32 + 0.16 * legend_lines, 0.2, 0.42)
    axes.set_xlim(_when(drawn.began), _when(drawn.ended))
    axes.xaxis.set_major_formatter(DateFormatter("%H:%M:%S"))  # type: ignore[no-untyped-call] # matplotlib's has no annotations
    axes.xaxis.set_major_locator(MaxNLocator(4, prune="both"))
    axes.tick_params(labelsize=7)
    _bare(axes)
    return axes


def _most(series: Sequence[tuple[str, Range]]) -> float:
    return max((value for _, one in series for _, value in one.points if math.isfinite(value)), default=0.0)


def _upper(panel: Panel, automatic: float, most: float) -> float:
    """The end of the vertical axis: what the panel says, else a little above the highest value, and 1 where there is none."""
    fixed = panel.form["fieldConfig"]["defaults"].get("max")
    if fixed is not None:
        return float(fixed) * 1.02
    if most > 1e-9:
        return max(automatic, most)
    return 0.05 if _unit(panel) == "percentunit" else 1.0


def _bare(axes: Axes) -> None:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _legend(axes: Axes, columns: int = 2) -> None:
    handles, labels = axes.get_legend_handles_labels()
    left_out = len(labels) - _LEGENDS
    shown = [label if len(label) <= 34 else f"{label[:33]}…" for label in labels[:_LEGENDS]]
    if left_out > 0:
        shown[-1] = f"… and {left_out + 1} more"
    style = {"fontsize": 6.5, "frameon": False, "labelspacing": 0.25, "handlelength": 1.2}
    axes.legend(handles[:_LEGENDS], shown, loc="upper left", bbox_to_anchor=(0, -0.1), ncols=columns, **style)


def _say(axes: Axes, text: str, colour: str, size: float) -> None:
    axes.set_axis_off()
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", fontsize=size, color=colour)


def _when(at: float) -> Any:  # noqa: ANN401 - matplotlib draws datetimes, but is typed for numbers
    return datetime.fromtimestamp(at, UTC)


def _on(one: Range, times: Sequence[float]) -> list[float]:
    """Its values at these times; 0 where it has none."""
    known = dict(one.points)
    return [known.get(at, 0.0) for at in times]


def _bound(text: str) -> str:
    return "more" if text == "+Inf" else units.text(float(text), "s")


def _unit(panel: Panel) -> str:
    return str(panel.form["fieldConfig"]["defaults"].get("unit", ""))


def _steps(panel: Panel) -> list[tuple[float, str]]:
    """The panel's thresholds: from which value, and the colour from there on."""
    steps = panel.form["fieldConfig"]["defaults"].get("thresholds", {}).get("steps", [])
    return [(-math.inf if step["value"] is None else float(step["value"]), step["color"]) for step in steps]


def _of_steps(panel: Panel, value: float) -> str:
    return next((colour for limit, colour in reversed(_steps(panel)) if value >= limit), _GREY)


def _texts(panel: Panel) -> dict[float, tuple[str, str]]:
    """What is shown in place of a value, and in which colour."""
    mappings = panel.form["fieldConfig"]["defaults"].get("mappings", [])
    return {float(value): (shown["text"], shown["color"]) for mapping in mappings for value, shown in mapping["options"].items()}


def _colour(panel: Panel, legend: str, number: int) -> str:
    """That of the panel's override for this legend, else the next one of a palette."""
    for override in panel.form["fieldConfig"].get("overrides", []):
        if re.search(override["matcher"]["options"].strip("/"), legend):
            return str(override["properties"][0]["value"]["fixedColor"])
    return _PALETTE[number % len(_PALETTE)]

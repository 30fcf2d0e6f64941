"""How queries and panels look: what all panels of a kind have in common, so that a row only says what it shows."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

from grafana_foundation_sdk.builders import barchart, common, dashboard, gauge, heatmap, piechart, prometheus, stat, statetimeline, timeseries
from grafana_foundation_sdk.cog import builder as cogbuilder
from grafana_foundation_sdk.models import common as forms
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models import heatmap as heatmap_models
from grafana_foundation_sdk.models import piechart as piechart_models
from grafana_foundation_sdk.models import prometheus as prometheus_models

Panel = cogbuilder.Builder[models.Panel]

SOURCE: Final = forms.DataSourceRef(type_val="prometheus", uid="${datasource}")

GREEN: Final = "#73BF69"
YELLOW: Final = "#FADE2A"
ORANGE: Final = "#FF9830"
RED: Final = "#F2495C"
DARK_RED: Final = "#C4162A"
BLUE: Final = "#5794F2"
PURPLE: Final = "#B877D9"
GREY: Final = "#8E8E8E"

# A thing has one colour wherever it is shown: by a regular expression of its legend. What is in none of these lists gets one by its name.
QUANTILES: Final = {r"/\bP50\b/": GREEN, r"/\bP95\b/": ORANGE, r"/\bP99\b/": RED}
SERVICES: Final = {"/^kb-query/": BLUE, "/^kb-indexer/": PURPLE}
LEVELS: Final = {"/^critical$/": DARK_RED, "/^error$/": RED, "/^lost$/": PURPLE, "/^warning$/": ORANGE, "/^info$/": GREEN, "/^debug$/": GREY}
OUTCOMES: Final = {
    "/^(ok|succeeded)$/": GREEN,
    "/^(recovered|not_found|not_retryable)$/": BLUE,
    "/^(cancelled|no_time)$/": ORANGE,
    "/^(unavailable|refused|error|attempts_spent|no_budget)$/": RED,
}


@dataclass(frozen=True, slots=True)
class Limit:
    """A line from which a value is a different matter, in the panel's unit."""

    value: float
    colour: str


@dataclass(frozen=True, slots=True)
class Section:
    """A row of the dashboard: its panels from left to right and top to bottom, each with its own width (of 24) and height."""

    title: str
    panels: Sequence[Panel]


def query(expression: str, legend: str, *, exemplars: bool = False) -> prometheus.Dataquery:
    """What is drawn over time."""
    return (
        prometheus.Dataquery().expr(expression).legend_format(legend).range().exemplar(exemplars).editor_mode(prometheus_models.QueryEditorMode.CODE)
    )


def latest(expression: str, legend: str) -> prometheus.Dataquery:
    """What is shown as it is at the end of the range."""
    return prometheus.Dataquery().expr(expression).legend_format(legend).instant().editor_mode(prometheus_models.QueryEditorMode.CODE)


def quantile(share: float, histogram: str, by: str = "", matchers: str = "") -> str:
    """PromQL of a quantile of a histogram over the last few scrapes, optionally by labels."""
    labels = f"le, {by}" if by else "le"
    return f"histogram_quantile({share:g}, sum by ({labels}) (rate({histogram}_bucket{matchers}[$__rate_interval])))"


def traces_url(**search: str) -> str:
    """Grafana's own view of Jaeger, which works wherever Jaeger is, with the fields of a search filled in."""
    query = {"refId": "A", "queryType": "search", **search}
    panes = {"a": {"datasource": "jaeger", "queries": [query], "range": {"from": "now-1h", "to": "now"}}}
    return f"/explore?schemaVersion=1&orgId=1&panes={quote(json.dumps(panes, separators=(',', ':')))}"


def lines(
    title: str,
    description: str,
    unit: str,
    *queries: prometheus.Dataquery,
    size: tuple[int, int] = (8, 8),
    limits: Sequence[Limit] = (),
    most: float | None = None,
    stacked: bool = False,
    colours: Mapping[str, str] | None = None,
) -> timeseries.Panel:
    """Lines over time, from 0; `limits` are dashed lines, `most` is the upper end of the axis, `colours` by regular expression of the legend."""
    panel = timeseries.Panel().fill_opacity(30 if stacked else 8).line_width(1.5).show_points(forms.VisibilityMode.NEVER)
    panel.title(title).description(description).datasource(SOURCE).unit(unit).min(0).axis_soft_min(0)
    panel.span(size[0]).height(size[1])
    panel.legend(
        common.VizLegendOptions()
        .display_mode(forms.LegendDisplayMode.TABLE if size[0] > 8 else forms.LegendDisplayMode.LIST)
        .placement(forms.LegendPlacement.BOTTOM)
        .show_legend(True)
        .calcs(["lastNotNull", "max"] if size[0] > 8 else [])
    )
    panel.tooltip(common.VizTooltipOptions().mode(forms.TooltipDisplayMode.MULTI).sort(forms.SortOrder.DESCENDING))
    panel.color_scheme(dashboard.FieldColor().mode(models.FieldColorModeId.PALETTE_CLASSIC_BY_NAME))
    if stacked:
        panel.stacking(common.StackingConfig().mode(forms.StackingMode.NORMAL))
    if most is not None:
        panel.max(most)
    if limits:
        panel.thresholds(_thresholds(GREEN, limits))
        panel.thresholds_style(common.GraphThresholdsStyleConfig().mode(forms.GraphThresholdsStyleMode.DASHED))
    for pattern, colour in (colours or {}).items():
        panel.override_by_regexp(pattern, [_fixed(colour)])
    for one in queries:
        panel.with_target(one)
    return panel


def number(  # noqa: PLR0913 - one for each thing that differs, all but three by name and with defaults
    title: str,
    description: str,
    unit: str,
    *queries: prometheus.Dataquery,
    size: tuple[int, int] = (4, 5),
    limits: Sequence[Limit] = (),
    base: str = GREEN,
    texts: Mapping[float, tuple[str, str]] | None = None,
    nothing: str = "no data",
    decimals: int | None = None,
) -> stat.Panel:
    """One number, or one a series. `texts` gives a value its word and colour; `nothing` is shown where there is no value."""
    panel = stat.Panel().color_mode(forms.BigValueColorMode.VALUE).graph_mode(forms.BigValueGraphMode.NONE)
    panel.title(title).description(description).datasource(SOURCE).unit(unit).no_value(nothing).span(size[0]).height(size[1])
    panel.reduce_options(_last()).thresholds(_thresholds(base, limits)).orientation(forms.VizOrientation.HORIZONTAL)
    panel.text_mode(forms.BigValueTextMode.VALUE_AND_NAME if len(queries) > 1 or texts else forms.BigValueTextMode.AUTO)
    if decimals is not None:
        panel.decimals(decimals)
    if texts:
        panel.mappings([_mapping(texts)])
    for one in queries:
        panel.with_target(one)
    return panel


def dial(
    title: str, description: str, *queries: prometheus.Dataquery, size: tuple[int, int], limits: Sequence[Limit], base: str, nothing: str
) -> gauge.Panel:
    """Shares as dials from 0 to 100 %."""
    panel = gauge.Panel().title(title).description(description).datasource(SOURCE).unit("percentunit").min(0).max(1).no_value(nothing).decimals(0)
    panel.span(size[0]).height(size[1]).reduce_options(_last()).thresholds(_thresholds(base, limits)).show_threshold_markers(True)
    for one in queries:
        panel.with_target(one)
    return panel


def states(
    title: str, description: str, *queries: prometheus.Dataquery, texts: Mapping[float, tuple[str, str]], size: tuple[int, int]
) -> statetimeline.Panel:
    """A band a series, coloured by its state."""
    panel = statetimeline.Panel().title(title).description(description).datasource(SOURCE).unit("none").mappings([_mapping(texts)])
    panel.span(size[0]).height(size[1]).merge_values(True).show_value(forms.VisibilityMode.AUTO).row_height(0.8)
    panel.legend(common.VizLegendOptions().show_legend(True).display_mode(forms.LegendDisplayMode.LIST).placement(forms.LegendPlacement.BOTTOM))
    for one in queries:
        panel.with_target(one)
    return panel


def densities(title: str, description: str, expression: str, *, size: tuple[int, int]) -> heatmap.Panel:
    """How the observations of a histogram in seconds are spread, over time. The expression gives its buckets."""
    panel = heatmap.Panel().title(title).description(description).datasource(SOURCE).unit("short").span(size[0]).height(size[1]).calculate(False)
    panel.color(
        heatmap.HeatmapColorOptions().mode(heatmap_models.HeatmapColorMode.SCHEME).scheme("Turbo").scale(heatmap_models.HeatmapColorScale.EXPONENTIAL)
    )
    # Buckets that nothing fell into stay empty, or the whole panel would be filled with the colour of zero.
    panel.filter_values(heatmap.FilterValueRange().le(1e-9)).y_axis(heatmap.YAxisConfig().unit("s")).rows_frame(
        heatmap.RowsHeatmapOptions().layout(forms.HeatmapCellLayout.AUTO)
    )
    panel.tooltip(heatmap.HeatmapTooltip().mode(forms.TooltipDisplayMode.SINGLE).y_histogram(True).show_color_scale(True)).show_legend()
    return panel.with_target(query(expression, "{{le}}").format(prometheus_models.PromQueryFormat.HEATMAP))


def shares(
    title: str, description: str, unit: str, *queries: prometheus.Dataquery, size: tuple[int, int], colours: Mapping[str, str]
) -> piechart.Panel:
    """Parts of a whole, as a ring; `colours` by regular expression of the legend."""
    panel = piechart.Panel().title(title).description(description).datasource(SOURCE).unit(unit).span(size[0]).height(size[1])
    panel.decimals(0).pie_type(piechart_models.PieChartType.DONUT).reduce_options(_last()).display_labels([piechart_models.PieChartLabels.PERCENT])
    panel.legend(
        piechart.PieChartLegendOptions()
        .show_legend(True)
        .display_mode(forms.LegendDisplayMode.TABLE)
        .placement(forms.LegendPlacement.RIGHT)
        .values([piechart_models.PieChartLegendValues.VALUE, piechart_models.PieChartLegendValues.PERCENT])
    )
    for pattern, colour in colours.items():
        panel.override_by_regexp(pattern, [_fixed(colour)])
    for one in queries:
        panel.with_target(one)
    return panel


def bars(title: str, description: str, unit: str, one: prometheus.Dataquery, *, label: str, size: tuple[int, int]) -> barchart.Panel:
    """A bar a series, the largest first; `label` is what a bar is called by."""
    panel = barchart.Panel().title(title).description(description).datasource(SOURCE).unit(unit).min(0).span(size[0]).height(size[1])
    panel.orientation(forms.VizOrientation.HORIZONTAL).x_field(label).show_value(forms.VisibilityMode.AUTO).fill_opacity(70)
    panel.legend(common.VizLegendOptions().show_legend(False).display_mode(forms.LegendDisplayMode.LIST).placement(forms.LegendPlacement.BOTTOM))
    panel.color_scheme(dashboard.FieldColor().mode(models.FieldColorModeId.FIXED).fixed_color(PURPLE))
    # As a table a series is a row of labels and value; of its columns the bars need two.
    panel.with_transformation(models.DataTransformerConfig("sortBy", options={"sort": [{"field": "Value", "desc": True}]}))
    panel.with_transformation(
        models.DataTransformerConfig("organize", options={"excludeByName": {"Time": True}, "renameByName": {"Value": "vectors"}})
    )
    return panel.with_target(one.format(prometheus_models.PromQueryFormat.TABLE))


def _last() -> common.ReduceDataOptions:
    return common.ReduceDataOptions().calcs(["lastNotNull"]).values(False).fields("")


def _thresholds(base: str, limits: Sequence[Limit]) -> dashboard.ThresholdsConfig:
    steps = [models.Threshold(None, base), *(models.Threshold(limit.value, limit.colour) for limit in limits)]
    return dashboard.ThresholdsConfig().mode(models.ThresholdsMode.ABSOLUTE).steps(steps)


def _mapping(texts: Mapping[float, tuple[str, str]]) -> models.ValueMap:
    options = {f"{value:g}": models.ValueMappingResult(text, colour, index=index) for index, (value, (text, colour)) in enumerate(texts.items())}
    return models.ValueMap(options)


def _fixed(colour: str) -> models.DynamicConfigValue:
    value: dict[str, Any] = {"mode": models.FieldColorModeId.FIXED, "fixedColor": colour}
    return models.DynamicConfigValue("color", value)

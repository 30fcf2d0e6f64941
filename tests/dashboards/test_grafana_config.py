"""The dashboard: what its file says, and that a real Prometheus which watches a real stack has an answer to everything that it asks."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import pytest_asyncio
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models import dashboard as models
from matplotlib import image

from deployments.grafana.source import overview
from services.cli.observe import check, dashboard, expressions, report
from services.cli.observe.check import Finding
from services.cli.observe.configuration import DEPLOYMENTS
from services.cli.observe.dashboard import Panel, Target
from services.cli.observe.previews import draw
from services.cli.observe.programs import find_programs
from services.cli.observe.scenario import Pace, watched
from shared.errors import FailedPreconditionError
from shared.observability.metrics import DEFINITIONS
from tests.observability.test_opentelemetry import request

# Of every series that Prometheus has scraped.
_TARGET_LABELS = frozenset({"job", "instance"})
# What no definition of ours is behind: Prometheus' own series, and those that prometheus-client makes of every process.
_OTHERS = {
    "up": frozenset[str](),
    "scrape_duration_seconds": frozenset[str](),
    "ALERTS": frozenset({"alertname", "alertstate", "severity"}),
    "process_cpu_seconds_total": frozenset[str](),
    "process_resident_memory_bytes": frozenset[str](),
    "process_open_fds": frozenset[str](),
    "python_gc_collections_total": frozenset({"generation"}),
}
_ASKED_FOR = {
    "Query Latency P50/P95/P99": "timeseries",
    "Throughput": "timeseries",
    "Cache Hit Ratio": "gauge",
    "Active Projects": "stat",
    "Vector Search Performance": "heatmap",
    "Error Rate": "timeseries",
    "ChromaDB Collection Sizes": "barchart",
    "API Response Codes": "piechart",
    "Breaker State": "state-timeline",
}
_ROWS = ["Users", "Searches", "Resilience", "Indexing", "SLO", "Resources", "Observability"]
# What a person asks of each of these rows: words of panels that must be there.
_SUBJECTS = {
    "Resilience": ("Degraded", "Stood In", "Breaker", "Retries", "Budget", "Shed", "ChromaDB Call Latency"),
    "Indexing": ("Projector Lag", "Throughput", "Ingest to Searchable", "Quarantine", "Feed Lag", "Commit", "WAL", "Differences"),
    "SLO": ("Budget Left", "Burn Rate", "100 ms", "NDCG"),
    "Resources": ("CPU", "Memory", "Open Files", "Disk", "Event Loop", "Garbage"),
    "Observability": ("Spans", "Log Lines", "Scrape"),
}
_FIRST_SCREEN = 24  # units of Grafana's grid that a screen of 1080 lines shows


@pytest.fixture(scope="module")
def form() -> Mapping[str, Any]:
    """The file as it stands."""
    loaded: Mapping[str, Any] = json.loads(dashboard.FILE.read_text(encoding="utf-8"))
    return loaded


@pytest.fixture(scope="module")
def panels() -> list[Panel]:
    """Its panels."""
    return list(dashboard.load().panels)


def test_the_file_is_what_the_code_builds() -> None:
    """Whoever changes the code runs `make gen`, and whoever changes the file loses it."""
    assert dashboard.FILE.read_text(encoding="utf-8") == overview.render()


def test_grafanas_own_types_read_the_file_without_loss(form: Mapping[str, Any]) -> None:
    """What the SDK reads and writes again is the same: there is no field in it that Grafana's schema does not have."""
    register_default_plugins()
    again = json.loads(json.dumps(models.Dashboard.from_json(dict(form)), cls=JSONEncoder))
    assert again == form


@pytest.mark.parametrize(("title", "kind"), _ASKED_FOR.items())
def test_a_panel_that_was_asked_for_is_there_as_its_kind(panels: list[Panel], title: str, kind: str) -> None:
    """By its exact title."""
    assert [panel.kind for panel in panels if panel.title == title] == [kind]


def test_rows_have_what_people_look_for_in_them(panels: list[Panel]) -> None:
    """The rows are there in their order, each with its subjects."""
    assert list(dict.fromkeys(panel.row for panel in panels)) == _ROWS
    titles = {row: " | ".join(panel.title for panel in panels if panel.row == row) for row in _ROWS}
    assert {row: [word for word in words if word not in titles[row]] for row, words in _SUBJECTS.items()} == {row: [] for row in _SUBJECTS}


def test_the_first_screen_answers_for_users(panels: list[Panel]) -> None:
    """All panels of the first row, and no other, fit on it; latency, errors and alerts among them."""
    on_it = {panel.title for panel in panels if panel.place[1] + panel.place[3] <= _FIRST_SCREEN}
    assert on_it == {panel.title for panel in panels if panel.row == "Users"}
    assert {"Alerts Firing", "Query Latency P50/P95/P99", "Error Rate", "Throughput"} <= on_it


def test_no_panel_overlaps_another_or_the_edge(form: Mapping[str, Any]) -> None:
    """Rows included, on 24 columns."""
    places = [(one["title"], one["gridPos"]) for one in form["panels"]]
    assert [title for title, place in places if place["x"] < 0 or place["x"] + place["w"] > 24 or min(place["w"], place["h"]) < 1] == []
    pairs = itertools.combinations(places, 2)
    assert [(one, other) for (one, here), (other, there) in pairs if _overlap(here, there)] == []


def test_ids_are_unique(form: Mapping[str, Any]) -> None:
    """Of panels in the dashboard, and of queries in a panel."""
    ids = [one["id"] for one in form["panels"]]
    assert len(set(ids)) == len(ids)
    for panel in form["panels"]:
        references = [target["refId"] for target in panel.get("targets", [])]
        assert len(set(references)) == len(references)


def test_variables_that_are_used_exist_and_those_that_exist_are_used(form: Mapping[str, Any]) -> None:
    """Also in annotations, links and other variables."""
    defined = {one["name"] for one in form["templating"]["list"]}
    text = json.dumps(form)
    used = {name for name in re.findall(r"\$\{?([A-Za-z]\w*)\}?", text) if not name.startswith("__")}
    assert used == defined
    assert {"datasource", "project"} <= defined
    assert all("$project" in text for text in _expressions_with(form, "kb_chromadb_collection_size"))


def test_every_query_asks_the_chosen_data_source(form: Mapping[str, Any]) -> None:
    """So that the dashboard works with a Prometheus of any name; a link names Jaeger by the uid that is provisioned."""
    chosen = {"type": "prometheus", "uid": "${datasource}"}
    assert [one["title"] for one in form["panels"] if one["type"] != "row" and one["datasource"] != chosen] == []
    (provisioned,) = (DEPLOYMENTS / "grafana" / "provisioning").rglob("datasources.yml")
    assert "jaeger" in {source["uid"] for source in yaml.safe_load(provisioned.read_text())["datasources"]}


def test_every_panel_says_how_to_read_it(panels: list[Panel]) -> None:
    """A description, a unit, and a legend for each query."""
    for panel in panels:
        defaults = panel.form["fieldConfig"]["defaults"]
        assert len(panel.form["description"]) > 40, panel.title
        assert defaults.get("unit"), panel.title
        assert all(target.legend for target in panel.targets), panel.title


def test_lines_begin_at_zero(panels: list[Panel]) -> None:
    """An axis that begins elsewhere makes much of little."""
    assert {panel.title: panel.form["fieldConfig"]["defaults"].get("min") for panel in panels if panel.kind == "timeseries"} == {
        panel.title: 0 for panel in panels if panel.kind == "timeseries"
    }


def test_alerts_are_drawn_into_the_panels_and_it_keeps_itself_up_to_date(form: Mapping[str, Any]) -> None:
    """Firing alerts as annotations, the last hour, every 15 seconds."""
    assert 'ALERTS{alertstate="firing"}' in [one["expr"] for one in form["annotations"]["list"]]
    assert (form["uid"], form["refresh"], form["time"]) == ("knowledgebeast-overview", "15s", {"from": "now-1h", "to": "now"})


def test_latency_leads_to_traces(panels: list[Panel]) -> None:
    """Exemplars are asked for in the latency panel."""
    assert [panel.title for panel in panels if any(target.exemplars for target in panel.targets)] == ["Query Latency P50/P95/P99"]


def test_every_expression_reads_series_that_exist_with_labels_that_they_have(panels: list[Panel]) -> None:
    """Names and labels come from the definitions of metrics, the recording rules, or Prometheus itself."""
    known, loaded = _known(), dashboard.load()
    values = check.choices(loaded, 0)
    asked = [target.expression for panel in panels for target in panel.targets] + list(loaded.annotations.values())
    for expression in [expressions.substituted(one, values) for one in asked]:
        for name, labels in _selected(expression):
            assert name in known, expression
            assert labels <= known[name] | _TARGET_LABELS, expression
        for name in _grouped(expression):
            assert any(name in labels | _TARGET_LABELS for labels in known.values()), expression


def test_legends_name_labels_that_the_result_has(panels: list[Panel]) -> None:
    """`{{label}}` of a label that was summed away would be shown as nothing."""
    known, values = _known(), check.choices(dashboard.load(), 0)
    for panel in panels:
        for target in panel.targets:
            expression = expressions.substituted(target.expression, values)
            left = _grouped(expression) or frozenset().union(*(known[name] | _TARGET_LABELS for name, _ in _selected(expression)))
            made = set(re.findall(r'label_replace\(.*?, "(\w+)"', target.expression))
            assert set(re.findall(r"\{\{(\w+)\}\}", target.legend)) <= left | made, panel.title


@dataclass(frozen=True)
class Seen:
    """What a real Prometheus answered, and the previews that were drawn of it."""

    findings: list[Finding]
    bogus: list[Finding]
    pictures: list[Path]

    def of(self, kind: str) -> Iterator[Finding]:
        """Those of a kind."""
        return (one for one in self.findings if one.kind == kind)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def seen(tmp_path_factory: pytest.TempPathFactory, model_dir: Path) -> AsyncIterator[Seen]:
    """`kb observe --check`, shorter: a real stack under load, an outage of ChromaDB, a real Prometheus."""
    try:
        find_programs()
    except FailedPreconditionError as error:
        pytest.skip(error.message)
    folder, shown = tmp_path_factory.mktemp("observe"), dashboard.load()
    said: list[str] = []
    # Within a recorded trace: a provider that other tests have left in this process would make the load one that is not, and leave no exemplars.
    with request():
        async with watched(folder, model_dir, Pace(calm=3, outage=1, settled=5, canary=2), said.append) as live:
            prometheus = live.monitoring.prometheus
            findings = await check.check(prometheus, shown, live.began)
            misspelt = replace(shown.panels[0], title="Misspelt", targets=[Target("rate(kb_query_durations_seconds_count[1m])", "x", False, False)])
            broken = replace(misspelt, title="Broken", targets=[Target("sum(rate(", "x", False, False)])
            bogus = await check.check(prometheus, replace(shown, panels=[misspelt, broken]), live.began)
            pictures = await draw(prometheus, shown, check.choices(shown, live.began), live.began, folder)
    yield Seen(findings, bogus, pictures)


def test_every_panel_and_variable_has_data(seen: Seen) -> None:
    """Each expression of each panel, under load, in a real Prometheus; exemplars with a trace id; the annotation during the outage."""
    kinds = ("panel", "exemplars", "annotation", "variable")
    assert {(one.name, one.expression): one.problem for kind in kinds for one in seen.of(kind) if one.problem} == {}
    assert {one.name for one in seen.of("panel")} == {panel.title for panel in dashboard.load().panels}


def test_every_alert_reads_series_that_are_there(seen: Seen) -> None:
    """What each alert compares has a value, and every series that it reads exists, so that its silence means that all is well."""
    alerts = list(seen.of("alert"))
    assert {one.name: one.problem for one in alerts if one.problem} == {}
    rules = yaml.safe_load((DEPLOYMENTS / "prometheus" / "alerts.yml").read_text())
    assert {one.name for one in alerts} == {rule["alert"] for group in rules["groups"] for rule in group["rules"]}


def test_every_recording_rule_records(seen: Seen) -> None:
    """And every target is up."""
    rules = list(seen.of("rule"))
    assert len(rules) > 10
    assert {one.name: one.problem for one in (*rules, *seen.of("target")) if one.problem} == {}


def test_the_outage_was_seen(seen: Seen) -> None:
    """ChromaDB was killed in between: the annotation names the alert, and the alert has fired."""
    (annotation,) = seen.of("annotation")
    assert "KnowledgeBeastChromaDBDown" in annotation.note
    assert [one.note for one in seen.of("alert") if one.name == "KnowledgeBeastChromaDBDown"] == ["has fired"]


def test_a_name_that_does_not_exist_is_noticed(seen: Seen) -> None:
    """The check itself: a misspelt metric returns nothing, a broken expression is refused, and the report says so."""
    problems = {one.name: one.problem for one in seen.bogus if one.kind == "panel"}
    assert problems["Misspelt"] == "no series"
    assert "parse error" in problems["Broken"]
    assert not report.as_json(seen.bogus)["ok"]
    assert "return nothing" in report.summary(seen.bogus)


def test_previews_are_drawn_of_every_row(seen: Seen) -> None:
    """A picture a row, none of them empty."""
    assert [path.stem for path in seen.pictures] == [row.lower() for row in _ROWS]
    assert all(image.imread(path).std() > 0 for path in seen.pictures)


def _overlap(here: Mapping[str, int], there: Mapping[str, int]) -> bool:
    return all(here[at] < there[at] + there[size] and there[at] < here[at] + here[size] for at, size in (("x", "w"), ("y", "h")))


def _expressions_with(form: Mapping[str, Any], name: str) -> list[str]:
    found = [target["expr"] for panel in form["panels"] for target in panel.get("targets", []) if name in target["expr"]]
    assert found
    return found


def _known() -> dict[str, frozenset[str]]:
    """Labels of every series by its name."""
    known = dict(_OTHERS)
    for definition in DEFINITIONS:
        labels = frozenset(label.name for label in definition.labels)
        if definition.kind == "histogram":
            known |= {f"{definition.name}_{part}": labels for part in ("count", "sum")} | {f"{definition.name}_bucket": labels | {"le"}}
        else:
            known[definition.name] = labels
    rules = yaml.safe_load((DEPLOYMENTS / "prometheus" / "recording_rules.yml").read_text())
    for rule in (rule for group in rules["groups"] for rule in group["rules"]):
        known[rule["record"]] = _grouped(rule["expr"])
    return known


def _selected(expression: str) -> list[tuple[str, frozenset[str]]]:
    """The series that an expression reads: their names, and the labels by which they are chosen."""
    found: list[tuple[str, frozenset[str]]] = []

    def note(node: promql_parser.Expr) -> None:
        if isinstance(node, promql_parser.VectorSelector):
            found.append((node.name or "", frozenset(matcher.name for matcher in node.matchers.matchers)))

    promql_parser.walk(promql_parser.parse(expression), note)
    return found


def _grouped(expression: str) -> frozenset[str]:
    """Labels that an expression aggregates by."""
    lists = re.findall(r"\bby \(([^)]*)\)", expression)
    return frozenset(name.strip() for names in lists for name in names.split(","))

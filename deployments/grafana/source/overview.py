"""The dashboard as a whole: its rows, variables, annotations and links."""

from __future__ import annotations

import json
from string import ascii_uppercase
from typing import Final

from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models import prometheus

from deployments.grafana.source import indexing, objectives, resilience, resources, search, users, watching
from deployments.grafana.source.style import RED, SOURCE, traces_url

UID: Final = "knowledgebeast-overview"
_ROWS: Final = (users, search, resilience, indexing, objectives, resources, watching)
_ALL: Final = models.VariableOption(selected=True, text="All", value="$__all")


def build() -> models.Dashboard:
    """The dashboard. Panels have the ids 101, 102, … in the first row, 201, … in the second: links to them survive changes of other rows."""
    overview = (
        dashboard.Dashboard("KnowledgeBeast overview")
        .uid(UID)
        .description("Are users all right? If not: what fails, and where. Made by code: changes belong into deployments/grafana/source.")
        .tags(["knowledgebeast"])
        .readonly()
        .refresh("15s")
        .time("now-1h", "now")
        .timezone("browser")
        .tooltip(models.DashboardCursorSync.CROSSHAIR)
        .variables([_data_source(), _project(), _job(), _instance(), _documentation()])
        .annotation(_alerts())
        .links([_runbooks(), _traces()])
    )
    for module in _ROWS:
        section = module.section()
        overview.with_row(dashboard.Row(section.title))
        for panel in section.panels:
            overview.with_panel(panel)
    return _numbered(overview.build())


def render() -> str:
    """The dashboard as it stands in the file."""
    return json.dumps(build(), cls=JSONEncoder, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def _numbered(built: models.Dashboard) -> models.Dashboard:
    row = place = 0
    for item in built.panels or []:
        row, place = (row + 1, 0) if isinstance(item, models.RowPanel) else (row, place + 1)
        item.id_val = row * 100 + place
        for letter, target in zip(ascii_uppercase, (isinstance(item, models.Panel) and item.targets) or (), strict=False):
            if isinstance(target, prometheus.Dataquery):
                target.ref_id = letter
    return built


def _data_source() -> dashboard.DatasourceVariable:
    return dashboard.DatasourceVariable("datasource").label("Data source").description("The Prometheus that is asked.").type("prometheus")


def _project() -> dashboard.QueryVariable:
    query = "label_values(kb_chromadb_collection_size, project)"
    return _values("project", "Project", query, "Projects in ChromaDB Collection Sizes: the 20 largest, and _other. No other metric knows projects.")


def _job() -> dashboard.QueryVariable:
    return _values("job", "Service", "label_values(kb_build_info, job)", "Services in the rows Resources and Observability.", every="kb-.*")


def _instance() -> dashboard.QueryVariable:
    query = 'label_values(kb_build_info{job=~"$job"}, instance)'
    return _values("instance", "Instance", query, "Processes in the rows Resources and Observability.")


def _values(name: str, label: str, query: str, description: str, every: str = ".*") -> dashboard.QueryVariable:
    return (
        dashboard.QueryVariable(name)
        .label(label)
        .description(description)
        .datasource(SOURCE)
        .query({"query": query, "refId": f"variable-{name}"})
        .definition(query)
        .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(models.VariableSort.ALPHABETICAL_ASC)
        .multi(True)
        .include_all(True)
        .all_value(every)
        .current(_ALL)
    )


def _documentation() -> dashboard.TextBoxVariable:
    return (
        dashboard.TextBoxVariable("documentation")
        .label("Documentation at")
        .description("Where this project's files can be read: a URL without a slash at the end. The link to the runbooks begins with it.")
        .default_value("")
    )


def _alerts() -> dashboard.AnnotationQuery:
    return (
        dashboard.AnnotationQuery()
        .name("Alerts")
        .datasource(SOURCE)
        .enable(True)
        .hide(False)
        .icon_color(RED)
        .expr('ALERTS{alertstate="firing"}')
        .step("15s")
        .title_format("{{alertname}}")
        .text_format("{{severity}} {{job}} {{instance}}")
        .tag_keys("severity")
    )


def _runbooks() -> dashboard.DashboardLink:
    return (
        dashboard.DashboardLink("Runbooks")
        .type(models.DashboardLinkType.LINK)
        .icon("doc")
        .tooltip("What to do about each alert")
        .url("${documentation}/docs/operations/runbooks/")
        .target_blank(True)
    )


def _traces() -> dashboard.DashboardLink:
    return (
        dashboard.DashboardLink("Traces (Jaeger)")
        .type(models.DashboardLinkType.LINK)
        .icon("external link")
        .tooltip("Search the traces that were recorded")
        .url(traces_url())
        .target_blank(True)
    )

"""Tables for people."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from services.cli.console import OUT, result
from services.cli.excerpt import excerpt
from shared.client import HealthState, LegScore, SearchResult, ServiceState
from shared.domain import Document, MetadataValue, Project

_STATE_STYLES = {HealthState.HEALTHY: "green", HealthState.DEGRADED: "yellow", HealthState.UNHEALTHY: "red", HealthState.UNKNOWN: "magenta"}


def _leg(leg: LegScore | None) -> str:
    return "–" if leg is None else f"{leg.rank}  {leg.score:.3f}"


def search_result(query: str, value: SearchResult, shown: int | None = None) -> None:
    """Prints hits (the first `shown`, or all) with their place in each leg, what is missing from the answer, and the service's timings."""
    if value.hits:
        table = Table("#", "score", "document", "vector", "keyword", "excerpt", box=None, padding=(0, 2, 0, 0), header_style="bold")
        for rank, hit in enumerate(value.hits[:shown], 1):
            document = Text(hit.title or hit.document_id, style="bold")
            if hit.title and hit.document_id != hit.title:
                document.append(f"\n{hit.document_id}", style="dim not bold")
            part = excerpt(hit.chunk.text, query)
            text = Text(part.text)
            for start, end in part.matches:
                text.stylize("bold yellow", start, end)
            table.add_row(str(rank), f"{hit.score:.4f}", document, _leg(hit.vector), _leg(hit.keyword), text)
        OUT.print(table)
    else:
        result("no hits")
    degradations(value)
    spent, fresh = value.timings, value.freshness
    parts = (("wait", spent.wait), ("embed", spent.embed), ("vector", spent.vector), ("keyword", spent.keyword), ("assemble", spent.assemble))
    details = ", ".join(f"{name} {seconds * 1000:.1f}" for name, seconds in parts if seconds >= 0.00005)
    behind = "" if fresh.sequence >= fresh.head else f" · {fresh.head - fresh.sequence} changes behind"
    count = len(value.hits)
    hits = "1 hit" if count == 1 else f"{count} hits" if shown is None or shown >= count else f"{shown} of {count} hits"
    result(f"{hits} in {spent.total * 1000:.1f} ms ({details}) · {value.mode.value} · sequence {fresh.sequence}{behind}", style="dim")


def degradations(value: SearchResult) -> None:
    """Prints a yellow line for each thing that is missing from the answer."""
    for degradation in value.degradations:
        since = "" if degradation.since is None else f", since {degradation.since:%H:%M:%S} UTC"
        result(
            f"degraded: {degradation.message or degradation.reason.value} ({degradation.component}: {degradation.reason.value}{since})",
            style="yellow",
        )
    if value.degraded and not value.degradations:
        result("degraded", style="yellow")


def project_table(projects: list[Project]) -> Table:
    """A line a project; `lag` counts changes that are not yet searchable by meaning."""
    table = Table("project", "documents", "chunks", "head", "vectors", "lag", "state", box=None, padding=(0, 2, 0, 0), header_style="bold")
    for project in projects:
        lag = project.head - project.vector_sequence
        name = project.id if project.display_name in {"", project.id} else f"{project.id} ({project.display_name})"
        counts = (project.document_count, project.chunk_count, project.head, project.vector_sequence)
        table.add_row(Text(name), *(f"{count:,}" for count in counts), Text(f"{lag:,}", style="yellow" if lag else ""), project.state.value)
    return table


def project_details(project: Project) -> None:
    """Prints one project, a line a field."""
    labels = ", ".join(f"{key}={value}" for key, value in sorted(project.labels.items()))
    rows = (
        ("id", project.id),
        ("name", project.display_name),
        ("description", project.description),
        ("labels", labels),
        ("model", project.embedding_model),
        ("chunking", f"{project.chunking.max_tokens} tokens, {project.chunking.overlap_tokens} of overlap"),
        ("documents", f"{project.document_count:,} in {project.chunk_count:,} chunks"),
        ("sequence", f"{project.head}, searchable by meaning up to {project.vector_sequence}"),
        ("epoch", project.epoch),
        ("collection", project.collection),
        ("state", project.state.value),
        ("created", f"{project.create_time:%Y-%m-%d %H:%M:%S} UTC"),
        ("changed", f"{project.update_time:%Y-%m-%d %H:%M:%S} UTC"),
        ("etag", project.etag),
    )
    for name, value in rows:
        if value:
            result(f"{name:12}{value}")


def document_table(documents: list[Document]) -> Table:
    """A line a document."""
    table = Table("document", "title", "chunks", "changed (UTC)", "metadata", box=None, padding=(0, 2, 0, 0), header_style="bold")
    for document in documents:
        metadata = ", ".join(f"{name}={_metadata(value)}" for name, value in sorted(document.metadata.items()))
        changed = f"{document.update_time:%Y-%m-%d %H:%M:%S}"
        table.add_row(Text(document.id), Text(document.title), str(document.chunk_count), changed, Text(metadata, style="dim"))
    return table


def _metadata(value: MetadataValue) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def service_state(value: ServiceState, address: str) -> None:
    """Prints a service and its components."""
    result(f"{value.service} at {address}: {value.state.value} (version {value.version})", style=_STATE_STYLES[value.state])
    for component in value.components:
        details = ", ".join(f"{name} {_figure(figure)}" for name, figure in sorted(component.details.items()))
        text = "; ".join(filter(None, (component.message, details)))
        result(f"  {component.name:18}{component.state.value:10} {text}", style=_STATE_STYLES[component.state])


def _figure(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)

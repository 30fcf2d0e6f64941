"""Projects, documents and services as tables for people."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from services.cli.console import result
from services.cli.json_forms import COMPONENT_STATES
from shared.client import HealthState, ServiceState
from shared.domain import Document, KeywordSettings, MetadataValue, Project

_STATE_STYLES = {HealthState.HEALTHY: "green", HealthState.DEGRADED: "yellow", HealthState.UNHEALTHY: "red", HealthState.UNKNOWN: "magenta"}
_SHOWN_WORDS = 10  # of the stop words that a project has of its own


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
        ("keywords", _keyword(project.keyword)),
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


def _keyword(settings: KeywordSettings) -> str:
    """`english, stems, stop words and 2 more: the, a`; a long list of words is cut short."""
    if settings.language == "none":
        parts = ["words as they are written"]
    else:
        parts = [settings.language, "stems" if settings.stemming else "no stems", "stop words" if settings.stop_words else "no stop words"]
    if words := settings.more_stop_words:
        more = ", …" if len(words) > _SHOWN_WORDS else ""
        parts.append(f"{len(words):,} stop words of its own ({', '.join(words[:_SHOWN_WORDS])}{more})")
    return ", ".join(parts)


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
        result(f"  {component.name:18}{COMPONENT_STATES[component.state]:10} {text}", style=_STATE_STYLES[component.state])


def _figure(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)

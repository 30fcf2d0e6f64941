"""What `--json` prints. Pure. Keys are stable: one may be added, none is renamed. Times are ISO 8601, durations milliseconds."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from shared.client import HealthState, ServiceState
from shared.domain import Chunk, Document, Metadata, Project


def iso_time(value: datetime | None) -> str | None:
    """A time, None as it is."""
    return None if value is None else value.isoformat()


def metadata(value: Metadata) -> dict[str, Any]:
    """Metadata, tuples as lists."""
    return {name: list(element) if isinstance(element, tuple) else element for name, element in value.items()}


def project(value: Project) -> dict[str, Any]:
    """A project. `lag` counts changes that are not yet searchable by meaning."""
    return {
        "id": value.id,
        "display_name": value.display_name,
        "description": value.description,
        "labels": dict(value.labels),
        "embedding_model": value.embedding_model,
        "chunking": {"max_tokens": value.chunking.max_tokens, "overlap_tokens": value.chunking.overlap_tokens},
        "keyword": {
            "language": value.keyword.language,
            "stemming": value.keyword.stemming,
            "stop_words": value.keyword.stop_words,
            "more_stop_words": list(value.keyword.more_stop_words),
        },
        "generation": value.generation,
        "epoch": value.epoch,
        "head_sequence": value.head,
        "vector_sequence": value.vector_sequence,
        "lag": value.head - value.vector_sequence,
        "document_count": value.document_count,
        "chunk_count": value.chunk_count,
        "state": value.state.value,
        "create_time": iso_time(value.create_time),
        "update_time": iso_time(value.update_time),
        "etag": value.etag,
    }


def chunk(value: Chunk) -> dict[str, Any]:
    """A chunk with its text and offsets."""
    return {"id": value.id, "ordinal": value.ordinal, "start_offset": value.start, "end_offset": value.end, "text": value.text}


def document(value: Document, *, whole: bool) -> dict[str, Any]:
    """A document; with text and chunks if `whole`."""
    form: dict[str, Any] = {
        "id": value.id,
        "title": value.title,
        "metadata": metadata(value.metadata),
        "sequence": value.sequence,
        "chunk_count": value.chunk_count,
        "content_hash": value.content_hash,
        "create_time": iso_time(value.create_time),
        "update_time": iso_time(value.update_time),
    }
    if whole:
        form["text"] = value.text
        form["chunks"] = [chunk(part) for part in value.chunks]
    return form


# What a component's state is called, as at /health.
COMPONENT_STATES = {HealthState.HEALTHY: "up", HealthState.DEGRADED: "degraded", HealthState.UNHEALTHY: "down", HealthState.UNKNOWN: "unknown"}


def service(value: ServiceState) -> dict[str, Any]:
    """What a service says of itself: `status`, `components` and `timestamp` as at its /health."""
    return {
        "service": value.service,
        "version": value.version,
        "status": value.state.value,
        "components": {
            component.name: {
                "status": COMPONENT_STATES[component.state],
                **({"message": component.message} if component.message else {}),
                **component.details,
            }
            for component in value.components
        },
        "timestamp": _utc(value.time),
        "start_time": _utc(value.start_time),
    }


def _utc(value: datetime | None) -> str | None:
    """`2026-01-31T12:00:00.000Z`."""
    return None if value is None else value.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")

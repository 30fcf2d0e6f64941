"""What `--json` prints. Pure. Keys are stable: one may be added, none is renamed. Times are ISO 8601, durations milliseconds."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from shared.client import Degradation, LegScore, SearchHit, SearchResult, ServiceState
from shared.domain import Document, Metadata, Project


def _time(value: datetime | None) -> str | None:
    return None if value is None else value.isoformat()


def _metadata(value: Metadata) -> dict[str, Any]:
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
        "generation": value.generation,
        "epoch": value.epoch,
        "head_sequence": value.head,
        "vector_sequence": value.vector_sequence,
        "lag": value.head - value.vector_sequence,
        "document_count": value.document_count,
        "chunk_count": value.chunk_count,
        "state": value.state.value,
        "create_time": _time(value.create_time),
        "update_time": _time(value.update_time),
        "etag": value.etag,
    }


def document(value: Document, *, whole: bool) -> dict[str, Any]:
    """A document; with text and chunks if `whole`."""
    form: dict[str, Any] = {
        "id": value.id,
        "title": value.title,
        "metadata": _metadata(value.metadata),
        "sequence": value.sequence,
        "chunk_count": value.chunk_count,
        "content_hash": value.content_hash,
        "create_time": _time(value.create_time),
        "update_time": _time(value.update_time),
    }
    if whole:
        form["text"] = value.text
        form["chunks"] = [
            {"id": chunk.id, "ordinal": chunk.ordinal, "start_offset": chunk.start, "end_offset": chunk.end, "text": chunk.text}
            for chunk in value.chunks
        ]
    return form


def _leg(value: LegScore | None) -> dict[str, Any] | None:
    return None if value is None else {"rank": value.rank, "score": value.score}


def _hit(rank: int, value: SearchHit) -> dict[str, Any]:
    chunk = value.chunk
    return {
        "rank": rank,
        "score": value.score,
        "document_id": value.document_id,
        "title": value.title,
        "metadata": _metadata(value.metadata),
        "chunk": {"id": chunk.id, "ordinal": chunk.ordinal, "start_offset": chunk.start, "end_offset": chunk.end, "text": chunk.text},
        "vector": _leg(value.vector),
        "keyword": _leg(value.keyword),
    }


def _degradation(value: Degradation) -> dict[str, Any]:
    return {"reason": value.reason.value, "component": value.component, "message": value.message, "since": _time(value.since)}


def search(value: SearchResult) -> dict[str, Any]:
    """The answer to a search."""
    fresh, spent = value.freshness, value.timings
    return {
        "mode": value.mode.value,
        "degraded": value.degraded,
        "degradations": [_degradation(degradation) for degradation in value.degradations],
        "hits": [_hit(rank, hit) for rank, hit in enumerate(value.hits, 1)],
        "freshness": {
            "epoch": fresh.epoch,
            "sequence": fresh.sequence,
            "vector_sequence": fresh.vector_sequence,
            "head_sequence": fresh.head,
            "contact_time": _time(fresh.contact_time),
        },
        "timings_ms": {name: round(getattr(spent, name) * 1000, 3) for name in ("total", "wait", "embed", "vector", "keyword", "assemble")},
    }


def service(value: ServiceState) -> dict[str, Any]:
    """What a service says of itself."""
    return {
        "service": value.service,
        "version": value.version,
        "status": value.state.value,
        "components": [
            {
                "name": component.name,
                "status": component.state.value,
                "message": component.message,
                "check_time": _time(component.check_time),
                "details": dict(component.details),
            }
            for component in value.components
        ],
        "time": _time(value.time),
        "start_time": _time(value.start_time),
    }

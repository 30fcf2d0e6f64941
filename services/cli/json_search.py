"""What `--json` prints of answers. Pure. Keys are stable: one may be added, none is renamed. Times are ISO 8601, durations milliseconds."""

from __future__ import annotations

from dataclasses import asdict, fields
from typing import Any

from services.cli.json_forms import chunk, iso_time, metadata
from shared.client import Degradation, Explanation, GroupedChunk, Hit, LegScore, SearchAnswer, Snippet, Timings


def _leg(value: LegScore | None) -> dict[str, Any] | None:
    return None if value is None else asdict(value)


def _grouped(value: GroupedChunk) -> dict[str, Any]:
    return {"score": value.score, "chunk": chunk(value.chunk), "vector": _leg(value.vector), "keyword": _leg(value.keyword)}


def _snippet(value: Snippet) -> dict[str, Any]:
    matches = [{"start_offset": match.start, "end_offset": match.end} for match in value.matches]
    return {"text": value.text, "start_offset": value.start, "end_offset": value.end, "matches": matches}


def _explanation(value: Explanation | None) -> dict[str, Any] | None:
    """Field by field as the type has them; every one is a number, a text, or an object of numbers."""
    return None if value is None else asdict(value)


def _hit(rank: int, value: Hit) -> dict[str, Any]:
    return {
        "rank": rank,
        "score": value.score,
        "reranked": value.reranked,
        "document_id": value.document_id,
        "title": value.title,
        "metadata": metadata(value.metadata),
        "chunk": chunk(value.chunk),
        "vector": _leg(value.vector),
        "keyword": _leg(value.keyword),
        "more_chunks": [_grouped(other) for other in value.more_chunks],
        "snippets": [_snippet(part) for part in value.snippets],
        "explanation": _explanation(value.explanation),
    }


def _degradation(value: Degradation) -> dict[str, Any]:
    return {"reason": value.reason.value, "component": value.component, "message": value.message, "since": iso_time(value.since)}


def _milliseconds(value: Timings) -> dict[str, float]:
    """Each stage; 0 for one that was not needed."""
    return {field.name: round((getattr(value, field.name) or 0.0) * 1000, 3) for field in fields(value)}


def answer(value: SearchAnswer, first: int = 1) -> dict[str, Any]:
    """An answer; `first` is the rank of its first hit."""
    fresh = value.freshness
    return {
        "mode": value.mode.value,
        "degraded": value.degraded,
        "degradations": [_degradation(degradation) for degradation in value.degradations],
        "hits": [_hit(rank, hit) for rank, hit in enumerate(value.hits, first)],
        "next_page_token": value.next_page_token,
        "cached": value.cached,
        "served_from_cache": value.served_from_cache,
        "found_time": iso_time(value.found_time),
        "freshness": {
            "epoch": fresh.epoch,
            "sequence": fresh.sequence,
            "vector_sequence": fresh.vector_sequence,
            "head_sequence": fresh.head,
            "contact_time": iso_time(fresh.contact_time),
        },
        "timings_ms": _milliseconds(value.timings),
    }

"""One trace from the client through both services."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any

from opentelemetry import context, trace
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

from services.cli.stack.stack import Stack
from shared.client import KnowledgeBeast, SearchQuery
from shared.domain import DocumentId, DocumentInput
from tests.waiting import eventually


def lines(log: Path, trace_id: str) -> list[dict[str, Any]]:
    """The log lines of a service that belong to a trace."""
    return [line for text in log.read_text().splitlines() if text.startswith("{") and (line := json.loads(text)).get("trace_id") == trace_id]


async def test_a_trace_of_the_client_is_in_both_services_logs(stack: Stack) -> None:
    """The write's and the search's access lines carry the trace id that the client started."""
    trace_id = uuid.uuid4().int
    parent = NonRecordingSpan(SpanContext(trace_id, 1, is_remote=False, trace_flags=TraceFlags(TraceFlags.SAMPLED)))
    token = context.attach(trace.set_span_in_context(parent))
    project = f"p-{uuid.uuid4().hex[:12]}"
    try:
        async with KnowledgeBeast(stack.indexer_address, stack.query_address) as client:
            await client.create_project(project)
            written = await client.upsert(project, [DocumentInput(DocumentId("a"), "", "Something to be found.", {})])
            await client.search(project, SearchQuery("something", at_least_as_fresh=written.consistency_token))
    finally:
        context.detach(token)

    async def methods(log: Path) -> set[str]:
        return {line["method"].rpartition("/")[2] for line in lines(log, format(trace_id, "032x")) if "method" in line}

    await eventually(lambda: methods(stack.indexer.log), lambda seen: {"CreateProject", "UpsertDocuments"} <= seen, seconds=10)
    await eventually(lambda: methods(stack.query.log), lambda seen: "Search" in seen, seconds=10)

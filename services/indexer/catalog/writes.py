"""SQL of writes whose traces are recorded."""

from __future__ import annotations

import apsw

from services.indexer.catalog.rows import each
from services.indexer.catalog.salvage import readable
from services.indexer.records import LaggingProject
from shared.domain import SequenceNumber, TraceContext
from shared.observability.recorded_writes import RecordedWrite

# The last digit of a `traceparent` holds the flags; of an odd one the lowest is set, "sampled" (https://www.w3.org/TR/trace-context/#trace-flags).
_RECORDED = "substr(traceparent, -1) IN ('1', '3', '5', '7', '9', 'b', 'd', 'f')"


def recorded_writes(
    connection: apsw.Connection, project: LaggingProject, after: SequenceNumber, up_to: SequenceNumber, limit: int
) -> list[RecordedWrite]:
    """The oldest writes of documents in `(after, up_to]`, without what an earlier collection of the project had already, one for each request."""
    rows = each(
        connection,
        "SELECT CAST(traceparent AS BLOB), CAST(tracestate AS BLOB), min(update_time), max(sequence), count(*) FROM document WHERE project_key = ?1"  # noqa: S608 - a constant
        f" AND sequence > max(?2, (SELECT rebuild_target FROM project WHERE key = ?1)) AND sequence <= ?3 AND {_RECORDED}"
        " GROUP BY traceparent, tracestate ORDER BY max(sequence) LIMIT ?4",
        (project.key.value, after, up_to, limit),
    )
    return [
        RecordedWrite(TraceContext(readable(traceparent), readable(tracestate)), microseconds / 1e6, SequenceNumber(sequence), documents)
        for traceparent, tracestate, microseconds, sequence, documents in rows
    ]

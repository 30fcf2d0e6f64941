"""SQL of what there is, in numbers."""

from __future__ import annotations

import apsw

from services.indexer.catalog.rows import each, one
from services.indexer.records import CatalogFigures, Lag
from shared.domain import ProjectId, SequenceNumber


def figures(connection: apsw.Connection) -> CatalogFigures:
    """How much there is of everything."""
    heads: dict[ProjectId, SequenceNumber] = {}
    documents = chunks = 0
    for project_id, head, document_count, chunk_count in each(
        connection, "SELECT id, head, document_count, chunk_count FROM project WHERE deleted = 0"
    ):
        heads[ProjectId(project_id)] = SequenceNumber(head)
        documents += document_count
        chunks += chunk_count
    return CatalogFigures(heads, documents, chunks)


def lag(connection: apsw.Connection) -> Lag:
    """How far the vector store is behind. What is only written there again counts as a change, but not as an old one."""
    changes, oldest = one(
        connection,
        "SELECT sum(head - vector_sequence), min(iif(head > max(vector_sequence, rebuild_target),"
        " (SELECT update_time FROM document WHERE project_key = project.key AND sequence > max(vector_sequence, rebuild_target)"
        " ORDER BY sequence LIMIT 1), NULL)) FROM project WHERE deleted = 0",
    )
    return Lag(changes or 0, None if oldest is None else oldest / 1e6)

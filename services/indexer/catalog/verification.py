"""SQL of comparing the vector store with the catalog: what should be there, and what may be."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import apsw
import numpy as np

from services.indexer.catalog.rows import each, every, first
from services.indexer.records import ChunkPage, LaggingProject
from shared.domain import ChunkId, ProjectId, Vectors, collection_name


def expected_page(connection: apsw.Connection, project: LaggingProject, position: tuple[int, int], limit: int) -> ChunkPage:
    """Chunks behind a position whose vectors the vector store has been given: live, up to the project's vector sequence, not in quarantine."""
    rows = every(
        connection,
        "SELECT id, sequence, key FROM chunk WHERE project_key = ? AND (sequence, key) > (?, ?) AND sequence <= ? AND live"
        " AND NOT EXISTS (SELECT 1 FROM held_chunk WHERE held_chunk.chunk_key = chunk.key) ORDER BY sequence, key LIMIT ?",
        (project.key.value, *position, project.vector_sequence, limit),
    )
    end = len(rows) < limit
    return ChunkPage([ChunkId(row[0]) for row in rows], None if end else (rows[-1][1], rows[-1][2]))


def expected_vectors(connection: apsw.Connection, project: LaggingProject, chunk_ids: Collection[ChunkId]) -> tuple[Sequence[ChunkId], Vectors]:
    """Of these chunks, those that the vector store should have by now, with their vectors; none if the project has another collection by now."""
    found: list[tuple[ChunkId, bytes]] = []
    for chunk_id in chunk_ids:
        row = first(
            connection,
            "SELECT embedding.vector FROM chunk JOIN embedding ON embedding.chunk_key = chunk.key JOIN project ON project.key = chunk.project_key"
            " WHERE chunk.project_key = ? AND chunk.id = ? AND chunk.live AND chunk.sequence <= project.vector_sequence AND project.generation = ?"
            " AND project.deleted = 0 AND NOT EXISTS (SELECT 1 FROM held_chunk WHERE held_chunk.chunk_key = chunk.key)",
            (project.key.value, chunk_id, project.generation),
        )
        if row is not None:
            found.append((chunk_id, row[0]))
    vectors = np.frombuffer(b"".join(vector for _, vector in found), dtype="<f4").reshape(len(found), -1) if found else np.empty((0, 0), np.float32)
    return [chunk_id for chunk_id, _ in found], vectors


def unknown_chunks(connection: apsw.Connection, project: LaggingProject, chunk_ids: Collection[ChunkId]) -> Sequence[ChunkId]:
    """Those of the ids that no chunk of the project has, neither a live one nor one that is still to be deleted from the vector store."""
    return [
        chunk_id
        for chunk_id in chunk_ids
        if first(connection, "SELECT 1 FROM chunk WHERE project_key = ? AND id = ?", (project.key.value, chunk_id)) is None
    ]


def known_collections(connection: apsw.Connection, project_id: ProjectId) -> frozenset[str]:
    """Names of the collections that belong to a project, or did and are to be dropped."""
    own = each(connection, "SELECT generation, epoch FROM project WHERE id = ? AND purged = 0", (project_id,))
    superseded = each(connection, "SELECT name FROM superseded_collection")
    return frozenset([*(collection_name(project_id, generation, epoch) for generation, epoch in own), *(name for (name,) in superseded)])

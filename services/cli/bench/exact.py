"""Exact search over the vectors that the catalog keeps: what approximate answers are compared with, and what competitors are given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import apsw
import numpy as np

from shared.domain import Vector, Vectors
from shared.errors import FailedPreconditionError

_TIE = 1e-5  # cosine; equal texts have equal vectors, and which of them is tenth is nobody's fault


@dataclass(frozen=True, slots=True)
class StoredVectors:
    """Every live chunk of a project: `vectors[i]` (float32, unit length) is that of chunk `chunk_ids[i]` of document `document_ids[i]`."""

    chunk_ids: Sequence[str]
    document_ids: Sequence[str]
    vectors: Vectors


def read_vectors(data_dir: Path, project: str) -> StoredVectors:
    """Reads them from the catalog of a stack's data folder, without writing to it.

    Raises FailedPreconditionError when a chunk has no vector yet.
    """
    connection = apsw.Connection(str(data_dir / "indexer" / "catalog.db"), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        rows = list(
            connection.execute(
                "SELECT chunk.id, document.id, embedding.vector FROM project"
                " JOIN chunk ON chunk.project_key = project.key AND chunk.live = 1"
                " JOIN document ON document.key = chunk.document_key"
                " LEFT JOIN embedding ON embedding.chunk_key = chunk.key"
                " WHERE project.id = ? AND project.deleted = 0 ORDER BY chunk.key",
                (project,),
            )
        )
    finally:
        connection.close()
    if any(vector is None for _, _, vector in rows):
        raise FailedPreconditionError("some chunks have no vector yet")
    joined = b"".join(vector for _, _, vector in rows)
    matrix = np.frombuffer(joined, "<f4").reshape(len(rows), -1)
    return StoredVectors([row[0] for row in rows], [row[1] for row in rows], matrix)


def recall(stored: StoredVectors, query_vectors: Sequence[Vector], answers: Sequence[Sequence[str]], k: int = 10) -> float:
    """Mean share of the k nearest that the answers' first k have; a chunk as near as the k-th counts, too."""
    places = {chunk: place for place, chunk in enumerate(stored.chunk_ids)}
    shares = []
    for vector, answer in zip(query_vectors, answers, strict=True):
        scores = stored.vectors @ vector
        wanted = min(k, scores.size)
        threshold = np.partition(scores, scores.size - wanted)[scores.size - wanted] - _TIE
        found = [places[chunk] for chunk in answer[:k] if chunk in places]
        shares.append(float((scores[found] >= threshold).sum()) / wanted)
    return float(np.mean(shares))

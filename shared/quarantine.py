"""The words of the quarantine, for the indexer and its clients."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from datetime import datetime

from shared.domain import ChunkId, DocumentId, ProjectId


class QuarantineStage(enum.Enum):
    """What was done with a chunk when it failed. UNKNOWN is for clients: a newer service told something that this version has no word for."""

    EMBEDDING = "embedding"
    VECTOR_STORE = "vector_store"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class QuarantinedChunk:
    """A chunk that could not be embedded, or that the vector store refuses, while it takes others.

    Attributes:
        project_id: its project.
        document_id: its document.
        chunk_id: its id.
        ordinal: its position in the document, from 0.
        stage: where it failed.
        reason: why, for people.
        failures: how often.
        time: when it was put into quarantine.
    """

    project_id: ProjectId
    document_id: DocumentId
    chunk_id: ChunkId
    ordinal: int
    stage: QuarantineStage
    reason: str
    failures: int
    time: datetime

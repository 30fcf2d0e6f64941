"""What the replica holds in memory about one project."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from datetime import datetime

from services.query.replica.metadata import MetadataIndex
from services.query.replica.model import ReplicaProject
from services.query.replica.projects import ProjectRow
from services.query.replica.vectors import ProjectVectors


@dataclass(slots=True)
class ProjectState:
    """The stored row and the copies that follow it.

    `row`, `vectors` and `contact_time` are replaced by the writing thread alone, each in one step, and read freely. `lock` guards `metadata` and
    `version`; the writer holds it over the commit that they follow.

    Attributes:
        metadata: made when the first filter asks; None before.
        version: rises whenever documents or chunks change.
        keep_vectors: the replica keeps vectors at all.
    """

    row: ProjectRow
    keep_vectors: bool
    vectors: ProjectVectors | None = None
    metadata: MetadataIndex | None = None
    version: int = 0
    contact_time: datetime | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def vectors_available(self) -> bool:
        """Searches by vector are answered."""
        return self.keep_vectors and not self.row.vectors_dropped and self.row.vectors is not None

    def describe(self) -> ReplicaProject:
        """The project as callers see it."""
        row = self.row
        vectors = row.vectors if self.keep_vectors else None
        available = vectors is not None and not row.vectors_dropped
        return ReplicaProject(row.project, row.documents, vectors, row.head, row.vector_sequence, self.contact_time, available)

"""What the replica holds in memory about one project."""

from __future__ import annotations

import itertools
import threading
from dataclasses import dataclass, field
from datetime import datetime

from services.query.replica.metadata import MetadataIndex
from services.query.replica.model import ReplicaProject
from services.query.replica.projects import ProjectRow
from services.query.replica.vectors import ProjectVectors
from shared.domain import SequenceNumber

# One count for all projects: what is created again under an old name never has a version that the old one had.
_versions = itertools.count(1)
_copies = itertools.count(1)


@dataclass(slots=True)
class ProjectState:
    """The stored row and the copies that follow it.

    `row`, `vectors`, `version` and `contact_time` are replaced by the writing thread alone, each in one step, and read freely. `lock` guards
    `metadata` and `selection`, which change together right after the commit that they follow.

    Attributes:
        metadata: follows every change; None when a write has failed halfway, until it is needed again.
        selection: rises whenever `metadata` may select other chunks than before.
        version: see `ReplicaProject.version`.
        keep_vectors: the replica keeps vectors at all.
        copying: see `ReplicaProject.copying`.
        copy: see `ReplicaProject.copy`.
        copy_target: the sequence that a copy which is being made has to come to; None until the feed has told its head.
    """

    row: ProjectRow
    keep_vectors: bool
    vectors: ProjectVectors | None = None
    metadata: MetadataIndex | None = None
    selection: int = 0
    version: int = field(default_factory=_versions.__next__)
    contact_time: datetime | None = None
    copying: bool = False
    copy: int = field(default_factory=_copies.__next__)
    copy_target: SequenceNumber | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def vectors_available(self) -> bool:
        """Searches by vector are answered."""
        return self.keep_vectors and not self.row.vectors_dropped and self.row.vectors is not None

    def begin_copy(self) -> None:
        """What is there is dropped, and comes again from the beginning. Of a project that never had anything, nothing is missing meanwhile."""
        self.copy_target = None
        if self.copying or max(self.row.head, self.row.project.head) > 0:
            self.copying, self.copy = True, next(_copies)

    def copied(self, head: SequenceNumber) -> None:
        """An event of the documents' stream has been applied, which told of this head."""
        if not self.copying:
            return
        if self.copy_target is None:
            self.copy_target = head
        if self.row.documents is not None and self.row.documents.sequence >= self.copy_target:
            self.copying, self.copy_target = False, None

    def changed(self) -> None:
        """Searches that begin from now on may be answered in another way: to be called after the change can be seen, never before."""
        self.version = next(_versions)

    def describe(self) -> ReplicaProject:
        """The project as callers see it."""
        row = self.row
        vectors = row.vectors if self.keep_vectors else None
        available = vectors is not None and not row.vectors_dropped
        return ReplicaProject(
            row.project,
            row.documents,
            vectors,
            row.head,
            row.vector_sequence,
            self.contact_time,
            available,
            self.version,
            copying=self.copying,
            copy=self.copy,
            copy_target=self.copy_target,
        )

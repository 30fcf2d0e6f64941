"""The values that the replica gives out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from shared.domain import Chunk, Cursor, DocumentId, Metadata, Project, SequenceNumber, VectorSequence

# Primary keys of chunks, rising: the only thing that the legs speak of. A key is never used twice.
Pks = NDArray[np.int64]


class ScoredPk(NamedTuple):
    """A candidate of a leg. Larger scores are better."""

    pk: int
    score: float


@dataclass(frozen=True, slots=True)
class ReplicaHit:
    """A chunk that is current, with what its document says about it."""

    pk: int
    document_id: DocumentId
    title: str
    metadata: Metadata
    chunk: Chunk


@dataclass(frozen=True, slots=True)
class ReplicaProject:
    """A project and how far its copy has come.

    Attributes:
        project: the settings, as the project list told last; its counts and sequences are of that moment.
        documents_cursor: everything up to here can be found by keyword; None before the first event.
        vectors_cursor: every vector up to here is in the replica; None before the first event, or when vectors are not kept.
        head: the newest sequence that the indexer told of.
        vector_sequence: how far the vector store has come, as the indexer told.
        contact_time: when the project's feed was last heard; None since the replica was opened, or since a reset of the documents: `lag` means
            nothing until then.
        vectors_available: `Replica.vectors` answers for this project (with what has arrived so far).
        version: rises after every change that can change an answer: of documents, chunks, the keyword index, vectors (published, removed, reset,
            dropped), the project's settings, and `vector_sequence`, with which the vector store's answers change. It rises once the change can
            be seen, so what was found after reading a version is at least as new as that version: kept under it, it is as good as a new search
            until the version is another. No version is used twice in a process, not by a project that was created again either. Not covered: what
            the vector store has before `vector_sequence` tells of it.
        copying: the first copy is being made, or another one after a reset, and has not come to where the feed was when it began: documents that
            were written long ago may be missing.
        copy: number of the copy: another one as soon as what was there begins to be dropped, so that who has read it before and after knows
            whether something could be missing in between.
        copy_target: the sequence that a copy which is being made has to come to; None when that is not known, or no copy is being made.
    """

    project: Project
    documents_cursor: Cursor | None
    vectors_cursor: Cursor | None
    head: SequenceNumber
    vector_sequence: VectorSequence
    contact_time: datetime | None
    vectors_available: bool
    version: int = 0
    copying: bool = False
    copy: int = 0
    copy_target: SequenceNumber | None = None

    @property
    def lag(self) -> int:
        """Changes that the indexer told of and the replica has not applied."""
        return max(0, self.head - (self.documents_cursor.sequence if self.documents_cursor else 0))


@dataclass(frozen=True, slots=True)
class ReplicaCounts:
    """What the replica holds of a project."""

    documents: int
    chunks: int
    vectors: int


@dataclass(frozen=True, slots=True)
class CopyInspection:
    """How a project's copy looks from the inside.

    Attributes:
        cursor: the copy's position then; None when it has not begun.
        vectors_cursor: that of its vectors; None when they have not begun, or are not kept.
        chunks: how many it has.
        damaged: ids of documents that are not as they were written, or whose chunks are not.
        misindexed: ids of chunks that the keyword index does not have, or has twice; and what it has that is no chunk.
        unvectored: ids of chunks that have no vector, where vectors are kept.
        wrong_vectors: ids of chunks whose vectors are not as they were written.
    """

    cursor: Cursor | None
    vectors_cursor: Cursor | None
    chunks: int
    damaged: frozenset[str]
    misindexed: frozenset[str]
    unvectored: frozenset[str]
    wrong_vectors: frozenset[str]


ScoredPks = Sequence[ScoredPk]

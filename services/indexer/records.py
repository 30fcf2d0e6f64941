"""The values that pass between the application and the catalog, beyond the domain that both services share."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from shared.domain import (
    Chunk,
    ChunkId,
    ChunkingSettings,
    DocumentId,
    DocumentInput,
    KeywordSettings,
    ProjectId,
    SequenceNumber,
    TraceContext,
    Vectors,
    VectorSequence,
    collection_name,
)
from shared.observability.recorded_writes import RecordedWrite


@dataclass(frozen=True, slots=True)
class ProjectKey:
    """The catalog's own handle of a project: unlike the id, it is never used again."""

    value: int


@dataclass(frozen=True, slots=True)
class NewProject:
    """What a caller chooses of a project."""

    id: ProjectId
    display_name: str
    description: str
    labels: Mapping[str, str]
    embedding_model: str
    chunking: ChunkingSettings
    keyword: KeywordSettings = field(default_factory=KeywordSettings)


@dataclass(frozen=True, slots=True)
class RequestKey:
    """What makes a write idempotent: the id that the caller chose, and a hash of what it asked for."""

    id: str
    fingerprint: bytes


@dataclass(frozen=True, slots=True)
class PreparedDocument:
    """A document that is ready to be written: cut and hashed."""

    input: DocumentInput
    chunks: tuple[Chunk, ...]
    content_hash: str


@dataclass(frozen=True, slots=True)
class Written:
    """What a write did: the sequence of the document's last change, and whether this write was that change."""

    document_id: DocumentId
    sequence: SequenceNumber
    unchanged: bool
    chunk_count: int


@dataclass(frozen=True, slots=True)
class Position:
    """Where a project's feed stands.

    Changes up to `floor` have lost their tombstones; those up to `embedded_sequence` have their vectors in the catalog, those up to
    `vector_sequence` in the vector store, in the collection of `generation`.
    """

    epoch: str
    head: SequenceNumber
    floor: SequenceNumber
    embedded_sequence: VectorSequence
    vector_sequence: VectorSequence
    generation: int
    deleted: bool


@dataclass(frozen=True, slots=True)
class LaggingProject:
    """A project as the projection sees it: how far its vectors have come. `held_count` of its chunks are in quarantine."""

    key: ProjectKey
    id: ProjectId
    generation: int
    epoch: str
    embedding_model: str
    chunking: ChunkingSettings
    chunk_count: int
    held_count: int
    head: SequenceNumber
    embedded_sequence: VectorSequence
    vector_sequence: VectorSequence

    @property
    def collection(self) -> str:
        """Name of its collection in the vector store."""
        return collection_name(self.id, self.generation, self.epoch)


@dataclass(frozen=True, slots=True)
class UnembeddedChunk:
    """A chunk that needs a vector: its place in the catalog, its id, and the title and text that the vector is made of."""

    sequence: int
    key: int
    id: ChunkId
    title: str
    text: str


@dataclass(frozen=True, slots=True)
class CompletedChange:
    """A change of a document that is in the vector store for the first time: when it was committed, in seconds since 1970, and by which request."""

    commit_time: float
    trace: TraceContext


@dataclass(frozen=True, slots=True)
class ProjectionPage:
    """A piece of what the vector store has to learn, in the order of `(sequence, chunk key)`.

    `complete_to`: every change up to this sequence is in this page or in the pages before it. `position`: where the next page begins.
    `completed`: the changes that this page completes and that no collection of the project has had before, at most 1,000. `writes`: the
    requests, of those whose trace is recorded, that made the changes which this page completes; the oldest sixteen.
    """

    added: Sequence[ChunkId]
    vectors: Vectors
    removed: Sequence[ChunkId]
    complete_to: SequenceNumber
    position: tuple[int, int]
    completed: Sequence[CompletedChange]
    writes: Sequence[RecordedWrite]

    @property
    def empty(self) -> bool:
        """Nothing to do."""
        return not self.added and not self.removed


class Advance(enum.Enum):
    """What moving a project's vector sequence did."""

    DONE = enum.auto()
    REBUILT = enum.auto()  # and with that the project is where it was before its rebuild began
    SUPERSEDED = enum.auto()  # nothing: the project's vectors go to another collection by now


@dataclass(frozen=True, slots=True)
class Lag:
    """How far the vector store is behind.

    Attributes:
        changes: Changes that are not in it.
        oldest: When the first of them was committed that has never been in it, in seconds since 1970; None if there is none.
    """

    changes: int
    oldest: float | None


@dataclass(frozen=True, slots=True)
class CatalogFigures:
    """How much the catalog has: of each project the sequence of its last change; documents and chunks of all of them."""

    heads: Mapping[ProjectId, SequenceNumber]
    documents: int
    chunks: int


@dataclass(frozen=True, slots=True)
class Failure:
    """A chunk that failed although others did not, and why, for people."""

    chunk_id: ChunkId
    reason: str


@dataclass(frozen=True, slots=True)
class ChunkPage:
    """A piece of what the vector store should have, in the order of `(sequence, chunk key)`; `position`: where the next begins, None at the end."""

    chunk_ids: Sequence[ChunkId]
    position: tuple[int, int] | None


@dataclass(frozen=True, slots=True)
class DeletedProject:
    """A deleted project whose rows and collection are still there."""

    key: ProjectKey
    collection: str


@dataclass(frozen=True, slots=True)
class StoredDocument:
    """What the catalog's file holds of a document, byte by byte: text is UTF-8 and metadata JSON, unless the disk has changed it."""

    key: int
    project_id: bytes
    id: bytes
    title: bytes
    metadata: bytes
    text: bytes
    content_hash: bytes

    @property
    def name(self) -> str:
        """`project/document`, for people."""
        return b"/".join((self.project_id, self.id)).decode(errors="replace")


@dataclass(frozen=True, slots=True)
class StoredPage:
    """Documents as the catalog's file holds them.

    Attributes:
        documents: What could be read.
        unreadable: How many could not.
        size: Bytes that were read, about.
        position: Key of the last one that was looked at, deleted ones too.
    """

    documents: Sequence[StoredDocument]
    unreadable: int
    size: int
    position: int

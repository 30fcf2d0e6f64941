"""The words both services speak: projects, documents, chunks, changes.

Frozen values without behaviour of their own; nothing here knows gRPC, SQLite or ChromaDB.
Times are aware UTC datetimes. Offsets count Unicode code points. Vectors are float32 arrays of unit length.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import NewType

import numpy as np
from numpy.typing import NDArray

ProjectId = NewType("ProjectId", str)
PROJECT_ID = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")  # the form of every ProjectId
DocumentId = NewType("DocumentId", str)
ChunkId = NewType("ChunkId", str)
# A position in the change feed of a project, and how far its vectors have come on the same scale: easily confused, so two types.
SequenceNumber = NewType("SequenceNumber", int)
VectorSequence = NewType("VectorSequence", int)

MetadataScalar = str | int | float | bool
MetadataValue = MetadataScalar | tuple[MetadataScalar, ...]
Metadata = Mapping[str, MetadataValue]

Vector = NDArray[np.float32]  # shape (dimension,)
Vectors = NDArray[np.float32]  # shape (n, dimension)


@dataclass(frozen=True, slots=True)
class Cursor:
    """A position in a feed; sequences of different epochs cannot be compared."""

    epoch: str
    sequence: SequenceNumber


@dataclass(frozen=True, slots=True)
class TraceContext:
    """W3C trace context headers of the request that caused a change; empty when it was not traced."""

    traceparent: str = ""
    tracestate: str = ""


@dataclass(frozen=True, slots=True)
class ChunkingSettings:
    """How documents of a project are cut: sizes in tokens of its embedding model."""

    max_tokens: int = 256
    overlap_tokens: int = 32


@dataclass(frozen=True, slots=True)
class KeywordSettings:
    """How keyword search reads the texts of a project.

    Attributes:
        language: of stemming and stop words, for example `english`; `none` neither stems nor stops.
        stemming: words are reduced to their stems.
        stop_words: the language's own stop words are left out of queries.
        more_stop_words: words that are left out of queries, too.
    """

    language: str = "english"
    stemming: bool = True
    stop_words: bool = True
    more_stop_words: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a document: `text == document.text[start:end]`."""

    id: ChunkId
    ordinal: int
    text: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class DocumentInput:
    """A document as it is written."""

    id: DocumentId
    title: str
    text: str
    metadata: Metadata


@dataclass(frozen=True, slots=True)
class Document:
    """A document as it is stored. `text` and `chunks` may be left empty where only the description is asked for."""

    id: DocumentId
    title: str
    text: str
    metadata: Metadata
    chunks: tuple[Chunk, ...]
    chunk_count: int
    content_hash: str
    sequence: SequenceNumber
    create_time: datetime
    update_time: datetime


# What a project's keyword search may be set to: the languages that have a stemmer, and `none`.
LANGUAGES = (
    "arabic",
    "danish",
    "dutch",
    "english",
    "finnish",
    "french",
    "german",
    "greek",
    "hungarian",
    "italian",
    "norwegian",
    "portuguese",
    "romanian",
    "russian",
    "spanish",
    "swedish",
    "tamil",
    "turkish",
    "none",
)


class ProjectState(enum.Enum):
    """What a project can do now."""

    ACTIVE = "active"
    REBUILDING = "rebuilding"


@dataclass(frozen=True, slots=True)
class Project:
    """A project with its counts and sequences at the moment of reading."""

    id: ProjectId
    display_name: str
    description: str
    labels: Mapping[str, str]
    embedding_model: str
    chunking: ChunkingSettings
    generation: int
    epoch: str
    head: SequenceNumber
    vector_sequence: VectorSequence
    document_count: int
    chunk_count: int
    state: ProjectState
    create_time: datetime
    update_time: datetime
    etag: str
    keyword: KeywordSettings = KeywordSettings()

    @property
    def collection(self) -> str:
        """Name of the collection in the vector store that holds this project's vectors."""
        return collection_name(self.id, self.generation, self.epoch)


def collection_name(project: ProjectId, generation: int, epoch: str) -> str:
    """`kb_<project>_g<generation>_<beginning of the epoch>`.

    A catalog that was lost or restored counts its generations again; the epoch is random, so an older collection is never mistaken for this one.
    """
    return f"kb_{project}_g{generation}_{epoch[:8]}"


# --- the change feed -----------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Range:
    """The sequences that a batch covers: `(start, end]`. `head` is the newest sequence when the batch was read."""

    epoch: str
    start: SequenceNumber
    end: SequenceNumber
    head: SequenceNumber


@dataclass(frozen=True, slots=True)
class ProjectChange:
    """A project as it is now, or (`project` is None) its end."""

    sequence: SequenceNumber
    project_id: ProjectId
    project: Project | None


@dataclass(frozen=True, slots=True)
class DocumentChange:
    """A document as it is now, or (`document` is None) its tombstone."""

    sequence: SequenceNumber
    document_id: DocumentId
    document: Document | None
    commit_time: datetime
    trace: TraceContext = field(default_factory=TraceContext)


@dataclass(frozen=True, slots=True)
class ProjectBatch:
    """Changes of the project list."""

    range: Range
    changes: Sequence[ProjectChange]


@dataclass(frozen=True, slots=True)
class DocumentBatch:
    """Changes of the documents of a project."""

    range: Range
    changes: Sequence[DocumentChange]


@dataclass(frozen=True, slots=True)
class VectorBatch:
    """Vectors of chunks: `vectors[i]` belongs to `chunk_ids[i]`."""

    range: Range
    chunk_ids: Sequence[ChunkId]
    vectors: Vectors


class FeedStream(enum.Enum):
    """The copies that a consumer keeps."""

    PROJECTS = "projects"
    DOCUMENTS = "documents"
    VECTORS = "vectors"


class ResetReason(enum.Enum):
    """Why a consumer's copy cannot be continued."""

    NO_CURSOR = "no cursor"
    EPOCH_CHANGED = "epoch changed"
    AHEAD_OF_HEAD = "ahead of head"
    COMPACTED = "compacted"


@dataclass(frozen=True, slots=True)
class Reset:
    """The consumer must drop its copy; batches from sequence 0 follow. A reset of DOCUMENTS drops their vectors too."""

    reason: ResetReason
    stream: FeedStream
    epoch: str


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """A sign of life, and how far the vectors have come."""

    epoch: str
    head: SequenceNumber
    vector_sequence: VectorSequence
    time: datetime


FeedEvent = Reset | ProjectBatch | DocumentBatch | VectorBatch | Heartbeat

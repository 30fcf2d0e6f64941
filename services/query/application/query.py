"""A search and its answer, as the application sees them."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from shared.domain import Chunk, Cursor, DocumentId, Metadata, ProjectId, SequenceNumber, VectorSequence
from shared.filters import Filter


class Mode(enum.Enum):
    """Which legs a search uses."""

    HYBRID = "hybrid"
    VECTOR = "vector"
    KEYWORD = "keyword"


class Fusion(enum.Enum):
    """How the two legs become one list."""

    RRF = "rrf"
    WEIGHTED = "weighted"


@dataclass(frozen=True, slots=True)
class Query:
    """A search. `alpha` is the weight of the vector leg; `fresh_as` the write that the answer must show."""

    project_id: ProjectId
    text: str
    mode: Mode = Mode.HYBRID
    top_k: int = 10
    fusion: Fusion = Fusion.RRF
    alpha: float = 0.5
    filter: Filter | None = None
    fresh_as: Cursor | None = None
    allow_degraded: bool = True


@dataclass(frozen=True, slots=True)
class LegScore:
    """How a leg saw a hit: its rank from 1, and the leg's own score."""

    rank: int
    score: float


@dataclass(frozen=True, slots=True)
class Hit:
    """A chunk that was found."""

    document_id: DocumentId
    title: str
    metadata: Metadata
    chunk: Chunk
    score: float
    vector: LegScore | None
    keyword: LegScore | None


class DegradationReason(enum.Enum):
    """What is missing from an answer. The names are those of the proto without their prefix."""

    VECTOR_STORE_UNAVAILABLE = "vector_store_unavailable"
    VECTOR_LEG_MISSING = "vector_leg_missing"
    EMBEDDING_UNAVAILABLE = "embedding_unavailable"
    REPLICA_STALE = "replica_stale"
    VECTORS_STALE = "vectors_stale"


@dataclass(frozen=True, slots=True)
class Degradation:
    """Why an answer is not as good as it could be."""

    reason: DegradationReason
    component: str
    message: str
    since: datetime


@dataclass(frozen=True, slots=True)
class Freshness:
    """How fresh an answer is."""

    epoch: str
    sequence: SequenceNumber
    vector_sequence: VectorSequence
    head: SequenceNumber
    contact_time: datetime | None


@dataclass(slots=True)
class Timings:
    """Where the time went, in seconds; None where a stage was not needed."""

    total: float = 0.0
    wait: float | None = None
    embed: float | None = None
    vector: float | None = None
    keyword: float | None = None
    assemble: float | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What a search found."""

    hits: Sequence[Hit]
    mode: Mode
    degradations: Sequence[Degradation]
    freshness: Freshness
    timings: Timings

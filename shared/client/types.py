"""What the client gives and takes beyond the words of `shared.domain`. Frozen; durations in seconds, times aware UTC."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from shared.domain import Chunk, DocumentId, Metadata, SequenceNumber, VectorSequence
from shared.errors import FieldViolation
from shared.filters import Filter


class SearchMode(enum.Enum):
    """Which legs a search uses."""

    HYBRID = "hybrid"
    VECTOR = "vector"
    KEYWORD = "keyword"


class FusionMethod(enum.Enum):
    """How the legs of a hybrid search become one list: reciprocal rank fusion, or a weighted sum of normalised scores."""

    RRF = "rrf"
    WEIGHTED = "weighted"


class DegradationReason(enum.Enum):
    """Why an answer is not as good as it could be. UNKNOWN: a newer service said something that this client has no word for."""

    VECTOR_STORE_UNAVAILABLE = "vector_store_unavailable"
    VECTOR_LEG_MISSING = "vector_leg_missing"
    EMBEDDING_UNAVAILABLE = "embedding_unavailable"
    REPLICA_STALE = "replica_stale"
    VECTORS_STALE = "vectors_stale"
    UNKNOWN = "unknown"


class HealthState(enum.Enum):
    """How well a service or a component of it works."""

    HEALTHY = "healthy"
    DEGRADED = "degraded"
    UNHEALTHY = "unhealthy"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class ItemError:
    """Why one item of a batch failed. `code` is a number of google.rpc.Code, `reason` a stable upper-case name."""

    code: int
    reason: str
    message: str
    violations: tuple[FieldViolation, ...] = ()


@dataclass(frozen=True, slots=True)
class DocumentResult:
    """What became of one document: durable with a `sequence`, or refused with an `error`."""

    document_id: DocumentId
    index: int
    sequence: SequenceNumber | None = None
    unchanged: bool = False
    chunk_count: int = 0
    error: ItemError | None = None


@dataclass(frozen=True, slots=True)
class UpsertResult:
    """One result a document, in the order of the call."""

    results: tuple[DocumentResult, ...]
    consistency_token: str


@dataclass(frozen=True, slots=True)
class IngestResult:
    """Results of documents that became durable together; the token covers everything acknowledged so far."""

    results: tuple[DocumentResult, ...]
    consistency_token: str


@dataclass(frozen=True, slots=True)
class DeleteResult:
    """How many documents went; a search with the token finds none of them."""

    deleted_count: int
    consistency_token: str


@dataclass(frozen=True, slots=True)
class SearchQuery:
    """One search. None leaves the service its default: hybrid, 10 hits, RRF, alpha 0.5, degraded answers allowed."""

    query: str
    mode: SearchMode | None = None
    top_k: int | None = None
    fusion: FusionMethod | None = None
    alpha: float | None = None
    filter: Filter | None = None
    at_least_as_fresh: str | None = None
    allow_degraded: bool | None = None


@dataclass(frozen=True, slots=True)
class LegScore:
    """How a leg saw a hit: its place among the leg's candidates from 1, and cosine similarity or BM25."""

    rank: int
    score: float


@dataclass(frozen=True, slots=True)
class SearchHit:
    """One chunk that was found; a leg is None when it did not have the chunk among its candidates."""

    document_id: DocumentId
    chunk: Chunk
    title: str
    metadata: Metadata
    score: float
    vector: LegScore | None
    keyword: LegScore | None


@dataclass(frozen=True, slots=True)
class Degradation:
    """What is missing from an answer, whose fault it is, and since when."""

    reason: DegradationReason
    component: str
    message: str
    since: datetime | None


@dataclass(frozen=True, slots=True)
class Freshness:
    """Up to where an answer knows the project's changes."""

    epoch: str
    sequence: SequenceNumber
    vector_sequence: VectorSequence
    head: SequenceNumber
    contact_time: datetime | None


@dataclass(frozen=True, slots=True)
class Timings:
    """Where the service's time went, in seconds."""

    total: float
    wait: float
    embed: float
    vector: float
    keyword: float
    assemble: float


@dataclass(frozen=True, slots=True)
class SearchResult:
    """An answer: hits, best first, and how good it is."""

    hits: tuple[SearchHit, ...]
    mode: SearchMode
    degraded: bool
    degradations: tuple[Degradation, ...]
    freshness: Freshness
    timings: Timings


@dataclass(frozen=True, slots=True)
class BatchSearchResult:
    """One answer of a batch: `index` is the search's position; exactly one of the others is set."""

    index: int
    result: SearchResult | None = None
    error: ItemError | None = None


@dataclass(frozen=True, slots=True)
class ComponentState:
    """One part of a service. `details` holds its figures, for example `latency_ms`."""

    name: str
    state: HealthState
    message: str
    check_time: datetime | None
    details: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class ServiceState:
    """What a service knows of its own state."""

    service: str
    version: str
    state: HealthState
    components: tuple[ComponentState, ...]
    time: datetime | None
    start_time: datetime | None

"""What the client gives and takes beyond the words of `shared.domain` and `shared.search`. Frozen; durations in seconds, times aware UTC."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from shared.domain import DocumentId, SequenceNumber
from shared.errors import FieldViolation
from shared.filters import Filter
from shared.search import Diversity, FusionMethod, Grouping, Reranking, SearchAnswer, SearchMode, Snippets


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
    """One search. What is None is left to the service: its defaults stand in `query.proto`, or the feature is not used.

    Attributes:
        query: What to look for.
        mode: Which legs are used.
        top_k: Number of hits, of a page when there are several.
        fusion: How the legs become one list.
        alpha: Weight of the vector leg in a hybrid search, 0 to 1.
        filter: Only documents that match.
        at_least_as_fresh: Consistency token of a write that the answer must include.
        allow_degraded: False: UnavailableError instead of a degraded answer.
        rrf_k: The constant of reciprocal rank fusion.
        candidates: Candidates that each leg gives; pages end with them.
        min_vector_score: Candidates of the vector leg below this cosine similarity are left out.
        min_keyword_score: Candidates of the keyword leg below this BM25 score are left out.
        grouping: One hit a document instead of one a chunk.
        diversity: Hits are chosen for what they add to those before them.
        snippets: Each hit has the parts of its text around the words that were looked for.
        explain: Each hit says how its score came about.
        reranking: The best hits are ordered again by the service's reranker.
        page_token: `next_page_token` of the answer before; everything else must be as it was then.
    """

    query: str
    mode: SearchMode | None = None
    top_k: int | None = None
    fusion: FusionMethod | None = None
    alpha: float | None = None
    filter: Filter | None = None
    at_least_as_fresh: str | None = None
    allow_degraded: bool | None = None
    rrf_k: int | None = None
    candidates: int | None = None
    min_vector_score: float | None = None
    min_keyword_score: float | None = None
    grouping: Grouping | None = None
    diversity: Diversity | None = None
    snippets: Snippets | None = None
    explain: bool = False
    reranking: Reranking | None = None
    page_token: str = ""


@dataclass(frozen=True, slots=True)
class BatchSearchResult:
    """One answer of a batch: `index` is the search's position; exactly one of the others is set."""

    index: int
    result: SearchAnswer | None = None
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

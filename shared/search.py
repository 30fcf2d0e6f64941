"""The words of searching, as the query service's application and the client speak them: how to search, and what an answer is made of.

Frozen values without behaviour of their own. Durations are in seconds, times are aware UTC datetimes, offsets count Unicode code points.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from shared.domain import Chunk, DocumentId, Metadata, SequenceNumber, VectorSequence


class SearchMode(enum.Enum):
    """Which legs a search uses."""

    HYBRID = "hybrid"
    VECTOR = "vector"
    KEYWORD = "keyword"


class FusionMethod(enum.Enum):
    """How the legs of a hybrid search become one list: reciprocal rank fusion, or a weighted sum of normalised scores."""

    RRF = "rrf"
    WEIGHTED = "weighted"


# --- what may be asked for ------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Grouping:
    """Hits of one document become one: its best chunk, and at most `more_chunks` of its others."""

    more_chunks: int = 2


@dataclass(frozen=True, slots=True)
class Diversity:
    """Hits are chosen for what they add to those before them. `lambda_`: 1 is relevance alone, 0 diversity alone."""

    lambda_: float = 0.5


@dataclass(frozen=True, slots=True)
class Snippets:
    """Parts of the text around the words that were looked for: their length in code points, and how many a hit at most."""

    max_characters: int = 240
    max_snippets: int = 1


@dataclass(frozen=True, slots=True)
class Reranking:
    """So many of the best hits are ordered again by a model that reads query and text together."""

    candidates: int = 20


# --- how a score came about -----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LegScore:
    """How a leg saw a chunk: its place among the leg's candidates from 1, and cosine similarity or BM25."""

    rank: int
    score: float


@dataclass(frozen=True, slots=True)
class LegContribution:
    """What a leg adds to a hit's score: `contribution == weight * normalized_score`; `score` is the leg's own."""

    rank: int
    score: float
    normalized_score: float
    weight: float
    contribution: float


@dataclass(frozen=True, slots=True)
class DiversityStep:
    """How diversity placed a hit: `value == lambda * relevance - (1 - lambda) * similarity`; ranks are from 1."""

    relevance: float
    similarity: float
    value: float
    rank_before: int


@dataclass(frozen=True, slots=True)
class RerankingStep:
    """How the reranker placed a hit; ranks are from 1."""

    score: float
    rank_before: int


@dataclass(frozen=True, slots=True)
class Explanation:
    """How a score came about. `fused_score` is the sum of the contributions; a leg is None when it did not have the chunk."""

    vector: LegContribution | None
    keyword: LegContribution | None
    fused_score: float
    formula: str
    diversity: DiversityStep | None = None
    reranking: RerankingStep | None = None


# --- what is answered -----------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TextRange:
    """A range of a text, the end exclusive."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Snippet:
    """`text == document.text[start:end]`; `matches` are ranges of `text` that were looked for, rising, without overlap."""

    text: str
    start: int
    end: int
    matches: tuple[TextRange, ...]


@dataclass(frozen=True, slots=True)
class GroupedChunk:
    """A further chunk of a hit's document, with its own score."""

    chunk: Chunk
    score: float
    vector: LegScore | None
    keyword: LegScore | None


@dataclass(frozen=True, slots=True)
class Hit:
    """One chunk that was found; a leg is None when it did not have the chunk among its candidates. `reranked`: the score is the reranker's."""

    document_id: DocumentId
    title: str
    metadata: Metadata
    chunk: Chunk
    score: float
    vector: LegScore | None
    keyword: LegScore | None
    more_chunks: tuple[GroupedChunk, ...] = ()
    snippets: tuple[Snippet, ...] = ()
    explanation: Explanation | None = None
    reranked: bool = False


class DegradationReason(enum.Enum):
    """Why an answer is not as good as it could be: the names of the proto without their prefix.

    UNKNOWN is for clients: a newer service said something that this version has no word for.
    """

    VECTOR_STORE_UNAVAILABLE = "vector_store_unavailable"
    VECTOR_LEG_MISSING = "vector_leg_missing"
    EMBEDDING_UNAVAILABLE = "embedding_unavailable"
    REPLICA_STALE = "replica_stale"
    VECTORS_STALE = "vectors_stale"
    RERANKING_SKIPPED = "reranking_skipped"
    DIVERSITY_SKIPPED = "diversity_skipped"
    FILTER_INCOMPLETE = "filter_incomplete"
    LAST_GOOD_ANSWER = "last_good_answer"
    UNKNOWN = "unknown"


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
    """Where the service's time went; None where a stage was not needed."""

    total: float = 0.0
    wait: float | None = None
    embed: float | None = None
    vector: float | None = None
    keyword: float | None = None
    assemble: float | None = None
    rerank: float | None = None


@dataclass(frozen=True, slots=True)
class SearchAnswer:
    """What a search found, best first, and how good the answer is.

    Attributes:
        next_page_token: asks for the next page; empty on the last one.
        cached: the hits are those of an equal search, kept since; nothing in the project has changed.
        served_from_cache: the hits are those of the last whole answer to the same question, because vectors could not be searched now
            (`DegradationReason.LAST_GOOD_ANSWER`); `freshness` is that of its time.
        found_time: when those hits were found; None unless `served_from_cache`.
    """

    hits: Sequence[Hit]
    mode: SearchMode
    degradations: Sequence[Degradation]
    freshness: Freshness
    timings: Timings
    next_page_token: str = ""
    cached: bool = False
    served_from_cache: bool = False
    found_time: datetime | None = None

    @property
    def degraded(self) -> bool:
        """Something is missing from the answer."""
        return bool(self.degradations)

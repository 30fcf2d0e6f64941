"""What is asked of the query service, with everything resolved: nothing is left to a default of somebody else's.

Frozen and hashable. How the parts of an answer are called stands in `shared.search`.
"""

from __future__ import annotations

from dataclasses import dataclass

from shared.domain import Cursor, DocumentId, ProjectId
from shared.filters import Filter
from shared.search import Diversity, FusionMethod, Grouping, Reranking, SearchMode, Snippets

# Chosen by measurement: docs/adr/0010-default-fusion.md.
DEFAULT_FUSION = FusionMethod.WEIGHTED
DEFAULT_ALPHA = {FusionMethod.WEIGHTED: 0.6, FusionMethod.RRF: 0.5}
# Cormack, Clarke and Büttcher (2009) chose 60.
DEFAULT_RRF_K = 60
# Fusing fewer candidates a leg costs recall (measured on Cranfield: Recall@100 falls from .792 to .750 with 50).
MIN_CANDIDATES = 100


@dataclass(frozen=True, slots=True)
class Query:
    """A search.

    Attributes:
        alpha: weight of the vector leg, 0 to 1; None is the fusion's default.
        rrf_k: the constant of reciprocal rank fusion.
        candidates: how many each leg gives; never fewer than `top_k`.
        min_vector_score: candidates of the vector leg below this cosine are left out.
        min_keyword_score: candidates of the keyword leg below this BM25 score are left out.
        page_token: where the page before ended; empty for the first.
        fresh_as: the write that the answer must show.
    """

    project_id: ProjectId
    text: str
    mode: SearchMode = SearchMode.HYBRID
    top_k: int = 10
    fusion: FusionMethod = DEFAULT_FUSION
    alpha: float | None = None
    rrf_k: int = DEFAULT_RRF_K
    candidates: int = MIN_CANDIDATES
    min_vector_score: float | None = None
    min_keyword_score: float | None = None
    filter: Filter | None = None
    grouping: Grouping | None = None
    diversity: Diversity | None = None
    snippets: Snippets | None = None
    explain: bool = False
    reranking: Reranking | None = None
    page_token: str = ""
    fresh_as: Cursor | None = None
    allow_degraded: bool = True

    @property
    def vector_weight(self) -> float:
        """`alpha`, or the fusion's default."""
        return DEFAULT_ALPHA[self.fusion] if self.alpha is None else self.alpha

    @property
    def window(self) -> int:
        """Candidates of a leg: the same for every page."""
        return max(self.candidates, self.top_k)


@dataclass(frozen=True, slots=True)
class SimilarQuery:
    """Asks for documents that are like a document. `min_score`: chunks below this cosine are left out."""

    project_id: ProjectId
    document_id: DocumentId
    top_k: int = 10
    more_chunks: int = 0
    min_score: float | None = None
    filter: Filter | None = None
    fresh_as: Cursor | None = None
    allow_degraded: bool = True

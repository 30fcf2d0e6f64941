"""What is compared: ways to search, each as a user of the API would ask for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from shared.client import DegradationReason, FusionMethod, SearchMode, SearchQuery

# Candidates that a leg gives in a search for a user's ten hits. Asking for more hits at once would give more candidates, and weighted fusion would
# bring their scores to 0..1 by others: so hybrid searches are read in pages of this size.
_WINDOW = 100

KEYWORD = "keyword"
VECTOR = "vector"
DEFAULT = "default"


@dataclass(frozen=True, slots=True)
class System:
    """A way to search: its name, what it is called in tables, and fields of the client's SearchQuery.

    Attributes:
        missing: what an answer must lack to be measured; None for whole answers.
    """

    name: str
    label: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    missing: DegradationReason | None = None

    def query(self, text: str, token: str, hits: int) -> SearchQuery:
        """The first page for a question, at least as fresh as the token.

        Further pages lead to `hits` chunks, or to the end of what the legs' candidates fuse to.
        """
        top_k = hits if self.name in {KEYWORD, VECTOR} else min(hits, _WINDOW)
        return SearchQuery(text, top_k=top_k, at_least_as_fresh=token, **self.settings)


def _weighted(alpha: float) -> System:
    return System(f"weighted-{alpha}", f"weighted, alpha {alpha}", {"fusion": FusionMethod.WEIGHTED, "alpha": alpha})


def _rrf(k: int) -> System:
    return System(f"rrf-{k}", f"RRF, k = {k}", {"fusion": FusionMethod.RRF, "rrf_k": k})


SYSTEMS = (
    System(KEYWORD, "keyword alone", {"mode": SearchMode.KEYWORD}),
    System(VECTOR, "vector alone", {"mode": SearchMode.VECTOR}),
    _rrf(60),
    _rrf(20),
    _weighted(0.5),
    _weighted(0.6),
    _weighted(0.7),
    System(DEFAULT, "hybrid by default"),
)

# Hybrid search by default while ChromaDB is dead: with the vectors of the query service's replica, and where it has none or may not use them.
DEAD_VECTORS = System("dead-vectors", "ChromaDB dead, the replica's vectors", missing=DegradationReason.VECTOR_STORE_UNAVAILABLE)
DEAD_KEYWORD = System("dead-keyword", "ChromaDB dead, no vectors", missing=DegradationReason.VECTOR_LEG_MISSING)

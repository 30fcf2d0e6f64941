"""One search as the benchmark states it: small enough to be sent to another process as JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Self

from services.cli.bench.corpus import BUCKETS
from shared.client import SearchQuery
from shared.filters import Comparison, Operator
from shared.search import SearchMode


@dataclass(frozen=True, slots=True)
class Ask:
    """A search for `query`. `below` selects the documents with `bucket < below`, which is `below / 10,000` of them; None: all."""

    query: str
    mode: str = SearchMode.HYBRID.value
    below: int | None = None
    top_k: int = 10

    def search_query(self) -> SearchQuery:
        """As the client takes it."""
        condition = None if self.below is None else Comparison("bucket", Operator.LESS, self.below)
        return SearchQuery(self.query, SearchMode(self.mode), top_k=self.top_k, filter=condition)

    def as_json(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """What `as_json` gave."""
        return cls(**value)


def selectivity(below: int | None) -> float:
    """The share of documents that a search may find, 0 to 1."""
    return 1.0 if below is None else below / BUCKETS

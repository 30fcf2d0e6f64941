"""What comparing a copy with the catalog has found, in the words of both services and of the client."""

from __future__ import annotations

import enum
from collections.abc import Collection
from dataclasses import dataclass

from shared.domain import ProjectId, SequenceNumber

_EXAMPLES = 20


class DifferenceKind(enum.Enum):
    """In which way a copy differs from the catalog. The values are labels of metrics."""

    COLLECTION_MISSING = "collection_missing"
    VECTORS_MISSING = "vectors_missing"
    VECTORS_EXTRA = "vectors_extra"
    DOCUMENTS_MISSING = "documents_missing"
    DOCUMENTS_EXTRA = "documents_extra"
    DOCUMENTS_DIFFERENT = "documents_different"
    KEYWORD_INDEX = "keyword_index"
    REPLICA_VECTORS = "replica_vectors"
    UNKNOWN = "unknown"  # told by a newer service


@dataclass(frozen=True, slots=True)
class Difference:
    """A difference: how many documents or chunks it concerns, and the ids of at most 20 of them."""

    kind: DifferenceKind
    count: int
    examples: tuple[str, ...]

    @classmethod
    def of(cls, kind: DifferenceKind, ids: Collection[str]) -> Difference:
        """The difference that these documents or chunks make."""
        return cls(kind, len(ids), tuple(sorted(ids)[:_EXAMPLES]))


@dataclass(frozen=True, slots=True)
class Verification:
    """What one comparison has found.

    Attributes:
        project_id: the project.
        sequence: the copy was compared as of this change.
        compared: chunks, or documents where a difference says so, that were compared.
        differences: none when the copy is right.
        repaired: the differences were mended, or the mending has begun: `repair_message` says which.
        repair_message: what was done, for people; empty when nothing was.
        replica: name of the query service whose copy it was; empty for the vector store.
    """

    project_id: ProjectId
    sequence: SequenceNumber
    compared: int
    differences: tuple[Difference, ...]
    repaired: bool = False
    repair_message: str = ""
    replica: str = ""

    @property
    def equal(self) -> bool:
        """Nothing differs."""
        return not self.differences

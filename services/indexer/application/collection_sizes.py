"""How many vectors ChromaDB holds of which project, for a metric whose labels are bounded: the largest by name, the others together."""

from __future__ import annotations

from collections.abc import Collection
from heapq import nlargest
from typing import Final

from shared.domain import ProjectId
from shared.observability import metrics

_LARGEST: Final = 20
_OTHERS: Final = "_other"  # no project can be called that


class CollectionSizes:
    """What was counted last of each project."""

    def __init__(self) -> None:
        self._sizes: dict[ProjectId, int] = {}
        self._shown: set[str] = set()

    def counted(self, project_id: ProjectId, size: int) -> None:
        """A project's collection has so many vectors."""
        self._sizes[project_id] = size

    def show(self, project_ids: Collection[ProjectId]) -> None:
        """Shows what is known, and forgets all projects but these."""
        self._sizes = {project_id: self._sizes[project_id] for project_id in project_ids if project_id in self._sizes}
        largest = nlargest(_LARGEST, self._sizes.items(), key=lambda item: (item[1], item[0]))
        shown: dict[str, int] = dict(largest)
        if len(self._sizes) > len(largest):
            shown[_OTHERS] = sum(self._sizes.values()) - sum(shown.values())
        for label in self._shown - shown.keys():
            metrics.CHROMADB_COLLECTION_SIZE.remove(label)
        for label, size in shown.items():
            metrics.CHROMADB_COLLECTION_SIZE.labels(label).set(size)
        self._shown = set(shown)

"""What the application of the query service needs of the world."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from services.query.replica.model import Pks, ReplicaHit, ReplicaProject, ScoredPks
from shared.domain import ChunkId, Cursor, DocumentId, ProjectId, Vector, Vectors
from shared.filters import Filter
from shared.resilience.deadline import Deadline
from shared.search import Snippet, Snippets


class SearchIndex(Protocol):
    """The replica, as searching sees it. All but the waits block, for at most a few milliseconds each."""

    def project(self, project_id: ProjectId) -> ReplicaProject:
        """A project and how far its copy has come. Raises NotFoundError."""

    def keyword(self, project_id: ProjectId, text: str, limit: int, allowed: Pks | None = None) -> ScoredPks:
        """At most `limit` chunks by falling BM25."""

    def keyword_ceiling(self, project_id: ProjectId, text: str) -> float:
        """The largest BM25 score that any chunk could have for the words of a text; 0 if it has none."""

    def vectors(self, project_id: ProjectId, vector: Vector, limit: int, allowed: Pks | None = None) -> ScoredPks | None:
        """At most `limit` chunks by falling exact cosine similarity; None if the replica does not keep the project's vectors."""

    def resolve(self, project_id: ProjectId, chunk_ids: Sequence[ChunkId]) -> Mapping[ChunkId, int]:
        """Keys of those chunks that are current."""

    def allowed(self, project_id: ProjectId, condition: Filter) -> Pks:
        """Keys of the chunks whose documents match, rising."""

    def hydrate(self, project_id: ProjectId, pks: Sequence[int]) -> Sequence[ReplicaHit]:
        """Text and metadata of those chunks that are current, in the order of the keys."""

    def chunk_ids(self, project_id: ProjectId, pks: Sequence[int]) -> Mapping[int, ChunkId]:
        """The ids of those chunks that are current, by key."""

    def documents_of(self, project_id: ProjectId, pks: Sequence[int]) -> Mapping[int, int]:
        """The keys of the documents of those chunks that are current, by the chunk's key."""

    def chunks_of(self, project_id: ProjectId, document_id: DocumentId) -> Pks:
        """Keys of a document's chunks, rising. Raises NotFoundError (reason `DOCUMENT_NOT_FOUND`)."""

    def vectors_of(self, project_id: ProjectId, pks: Pks) -> tuple[Pks, Vectors]:
        """Those of the chunks that have a vector here, in their order, and the vectors, shape `(n, dimension)`."""

    def snippets(self, project_id: ProjectId, query: str, texts: Sequence[str], wanted: Snippets) -> Sequence[tuple[Snippet, ...]]:
        """For each text the parts of it where most of the query's words are, in the order of the text; offsets are of that text."""

    async def wait_for_documents(self, project_id: ProjectId, wanted: Cursor, deadline: Deadline) -> bool:
        """Waits until the replica has applied the documents up to a cursor, in its epoch; False if the time was not enough."""

    async def wait_for_vectors(self, project_id: ProjectId, wanted: Cursor, deadline: Deadline) -> bool:
        """Waits until the vector store, or the replica's own vectors, have come to a cursor; False if the time was not enough."""


class FeedState(Protocol):
    """What is known of the connection to the indexer."""

    def stale_since(self, project_id: ProjectId | None = None) -> float | None:
        """When the indexer was last heard of about a project, in seconds since 1970, if that is too long ago; None if all is well."""

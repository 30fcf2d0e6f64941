"""What the application of the query service needs of the world."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from services.query.replica.model import CopyInspection, Pks, ReplicaHit, ReplicaProject, ScoredPks
from shared.digest import ProjectDigest, SequenceRange
from shared.domain import ChunkId, Cursor, DocumentId, DocumentInput, ProjectId, Vector, Vectors
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


class ProjectCopy(Protocol):
    """The replica, as verifying sees it. All but the wait and `project` walk a whole project, and block."""

    def project(self, project_id: ProjectId) -> ReplicaProject:
        """A project and how far its copy has come. Raises NotFoundError."""

    def projects(self) -> Sequence[ReplicaProject]:
        """Every project."""

    def digest(self, project_id: ProjectId, wanted: SequenceRange, parts: int, *, named: bool) -> ProjectDigest:
        """What the documents of a range come to, with the copy's own position at that moment; no epoch when the copy has not begun."""

    def inspect(self, project_id: ProjectId) -> CopyInspection:
        """Whether documents, keyword index and vectors agree with each other and with what was written."""

    def reindex(self, project_id: ProjectId) -> None:
        """Makes the keyword index of a project again from its chunks."""

    def forget_vectors(self, project_id: ProjectId) -> None:
        """Drops the vectors of a project, so that its feed sends them again when it is watched again."""

    async def wait_for_documents(self, project_id: ProjectId, wanted: Cursor, deadline: Deadline) -> bool:
        """Waits until the replica has applied the documents up to a cursor, in its epoch; False if the time was not enough."""


class CatalogDigests(Protocol):
    """What the indexer's catalog holds, in a form that a copy can be compared with."""

    async def digest(self, project_id: ProjectId, wanted: SequenceRange, parts: int, *, named: bool, deadline: Deadline) -> ProjectDigest:
        """What the documents of a range come to, in at most so many parts of equal width, with the catalog's own position at that moment.

        The parts end before the range does when they have many chunks. `named`: with the documents one by one; the range then has at most
        `MAX_NAMED_SEQUENCES`. Raises NotFoundError, and UnavailableError when the indexer does not answer.
        """

    async def unsent(self, project_id: ProjectId, deadline: Deadline) -> ProjectDigest:
        """The digest of nothing, with the chunks whose vectors the feed does not send. Raises what `digest` does."""


class Streams(Protocol):
    """The streams that keep the replica up to date."""

    def watch_again(self, project_id: ProjectId, *, afresh: bool) -> None:
        """Follows a project's stream again, from the copy's cursors or (`afresh`) from nothing. Raises NotFoundError."""


class CanaryProject(Protocol):
    """The reserved project of the search canary, in the indexer's catalog."""

    async def restore(self, documents: Sequence[DocumentInput], deadline: Deadline) -> Cursor:
        """Makes the project if it is not there, writes what differs and deletes what is not of it; the cursor from which a copy has all of that.

        May be called by several at once. Raises UnavailableError when the indexer does not answer, DeadlineExceededError, and FailedPreconditionError
        if a document is refused, or the project is not the canary's.
        """

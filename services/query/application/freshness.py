"""How fresh an answer must be, and how fresh it is."""

from __future__ import annotations

from datetime import UTC, datetime

from services.query.application.degradation import Degradations, Outages
from services.query.application.stopwatch import Stopwatch
from services.query.ports import FeedState, SearchIndex
from services.query.replica.model import ReplicaProject
from shared import consistency
from shared.domain import Cursor, ProjectId, SequenceNumber, VectorSequence
from shared.errors import DeadlineExceededError, NotFoundError
from shared.observability import tracing
from shared.resilience.admission import idle
from shared.resilience.deadline import Deadline
from shared.search import DegradationReason, Freshness

# The share of the time that waiting for late vectors may take: what is left must do for the search itself.
_VECTOR_WAIT_SHARE = 0.5
# The same for a copy that is being made.
_COPY_WAIT_SHARE = 0.5
# The list of projects reaches a replica within milliseconds; this is for a busy machine.
_UNKNOWN_EPOCH_SECONDS = 3.0


class FreshnessGate:
    """Lets a search pass when the replica shows what it asks for."""

    def __init__(self, index: SearchIndex, feed: FeedState, outages: Outages) -> None:
        self._index = index
        self._feed = feed
        self._outages = outages
        self._tracer = tracing.get_tracer(__name__)

    async def enter(
        self, project_id: ProjectId, wanted: Cursor | None, deadline: Deadline, degradations: Degradations, watch: Stopwatch, *, vectors: bool
    ) -> ReplicaProject:
        """The project, once it is as fresh as `wanted`; what is late or may be missing is noted.

        Args:
            project_id: the project.
            wanted: the write that the answer must show, if any.
            deadline: of the search.
            degradations: where to note it.
            watch: where the waiting is measured.
            vectors: the search is by meaning, so vectors are waited for, too.

        Raises NotFoundError (no such project), FailedPreconditionError (a token of an earlier incarnation), DeadlineExceededError.
        """
        if wanted is not None:
            with watch.stage("wait"), idle(), self._tracer.start_as_current_span("freshness.wait"):
                await self._wait(project_id, wanted, deadline, degradations, vectors=vectors)
        project = self._index.project(project_id)
        if _vectors_are_there(project):
            self._outages.worked("projector", project_id)
        self._check_feed(project_id, degradations)
        return project

    def leave(self, before: ReplicaProject, degradations: Degradations) -> None:
        """Notes what may be missing from an answer that was made since `before` was read. Raises NotFoundError if the project is gone by now."""
        # Also for who has waited for a write: a document that was written before it, and again later, comes with its last change.
        now = self._index.project(before.project.id)
        if now.copying or now.copy != before.copy:
            degradations.add(DegradationReason.REPLICA_STALE, "replica", "this replica is still copying the project: documents may be missing")

    def is_whole(self, before: ReplicaProject) -> bool:
        """Whether nothing was missing from the project since `before` was read."""
        now = self._index.project(before.project.id)
        return now.copy == before.copy and not before.copying

    async def _wait(self, project_id: ProjectId, wanted: Cursor, deadline: Deadline, degradations: Degradations, *, vectors: bool) -> None:
        # A token proves that the project existed: this replica may have yet to hear of it.
        fresh = await self._index.wait_for_documents(project_id, wanted, self._patience(project_id, wanted, deadline))
        here = self._index.project(project_id)
        consistency.require_epoch(wanted, here.project.epoch)
        if not fresh:
            reached = here.documents_cursor.sequence if here.documents_cursor else 0
            raise DeadlineExceededError(
                f"this replica has applied change {reached}, the token asks for {wanted.sequence}: retry with a longer deadline",
                reason="NOT_FRESH_ENOUGH",
            )
        if here.copying and here.copy_target is not None:
            # Else a document of which the copy has yet to come to the last change would be missing, the very one of the token among them.
            whole = Cursor(wanted.epoch, max(wanted.sequence, here.copy_target))
            await self._index.wait_for_documents(project_id, whole, deadline.within(deadline.remaining() * _COPY_WAIT_SHARE))
        if not vectors:
            return
        if not await self._index.wait_for_vectors(project_id, wanted, deadline.within(deadline.remaining() * _VECTOR_WAIT_SHARE)):
            degradations.failed(
                DegradationReason.VECTORS_STALE,
                "projector",
                "the vectors of the latest writes are not there yet: those are found by keyword alone",
                project_id,
            )

    def _patience(self, project_id: ProjectId, wanted: Cursor, deadline: Deadline) -> Deadline:
        """How long a token is waited for. One of an epoch that is not known here is either very new or of no use any more."""
        try:
            known = self._index.project(project_id).project.epoch == wanted.epoch
        except NotFoundError:
            known = False
        return deadline if known else deadline.within(_UNKNOWN_EPOCH_SECONDS)

    def _check_feed(self, project_id: ProjectId, degradations: Degradations) -> None:
        stale_since = self._feed.stale_since(project_id)
        if stale_since is not None:
            degradations.add(
                DegradationReason.REPLICA_STALE,
                "change_feed",
                "the indexer has not been heard of: later writes may be missing",
                since=datetime.fromtimestamp(stale_since, UTC),
            )


def _vectors_are_there(project: ReplicaProject) -> bool:
    """Whether all that can be found by keyword can be found by meaning."""
    own = project.vectors_cursor.sequence if project.vectors_cursor else 0
    return project.documents_cursor is not None and max(own, project.vector_sequence) >= project.documents_cursor.sequence


def freshness_of(project: ReplicaProject, *, from_replica: bool) -> Freshness:
    """How fresh an answer is. Of vectors: what the side that was searched had."""
    cursor = project.documents_cursor
    own = project.vectors_cursor.sequence if project.vectors_cursor else 0
    return Freshness(
        epoch=project.project.epoch,
        sequence=cursor.sequence if cursor else SequenceNumber(0),
        vector_sequence=VectorSequence(own if from_replica else project.vector_sequence),
        head=project.head,
        contact_time=project.contact_time,
    )

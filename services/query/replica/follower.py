"""Keeps the replica up to date: follows the list of projects, and each project, through every interruption."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import aclosing
from functools import partial
from typing import ParamSpec, TypeVar

from services.query.replica.batching import in_groups, join_documents
from services.query.replica.errors import FeedGapError
from services.query.replica.feed import Feed
from services.query.replica.journey import Journey
from services.query.replica.recency import Recency
from services.query.replica.replica import Replica
from services.query.replica.streams import StreamState, keep_following
from shared.domain import Cursor, DocumentBatch, FeedEvent, FeedStream, Heartbeat, ProjectBatch, ProjectId, Reset, SequenceNumber, VectorBatch
from shared.errors import NotFoundError
from shared.observability import exemplars, metrics, tracing
from shared.observability.guarded import guarded
from shared.resilience.backoff import Backoff

P = ParamSpec("P")
T = TypeVar("T")
BatchT = TypeVar("BatchT", DocumentBatch, VectorBatch)
# Events that are read ahead of those that are being applied, a stream.
_READ_AHEAD = 8
# Seconds: an indexer that is back is heard soon after.
_LONGEST_WAIT = 5.0
_DOCUMENTS_APPLIED = metrics.FEED_CHANGES_APPLIED.labels("documents")
_VECTORS_APPLIED = metrics.FEED_CHANGES_APPLIED.labels("vectors")
_SEARCHABLE = metrics.INGEST_TO_SEARCHABLE.labels("keyword")
_tracer = tracing.get_tracer(__name__)


class Follower:
    """Follows the change feed until `run` is cancelled. Nobody else may write to the replica meanwhile.

    Args:
        feed: where events come from.
        replica: what they are applied to, in threads and one at a time. It decides whether vectors are asked for.
        backoff: waits between attempts to connect.
        stale_after: seconds without a sign of life after which `stale_since` tells.
        name: of this replica, for traces.
    """

    def __init__(self, feed: Feed, replica: Replica, *, backoff: Backoff | None = None, stale_after: float = 15.0, name: str = "query") -> None:
        self._name = name
        self._journey = Journey(name)
        self._recency = Recency()
        self._feed = feed
        self._replica = replica
        self._backoff = backoff or Backoff(maximum=_LONGEST_WAIT)
        self._stale_after = stale_after
        self._list = StreamState()
        self._streams: dict[ProjectId, StreamState] = {}
        self._tasks: dict[ProjectId, asyncio.Task[None]] = {}
        self._turn = asyncio.Lock()

    @property
    def connected(self) -> bool:
        """The list of projects is being followed."""
        return self._list.connected

    @property
    def since(self) -> float:
        """Since when `connected` has been as it is, in seconds since 1970."""
        return self._list.since

    @property
    def last_contact(self) -> float | None:
        """When the indexer was last heard of on any stream, in seconds since 1970; None when it was not yet."""
        times = [state.last_contact for state in (self._list, *self._streams.values()) if state.last_contact is not None]
        return max(times, default=None)

    @property
    def as_of(self) -> float | None:
        """Up to when the replica has what was committed, in seconds since 1970; None if nothing seems to be missing. For any thread."""
        return self._recency.as_of

    def streams(self) -> dict[ProjectId, StreamState]:
        """How the stream of each project is doing. How far it has come is in `Replica.projects`."""
        return dict(self._streams)

    def stale_since(self, project_id: ProjectId | None = None) -> float | None:
        """When the list, or the given project too, was last heard of, in seconds since 1970, if that is too long ago; None if all is well.

        A stream that has never been heard counts from when it was first asked for.
        """
        silence = self._list.silence
        if project_id in self._streams:
            silence = max(silence, self._streams[project_id].silence)
        return time.time() - silence if silence > self._stale_after else None

    def watch_again(self, project_id: ProjectId, *, afresh: bool) -> None:
        """Ends the stream of a project and follows it again at once, from the copy's cursors or (`afresh`) from nothing. From the event loop alone.

        Raises NotFoundError when the project is not being followed.
        """
        state = self._streams.get(project_id)
        if state is None:
            raise NotFoundError(f"project {project_id!r} is not being followed", reason="PROJECT_NOT_FOUND")
        if afresh:
            state.afresh = state.mending = True
        state.interrupt()

    def mending(self) -> tuple[ProjectId, ...]:
        """Projects whose copies are being fetched from the beginning because they were wrong."""
        return tuple(project_id for project_id, state in self._streams.items() if state.mending)

    async def run(self) -> None:
        """Follows until it is cancelled; never returns. What goes wrong with a project is logged and tried again, and stops no other."""
        async with asyncio.TaskGroup() as group:
            for project in self._replica.projects():
                self._start(group, project.project.id)
            await keep_following("projects", self._list, self._backoff, lambda resync: self._follow_list(group, resync=resync))

    # --- one project -------------------------------------------------------------------------------------------------------------------

    def _start(self, group: asyncio.TaskGroup, project_id: ProjectId) -> None:
        """Follows a project, or has it tried again at once when it is being followed."""
        if project_id in self._tasks:
            self._streams[project_id].wake.set()
            return
        state = self._streams[project_id] = StreamState()
        work = keep_following(project_id, state, self._backoff, lambda resync: self._follow_project(project_id, state, resync=resync))
        self._tasks[project_id] = group.create_task(work)

    async def _stop(self, project_id: ProjectId) -> None:
        task = self._tasks.pop(project_id, None)
        self._streams.pop(project_id, None)
        if task is not None:
            task.cancel()
            await asyncio.wait({task})

    async def _follow_project(self, project_id: ProjectId, state: StreamState, *, resync: bool) -> None:
        project = self._replica.project(project_id)
        documents, vectors = (None, None) if resync else (project.documents_cursor, project.vectors_cursor)
        wanted = self._replica.wants_vectors(project_id)
        events = self._feed.watch_project(project_id, documents, vectors, include_vectors=wanted)
        # A copy that was interrupted in its first batch would take the first batch of a stream for what continues it, and keep what is gone by now.
        reset_due = documents is None or documents.sequence == 0
        async with aclosing(in_groups(events, _READ_AHEAD)) as groups:
            async for group in groups:
                before = state.applied
                for event in join_documents(group):
                    if reset_due and isinstance(event, DocumentBatch | VectorBatch):
                        raise FeedGapError("a stream from the beginning did not begin with a reset")
                    await self._apply(project_id, event)
                    if isinstance(event, DocumentBatch | VectorBatch):
                        state.applied += 1
                    if isinstance(event, Reset) and event.stream is FeedStream.DOCUMENTS:
                        state.afresh = reset_due = False
                here = self._replica.project(project_id)
                if not state.afresh and here.contact_time is not None and here.lag == 0:
                    state.mending = False
                # Heartbeats alone are no sign of life while changes are missing: it is those that do not come through. A reset never is one: it
                # does not tell the head, so nobody knows what is missing.
                told = any(isinstance(event, Heartbeat) for event in group)
                if state.applied > before or (told and here.lag == 0):
                    state.heard()

    async def _apply(self, project_id: ProjectId, event: FeedEvent) -> None:
        match event:
            case Reset():
                if event.stream is FeedStream.DOCUMENTS:
                    self._journey.copy_begins(self._replica.project(project_id))
                    self._recency.forget(project_id)
                await self._write(self._replica.apply_reset, project_id, event)
            case DocumentBatch():
                await self._apply_documents(project_id, event)
            case VectorBatch():
                await self._apply_vectors(project_id, event)
                _VECTORS_APPLIED.inc(len(event.chunk_ids))
            case Heartbeat():
                await self._write(self._replica.apply_heartbeat, project_id, event)
                if self._replica.project(project_id).lag == 0:
                    self._recency.nothing_missing(project_id, event.time.timestamp())
            case ProjectBatch():
                raise FeedGapError("the feed of a project sent changes of the project list")

    async def _apply_documents(self, project_id: ProjectId, batch: DocumentBatch) -> None:
        project, received = self._replica.project(project_id), self._journey.now()
        since, writes = self._journey.news_since(project), self._journey.writes_of(project, batch)
        with _tracer.start_as_current_span("replica.apply_documents", links=tracing.links(write.trace for write in writes)) as span:
            if span.is_recording():
                span.set_attributes({"kb.project": project_id, "kb.replica": self._name, "kb.changes": len(batch.changes)})
            began = await self._write(self._at, partial(self._write_documents, since), project_id, batch)
        if batch.changes and (newest := batch.changes[-1].commit_time.timestamp()) >= since:
            self._recency.applied(project_id, newest)
        self._journey.searchable(project, writes, received, began, span)

    async def _apply_vectors(self, project_id: ProjectId, batch: VectorBatch) -> None:
        received = self._journey.now()
        writes = self._journey.waiting(project_id, batch)
        with _tracer.start_as_current_span("replica.apply_vectors", links=tracing.links(write.trace for write in writes)) as span:
            if span.is_recording():
                span.set_attributes({"kb.project": project_id, "kb.replica": self._name, "kb.vectors": len(batch.chunk_ids)})
            began = await self._write(self._at, self._replica.apply_vectors, project_id, batch)
        self._journey.searchable_by_meaning(project_id, writes, received, began, span)

    def _at(self, apply: Callable[[ProjectId, BatchT], None], project_id: ProjectId, batch: BatchT) -> float:
        """Applies a batch; when that began, in seconds since 1970. For the writing thread."""
        began = self._journey.now()
        apply(project_id, batch)
        return began

    def _write_documents(self, since: float, project_id: ProjectId, batch: DocumentBatch) -> None:
        """Applies changes and measures how long those of them that are news have taken to get here, in the writing thread: there may be 2,000."""
        self._replica.apply_documents(project_id, batch)
        _DOCUMENTS_APPLIED.inc(len(batch.changes))
        now = time.time()
        with guarded("kb_ingest_to_searchable_seconds"):
            for change in batch.changes:
                committed = change.commit_time.timestamp()
                if committed >= since:
                    _SEARCHABLE.observe(max(0.0, now - committed), exemplars.of(change.trace))

    async def _write(self, operation: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """One write at a time, so that waiting writes hold no threads that searches need."""
        async with self._turn:
            return await asyncio.to_thread(operation, *args, **kwargs)

    # --- the list of projects ----------------------------------------------------------------------------------------------------------

    async def _follow_list(self, group: asyncio.TaskGroup, *, resync: bool) -> None:
        """After a reset the list is only compared, and projects that it no longer has are dropped at its end: their copies stay of use until then."""
        at = None if resync else self._replica.project_list_cursor
        listed: set[ProjectId] | None = None
        async with aclosing(self._feed.watch_project_list(at)) as events:
            async for event in events:
                head: SequenceNumber | None = None
                match event:
                    case Reset():
                        at, listed = Cursor(event.epoch, SequenceNumber(0)), set()
                    case ProjectBatch():
                        at = await self._apply_list(group, event, at, listed)
                        head = event.range.head
                    case Heartbeat():
                        if at is None or event.epoch != at.epoch:
                            raise FeedGapError("the project list is of another epoch")
                        head = event.head
                    case _:
                        raise FeedGapError("the feed of the project list sent changes of a project")
                if at is None or head is None:
                    continue
                self._list.heard()  # after a reset alone nothing is known
                if listed is not None and at.sequence >= head:
                    for project in self._replica.projects():
                        if project.project.id not in listed:
                            await self._remove(project.project.id)
                    listed = None
                if listed is None and at != self._replica.project_list_cursor:
                    await self._write(self._replica.set_project_list_cursor, at)
                    self._list.applied += 1

    async def _apply_list(self, group: asyncio.TaskGroup, batch: ProjectBatch, at: Cursor | None, listed: set[ProjectId] | None) -> Cursor:
        covered = batch.range
        if at is None or at.epoch != covered.epoch or at.sequence != covered.start:
            raise FeedGapError(f"project list: a batch of ({covered.start}, {covered.end}] does not continue {at}")
        for change in batch.changes:
            if change.project is None:
                await self._remove(change.project_id)
            else:
                if await self._write(self._replica.put_project, change.project):
                    await self._stop(change.project_id)
                self._start(group, change.project_id)
            if listed is not None:
                (listed.discard if change.project is None else listed.add)(change.project_id)
        return Cursor(covered.epoch, covered.end)

    async def _remove(self, project_id: ProjectId) -> None:
        await self._stop(project_id)
        self._journey.forget(project_id)
        self._recency.forget(project_id)
        await self._write(self._replica.drop_project, project_id)

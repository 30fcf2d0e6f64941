"""The change feed: a consumer's cursor in, resets, batches and heartbeats out.

The rules, the same for every consumer: a cursor of another epoch, ahead of the head or below the compaction floor cannot be continued and
is answered with a reset; each batch states the range that it covers, and ranges join. Because the catalog is log-compacted, the snapshot is
nothing special: it is what changed after sequence 0.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from datetime import UTC, datetime

from services.indexer.application.signals import Signals, wait
from services.indexer.application.subjects import Subject
from services.indexer.ports import FeedCatalog
from services.indexer.records import Position, ProjectKey
from shared.domain import Cursor, FeedEvent, FeedStream, Heartbeat, ProjectId, Reset, ResetReason, SequenceNumber, VectorSequence
from shared.errors import NotFoundError, UnavailableError

_DOCUMENTS_A_BATCH = 200
_PROJECTS_A_BATCH = 500
# While batches flow without a pause, news of the vector sequence is told this often.
_VECTOR_NEWS_SECONDS = 0.25


def _reset_reason(cursor: Cursor | None, epoch: str, head: SequenceNumber, floor: SequenceNumber) -> ResetReason | None:
    """Why a cursor cannot be continued; None if it can.

    Sequence 0 is no position: a consumer that was interrupted in its first batch may hold documents that are deleted by now, and whose
    tombstones are gone or are not sent to one that begins. So it begins with a reset, too.
    """
    if cursor is None or cursor.sequence == 0:
        return ResetReason.NO_CURSOR
    if cursor.epoch != epoch:
        return ResetReason.EPOCH_CHANGED
    if cursor.sequence > head:
        return ResetReason.AHEAD_OF_HEAD
    return ResetReason.COMPACTED if cursor.sequence < floor else None


class ChangeFeed:
    """The use cases of ChangeFeedService."""

    def __init__(self, catalog: FeedCatalog, signals: Signals, *, heartbeat_seconds: float) -> None:
        self._catalog = catalog
        self._signals = signals
        self._heartbeat = heartbeat_seconds
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """Ends every feed with UnavailableError; consumers watch again from their cursors."""
        self._stopping.set()

    async def _wait(self, event: asyncio.Event, seconds: float) -> None:
        """Waits for a change, the time of the next heartbeat, or the end of the service. Raises UnavailableError at the end."""
        if not self._stopping.is_set():
            changed, stopped = asyncio.create_task(wait(event, seconds)), asyncio.create_task(self._stopping.wait())
            try:
                await asyncio.wait({changed, stopped}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                changed.cancel()
                stopped.cancel()
        self._raise_at_the_end()

    def _raise_at_the_end(self) -> None:
        """Called between events, so that the last one that a consumer gets is whole."""
        if self._stopping.is_set():
            raise UnavailableError("the indexer is shutting down: watch again from the last cursor", component="change_feed", reason="SHUTTING_DOWN")

    async def watch_project_list(self, cursor: Cursor | None) -> AsyncGenerator[FeedEvent, None]:
        """The feed of the project list, until the consumer ends it. Raises UnavailableError at shutdown."""
        here, floor = await self._catalog.project_list_position()
        reason = _reset_reason(cursor, here.epoch, here.sequence, floor)
        at = cursor.sequence if cursor and not reason else SequenceNumber(0)
        if reason:
            yield Reset(reason, FeedStream.PROJECTS, here.epoch)
        last_sent = 0.0
        while True:
            self._raise_at_the_end()
            changed = self._signals.event(Subject.PROJECT_LIST)
            batch = await self._catalog.project_list_batch(at, _PROJECTS_A_BATCH)
            if batch.range.end > at:
                at = batch.range.end
                yield batch
            elif time.monotonic() - last_sent >= self._heartbeat:
                last_sent = time.monotonic()
                yield Heartbeat(here.epoch, batch.range.head, VectorSequence(0), datetime.now(UTC))
            else:
                await self._wait(changed, self._heartbeat)

    async def watch_project(
        self, project_id: ProjectId, documents: Cursor | None, vectors: Cursor | None, *, include_vectors: bool
    ) -> AsyncGenerator[FeedEvent, None]:
        """The feed of one project, until the consumer ends it.

        Raises NotFoundError if there is no such project or it is deleted meanwhile, UnavailableError at shutdown.
        """
        key, project = await self._catalog.find_project(project_id)
        stream = _ProjectStream(self._catalog, key, include_vectors=include_vectors)
        for reset in await stream.begin(documents, vectors):
            yield reset
        last_sent, last_vectors = 0.0, None
        while True:
            self._raise_at_the_end()
            changed = self._signals.event(key)
            here = await self._catalog.position(key)
            if here.deleted or here.epoch != project.epoch:
                raise NotFoundError(f"project {project_id!r} was deleted", reason="PROJECT_NOT_FOUND")
            moved = here.vector_sequence != last_vectors
            since = time.monotonic() - last_sent
            event = None if since >= self._heartbeat or (moved and since >= _VECTOR_NEWS_SECONDS) else await stream.next(here)
            if event is not None:
                yield event
            elif moved or since >= self._heartbeat:
                last_sent, last_vectors = time.monotonic(), here.vector_sequence
                yield Heartbeat(here.epoch, here.head, here.vector_sequence, datetime.now(UTC))
            else:
                await self._wait(changed, self._heartbeat)


class _ProjectStream:
    """How far one consumer of one project has been served: documents first, vectors behind them."""

    def __init__(self, catalog: FeedCatalog, key: ProjectKey, *, include_vectors: bool) -> None:
        self._catalog = catalog
        self._key = key
        self._include_vectors = include_vectors
        self._documents = SequenceNumber(0)
        self._vectors = SequenceNumber(0)
        self._vector_position = (0, 0)
        # What was compacted before the stream began does not concern it: it began above that, or from nothing.
        self._floor = SequenceNumber(0)

    async def begin(self, documents: Cursor | None, vectors: Cursor | None) -> list[Reset]:
        """Takes up the consumer's cursors; returns the resets it must be told."""
        here = await self._catalog.position(self._key)
        self._floor = here.floor
        reason = _reset_reason(documents, here.epoch, here.head, here.floor)
        if reason:
            return [Reset(reason, FeedStream.DOCUMENTS, here.epoch)]
        self._documents = documents.sequence if documents else self._documents
        vector_reason = _reset_reason(vectors, here.epoch, here.head, SequenceNumber(0)) if self._include_vectors else None
        if vector_reason:
            return [Reset(vector_reason, FeedStream.VECTORS, here.epoch)]
        self._vectors = vectors.sequence if vectors else self._vectors
        self._vector_position = _behind(self._vectors)
        return []

    async def next(self, here: Position) -> FeedEvent | None:
        """The next batch, or None if the consumer has everything."""
        if self._documents < here.head:
            documents = await self._catalog.document_batch(self._key, self._documents, _DOCUMENTS_A_BATCH, self._floor)
            if documents is None:
                self._documents = self._vectors = SequenceNumber(0)
                self._floor = here.floor
                self._vector_position = (0, 0)
                return Reset(ResetReason.COMPACTED, FeedStream.DOCUMENTS, here.epoch)
            self._documents = documents.range.end
            return documents
        up_to = SequenceNumber(min(here.embedded_sequence, self._documents))
        if self._include_vectors and self._vectors < up_to:
            vectors, self._vector_position = await self._catalog.vector_batch(self._key, self._vectors, self._vector_position, up_to)
            self._vectors = vectors.range.end
            return vectors
        return None


def _behind(sequence: SequenceNumber) -> tuple[int, int]:
    """The position behind every chunk of a sequence."""
    return (sequence + 1, 0)

"""From the catalog to the vector store: adds the vectors of live chunks, deletes those of chunks that are gone, then moves the cursor.

What the vector store refuses for good while it takes other chunks goes into quarantine, and the cursor moves past it (collection_writer.py).

Every step may be repeated: adding what is there and deleting what is not change nothing. So the cursor is moved behind the data, and a crash
between the two costs a repetition, never a vector.

What has to be written again, because the vector store lost it or somebody asks for it, is written to a new collection: the catalog gives the
project another generation in the transaction that sets its cursor to 0. So what is under way for the old collection can neither move the new
cursor nor leave a stale vector behind, however the two meet, and a crash is followed by the same steps.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing

from services.indexer.application.collection_writer import CollectionWriter
from services.indexer.application.journey import Journey
from services.indexer.application.signals import Signals
from services.indexer.application.subjects import Subject
from services.indexer.application.worker import for_each
from services.indexer.ports import ProjectionCatalog
from services.indexer.records import Advance, LaggingProject, ProjectionPage, ProjectKey
from shared.errors import CollectionNotFoundError, VectorStoreUnavailableError
from shared.observability import exemplars, metrics, tracing
from shared.observability.guarded import guarded, read_at_scrape
from shared.ports import VectorWriter
from shared.resilience.backoff import Backoff
from shared.resilience.deadline import Clock
from shared.resilience.effort import effort

_CHUNKS_A_PAGE = 500
_PAGES_A_TURN = 20
# Before a project whose collections are lost one after another is given the next one. The first is replaced at once.
_BEFORE_ANOTHER_COLLECTION = Backoff(initial=2.0, maximum=60.0)

_SEARCHABLE = metrics.INGEST_TO_SEARCHABLE.labels("vector")


class Projector:
    """Keeps the vector store at the catalog's state."""

    def __init__(
        self,
        catalog: ProjectionCatalog,
        store: VectorWriter,
        writer: CollectionWriter,
        signals: Signals,
        *,
        write_timeout: float,
        journey: Journey,
        clock: Clock = time.monotonic,
    ) -> None:
        """`store` makes and drops collections, `writer` fills them. `write_timeout` in seconds, for each call to the vector store.

        `journey` is the vectoriser's, too.
        """
        self._catalog = catalog
        self._store = store
        self._writer = writer
        self._signals = signals
        self._timeout = write_timeout
        self._clock = clock
        # How many collections each project lost in a row, and until when it waits; no more of them than projects that are behind.
        self._lost: dict[ProjectKey, tuple[int, float]] = {}
        self._journey = journey
        self._tracer = tracing.get_tracer(__name__)

    async def step(self) -> bool:
        """Brings each project that is behind up to what is embedded; True if there was any.

        A project whose collections are lost one after another waits before it gets the next one, and the others do not.

        Raises VectorStoreUnavailableError, VectorStoreError.
        """
        behind = await self._catalog.projects_to_project()
        self._lost = {project.key: self._lost[project.key] for project in behind if project.key in self._lost}
        projects = [project for project in behind if self._clock() >= self._lost.get(project.key, (0, 0.0))[1]]
        await for_each(projects, self._turn, lambda project: {"project": project.id})
        await self.measure_lag()
        return bool(projects)

    async def measure_lag(self) -> int:
        """Changes that are not in the vector store; also for the metrics, in which the age of the oldest goes on growing until the next time."""
        lag = await self._catalog.lag()
        metrics.PROJECTOR_LAG.set(lag.changes)
        read_at_scrape(metrics.PROJECTOR_LAG_SECONDS, lambda: 0.0 if lag.oldest is None else max(0.0, time.time() - lag.oldest))
        return lag.changes

    async def _turn(self, project: LaggingProject) -> None:
        try:
            await self._project(project)
        except VectorStoreUnavailableError:
            self._journey.store_failed()
            raise

    async def _project(self, project: LaggingProject) -> None:
        if project.vector_sequence == 0:
            await self._store.ensure_collection(project.collection, timeout=self._timeout)
            here = await self._catalog.position(project.key)
            if here.deleted or here.generation != project.generation:
                # The project was deleted, or got another collection, since it was listed: nobody else would drop what was just made.
                await self._store.drop_collection(project.collection, timeout=self._timeout)
                return
        moved, pages = False, 0
        async with aclosing(self._pages(project)) as read:
            async for page in read:
                pages += 1
                match await self._write(project, page):
                    case Advance.SUPERSEDED:
                        return
                    case Advance.DONE | Advance.REBUILT:
                        moved = True
                # Projects take turns; but a turn goes on until it has moved the cursor, or a very large document would never be finished.
                if moved and pages >= _PAGES_A_TURN:
                    return

    async def _pages(self, project: LaggingProject) -> AsyncGenerator[ProjectionPage, None]:
        """What the vector store has to learn, in order. Each page is read while the vector store works on the one before."""
        reading = asyncio.create_task(self._catalog.projection_page(project, (int(project.vector_sequence) + 1, 0), _CHUNKS_A_PAGE))
        try:
            while True:
                page = await reading
                if page.complete_to >= int(project.embedded_sequence):
                    yield page
                    return
                reading = asyncio.create_task(self._catalog.projection_page(project, page.position, _CHUNKS_A_PAGE))
                yield page
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)

    async def _write(self, project: LaggingProject, page: ProjectionPage) -> Advance | None:
        """Writes a page, then moves the cursor if the page completes a change; None if it does not."""
        links = tracing.links(write.trace for write in page.writes)
        with self._tracer.start_as_current_span("projection.write", links=links) as span, effort() as spent:
            if span.is_recording():
                span.set_attributes({"kb.project": project.id, "kb.added": len(page.added), "kb.removed": len(page.removed)})
            try:
                turn = time.perf_counter()
                async with self._writer.lock:
                    began = self._journey.now()
                    if page.added:
                        await self._writer.add(project, page.added, page.vectors)
                    if page.removed:
                        await self._writer.remove(project, page.removed)
            except CollectionNotFoundError:
                self._rest(project)
                await self._writer.start_again(project)
                return Advance.SUPERSEDED
            metrics.PROJECTOR_BATCH_DURATION.observe(time.perf_counter() - turn)
            metrics.PROJECTOR_CHUNKS.inc(len(page.added) + len(page.removed))
            if page.complete_to <= int(project.vector_sequence):
                return None
            advance = await self._catalog.advance(project, page.complete_to)
            self._signals.notify(project.key, *([Subject.PROJECT_LIST] if advance is Advance.REBUILT else []))
            if advance is Advance.REBUILT:  # all of a collection was taken: one that is lost later is another story
                self._lost.pop(project.key, None)
            if advance is not Advance.SUPERSEDED:
                self._journey.searchable(project, page.writes, began, spent, span)
                _observe(page)
            return advance

    def _rest(self, project: LaggingProject) -> None:
        """A vector store that makes collections and then says that they are not there would be given one after the other without end."""
        lost, _ = self._lost.get(project.key, (0, 0.0))
        pause = _BEFORE_ANOTHER_COLLECTION.seconds(lost) if lost else 0.0
        self._lost[project.key] = (lost + 1, self._clock() + pause)


@guarded("kb_ingest_to_searchable_seconds")
def _observe(page: ProjectionPage) -> None:
    """Measures how long the changes that a page has completed have taken to get here."""
    now = time.time()
    for change in page.completed:
        _SEARCHABLE.observe(max(0.0, now - change.commit_time), exemplars.of(change.trace))

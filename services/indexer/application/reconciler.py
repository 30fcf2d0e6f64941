"""Compares the vector store with the catalog, and mends what differs: how many vectors every few seconds, each one on a schedule and on demand.

Writes go on meanwhile. So what seems to differ is looked at again while the projector is held up, the catalog first and the vector store behind it:
only what differs then is a difference. What is mended is mended under the same lock.

Few differences are mended one by one, which no search notices. Where much differs, a new collection is filled instead: until it is, searches use the
replicas' vectors and say so, while a collection with holes would be searched as if it were whole.
"""

from __future__ import annotations

import re
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

from services.indexer.application.collection_sizes import CollectionSizes
from services.indexer.application.collection_writer import CollectionWriter
from services.indexer.application.worker import for_each
from services.indexer.ports import VerificationCatalog
from services.indexer.records import LaggingProject, ProjectKey
from shared.domain import ChunkId, ProjectId, SequenceNumber
from shared.errors import CircuitOpenError, CollectionNotFoundError
from shared.observability import metrics
from shared.observability.logging import get_logger
from shared.ports import VectorWriter
from shared.resilience.pace import Pace
from shared.verification import Difference, DifferenceKind, Verification

# Of a collection of 100,000, 20,000 ids took ChromaDB 0.09 s, asked for by 1,000; all of them 0.5 s, listed in pages of 5,000.
_IDS_A_QUESTION = 1_000
_IDS_A_PAGE = 5_000
_CHUNKS_A_REPAIR = 500  # while the projector waits
# More than that many differences, and more than a tenth of the chunks, are a reason to fill a new collection.
_FEW = 500
_SHARE = 10
_EXAMPLES = 20
# Ids a second that are compared: a tenth of what ChromaDB could, so that searches do not notice.
IDS_A_SECOND = 20_000.0


@dataclass(frozen=True, slots=True)
class Progress:
    """How many chunks have been compared, and how many there are."""

    compared: int
    total: int


@dataclass(frozen=True, slots=True)
class Findings:
    """What a comparison has found. `orphans`: collections of the project that the catalog knows nothing of; `held`: its chunks in quarantine."""

    verification: Verification
    orphans: Sequence[str]
    held: int


@dataclass(frozen=True, slots=True)
class _Repair:
    """What was done, for people; how many differences of each kind it mends; and how many it leaves."""

    done: str
    mended: Mapping[DifferenceKind, int]
    left: int = 0


_NO_REPAIR = _Repair("", {})


@dataclass(slots=True)
class _Differing:
    """Chunks that differ. Of more than `room` the ids are not kept, since they will not be mended one by one."""

    kind: DifferenceKind
    room: int
    count: int = 0
    ids: list[ChunkId] = field(default_factory=list)

    def add(self, chunk_ids: Sequence[ChunkId]) -> None:
        self.count += len(chunk_ids)
        self.ids += chunk_ids[: max(0, self.room - len(self.ids))]

    def difference(self) -> Difference:
        return Difference(self.kind, self.count, tuple(self.ids[:_EXAMPLES]))


class Reconciler:
    """Keeps the vector store from differing from the catalog unnoticed.

    Args:
        catalog: The truth.
        store: What is compared with it.
        writer: Mends.
        pace: Of comparing, in ids.
        timeout: Seconds, for each call to the vector store.
    """

    def __init__(self, catalog: VerificationCatalog, store: VectorWriter, writer: CollectionWriter, pace: Pace, *, timeout: float) -> None:
        self._catalog = catalog
        self._store = store
        self._writer = writer
        self._pace = pace
        self._timeout = timeout
        self._log = get_logger(__name__)
        self._stopped_at: ProjectKey | None = None
        self._sizes = CollectionSizes()

    async def check_counts(self) -> bool:
        """Looks whether the vector store has as many vectors of each project as it was given, and mends it if not. False: a look does it all.

        Raises VectorStoreUnavailableError.
        """
        projects = await self._catalog.projected_projects()
        try:
            await for_each(projects, self._check_count, lambda project: {"project": project.id})
        finally:
            self._sizes.show({project.id for project in projects})
        return False

    async def compare_all(self) -> bool:
        """Compares all projects, one after another, and mends what differs. False: a round does it all. Raises VectorStoreUnavailableError.

        A round that an open breaker ended is followed by one that begins with the project whose turn it was, or the last ones would never have theirs
        while the breaker opens again and again.
        """
        projects = self._from_where_it_stopped(await self._catalog.projected_projects())
        compared = 0

        async def mend(project: LaggingProject) -> None:
            nonlocal compared
            try:
                await self._mend(project)
            except CircuitOpenError:
                self._stopped_at = project.key
                raise
            compared += 1

        await for_each(projects, mend, lambda project: {"project": project.id})
        self._stopped_at = None
        if compared == len(projects):
            metrics.RECONCILE_LAST_SUCCESS.set_to_current_time()
        return False

    def _from_where_it_stopped(self, projects: Sequence[LaggingProject]) -> Sequence[LaggingProject]:
        places = [place for place, project in enumerate(projects) if project.key == self._stopped_at]
        return [*projects[places[0] :], *projects[: places[0]]] if places else projects

    async def compare(self, project_id: ProjectId, *, repair: bool, drop_orphans: bool) -> AsyncGenerator[Progress | Findings, None]:
        """Compares one project, and mends what differs if that is wanted; yields how far it is, and at last what it has found.

        Raises NotFoundError, VectorStoreUnavailableError.
        """
        project = await self._catalog.projected_project(project_id)
        async with aclosing(self._compare(project, repair=repair)) as steps:
            async for step in steps:
                if isinstance(step, Progress):
                    yield step
                    continue
                orphans = await self._orphans(project_id)
                for name in orphans if drop_orphans else ():
                    await self._store.drop_collection(name, timeout=self._timeout)
                    self._log.info("dropped an orphaned collection", collection=name)
                yield Findings(step, orphans, project.held_count)

    async def _check_count(self, project: LaggingProject) -> None:
        try:
            count = await self._store.count(project.collection, timeout=self._timeout)
        except CollectionNotFoundError:
            self._sizes.counted(project.id, 0)
            await self._writer.start_again(project)
            return
        self._sizes.counted(project.id, count)
        if count == project.chunk_count - project.held_count or not await self._at_rest(project):
            return
        self._log.warning(
            "the vector store has another number of vectors than it was given",
            project=project.id,
            vectors=count,
            expected=project.chunk_count - project.held_count,
        )
        found = await self._mend(project)
        if found.equal and await self._at_rest(project) and count == await self._store.count(project.collection, timeout=self._timeout):
            # It counts what nobody can ask it for: nothing but another collection helps.
            await self._writer.start_again(project)

    async def _at_rest(self, project: LaggingProject) -> bool:
        """Whether the project is as it was listed, with everything that is committed in the vector store."""
        return int(project.vector_sequence) == int(project.head) and project == await self._catalog.projected_project(project.id)

    async def _mend(self, project: LaggingProject) -> Verification:
        """Compares a project and mends it."""
        found: Verification | None = None
        async with aclosing(self._compare(project, repair=True)) as steps:
            async for step in steps:
                found = step if isinstance(step, Verification) else found
        if found is None:
            raise AssertionError("a comparison ends with what it has found")
        return found

    async def _compare(self, project: LaggingProject, *, repair: bool) -> AsyncGenerator[Progress | Verification, None]:
        started = time.monotonic()
        few = max(_FEW, project.chunk_count // _SHARE)
        missing, extra = _Differing(DifferenceKind.VECTORS_MISSING, few), _Differing(DifferenceKind.VECTORS_EXTRA, few)
        compared, differences, repaired = 0, list[Difference](), _NO_REPAIR
        try:
            if int(project.vector_sequence) > 0:  # else there need be no collection
                async for compared in self._walk_catalog(project, missing):
                    yield Progress(compared, project.chunk_count)
                if await self._store.count(project.collection, timeout=self._timeout) != compared - missing.count:
                    await self._walk_store(project, extra)
            differences = [differing.difference() for differing in (missing, extra) if differing.count]
            if differences and repair:
                repaired = await self._repair(project, missing, extra, few)
        except CollectionNotFoundError:
            # A project that has got another collection meanwhile is being filled anew: nothing is known to be missing from that one.
            if project.generation == (await self._catalog.projected_project(project.id)).generation:
                differences = [Difference(DifferenceKind.COLLECTION_MISSING, 1, (project.collection,))]
                if repair:
                    await self._writer.start_again(project)
                    repaired = _Repair("a new collection is being filled", {DifferenceKind.COLLECTION_MISSING: 1})
        self._report(project, differences, repaired)
        metrics.RECONCILE_DURATION.observe(time.monotonic() - started)
        yield Verification(
            project.id,
            SequenceNumber(project.vector_sequence),
            compared,
            tuple(differences),
            repaired=bool(repaired.done) and not repaired.left,
            repair_message=repaired.done,
        )

    async def _walk_catalog(self, project: LaggingProject, missing: _Differing) -> AsyncGenerator[int, None]:
        """Finds chunks that the vector store does not have; yields how many have been compared."""
        position: tuple[int, int] | None = (0, 0)
        compared = 0
        while position is not None:
            page = await self._catalog.expected_page(project, position, _IDS_A_QUESTION)
            position = page.position
            if page.chunk_ids:
                await self._pace.take(len(page.chunk_ids))
                missing.add(await self._missing(project, page.chunk_ids))
            compared += len(page.chunk_ids)
            yield compared

    async def _missing(self, project: LaggingProject, chunk_ids: Sequence[ChunkId]) -> Sequence[ChunkId]:
        there = await self._store.existing(project.collection, chunk_ids, timeout=self._timeout)
        seeming = [chunk_id for chunk_id in chunk_ids if chunk_id not in there]
        if not seeming:
            return ()
        async with self._writer.lock:
            expected, _ = await self._catalog.expected_vectors(project, seeming)
            there = await self._store.existing(project.collection, expected, timeout=self._timeout)
        return [chunk_id for chunk_id in expected if chunk_id not in there]

    async def _walk_store(self, project: LaggingProject, extra: _Differing) -> None:
        """Finds vectors that belong to no chunk."""
        offset = 0
        while True:
            page = await self._store.list_ids(project.collection, offset=offset, limit=_IDS_A_PAGE, timeout=self._timeout)
            await self._pace.take(len(page))
            seeming = await self._catalog.unknown_chunks(project, page)
            if seeming:
                async with self._writer.lock:
                    unknown = await self._catalog.unknown_chunks(project, seeming)
                    there = await self._store.existing(project.collection, unknown, timeout=self._timeout)
                extra.add([chunk_id for chunk_id in unknown if chunk_id in there])
            if len(page) < _IDS_A_PAGE:
                return
            offset += len(page)

    async def _repair(self, project: LaggingProject, missing: _Differing, extra: _Differing, few: int) -> _Repair:
        """Mends what differs."""
        if missing.count + extra.count > few:
            await self._writer.start_again(project)
            return _Repair("much differs: a new collection is being filled", {each.kind: each.count for each in (missing, extra)})
        written = deleted = left = 0
        for start in range(0, len(missing.ids), _CHUNKS_A_REPAIR):
            async with self._writer.lock:
                expected, vectors = await self._catalog.expected_vectors(project, missing.ids[start : start + _CHUNKS_A_REPAIR])
                if expected:
                    written += await self._writer.add(project, expected, vectors)
        for start in range(0, len(extra.ids), _CHUNKS_A_REPAIR):
            async with self._writer.lock:
                unknown = await self._catalog.unknown_chunks(project, extra.ids[start : start + _CHUNKS_A_REPAIR])
                if unknown:
                    gone = await self._writer.remove(project, unknown)
                    deleted += gone
                    left += len(unknown) - gone
        done = f"{written:,} vectors written, {deleted:,} deleted" + (f", {left:,} that the vector store refuses to delete" if left else "")
        return _Repair(done, {missing.kind: written, extra.kind: deleted}, left)

    def _report(self, project: LaggingProject, differences: Sequence[Difference], repaired: _Repair) -> None:
        for difference in differences:
            metrics.RECONCILE_DIFFERENCES.labels(difference.kind.value).inc(difference.count)
            metrics.RECONCILE_REPAIRED.labels(difference.kind.value).inc(repaired.mended.get(difference.kind, 0))
            self._log.warning(
                "the vector store differs from the catalog",
                project=project.id,
                kind=difference.kind.value,
                count=difference.count,
                repaired=repaired.done,
                examples=difference.examples[:3],
            )

    async def _orphans(self, project_id: ProjectId) -> Sequence[str]:
        """Collections of a project that the catalog knows nothing of. The names are read first: what is made later is not among them."""
        # As `collection_name` makes them. A project's id has no "_", so that no other project's collections match.
        pattern = re.compile(rf"kb_{re.escape(project_id)}_g\d+_[0-9a-f]{{1,8}}")
        names = [name for name in await self._store.list_collections(timeout=self._timeout) if pattern.fullmatch(name)]
        known = await self._catalog.known_collections(project_id)
        return sorted(name for name in names if name not in known)

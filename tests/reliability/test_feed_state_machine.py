"""The change feed as a state machine against a model: whatever happens to either side, a replica that is at rest is the catalog.

Real: the catalog on SQLite, the feed over it, the replica on its files, and the follower that brings one to the other. What happens on the way is
Hypothesis's choice. `KB_STATE_MACHINE_EXAMPLES` runs more histories than the 150 that are always the same (`KB_STATE_MACHINE_EXAMPLES=1000`: others
every time, about 15 minutes).
"""

from __future__ import annotations

import asyncio
import copy
import os
import shutil
import tempfile
from collections.abc import AsyncGenerator, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test

from services.indexer.application.feed import ChangeFeed
from services.indexer.application.signals import Signals
from services.indexer.catalog.sqlite import RESTORED_MARKER, SqliteCatalog
from services.indexer.records import NewProject, PreparedDocument
from services.query.replica import FeedGapError, Replica
from services.query.replica.follower import Follower
from shared.domain import (
    ChunkId,
    ChunkingSettings,
    DocumentBatch,
    DocumentId,
    DocumentInput,
    FeedEvent,
    Heartbeat,
    ProjectId,
    Reset,
    TraceContext,
    VectorBatch,
)
from shared.errors import KnowledgeBeastError
from shared.filters import AllOf
from shared.resilience.backoff import Backoff
from tests.fakes.feed import DIMENSION, chunks_of, vector_of

T = TypeVar("T")

PROJECTS = ("p", "q")
DOCUMENTS = ("a", "b", "c", "d", "e")
WORDS = ("alpha", "bravo", "charlie", "delta")
# Longer than what chunk ids are made of: another title need not give other chunks.
TITLES = ("0123456789 golf", "0123456789 hotel")
HEARTBEAT_SECONDS = 0.005
PATIENCE_SECONDS = 60.0
EXAMPLES = os.environ.get("KB_STATE_MACHINE_EXAMPLES")
# Tens of thousands of commits, each of which a disk takes its time for. A crash is a copy of the files here, so memory keeps what a disk would.
MEMORY = Path("/dev/shm")  # noqa: S108 - a folder of its own is made in it
FOLDER = MEMORY if os.access(MEMORY, os.W_OK) else None

texts = st.lists(st.sampled_from(WORDS), min_size=1, max_size=3).map("\n".join)
projects = st.sampled_from(PROJECTS)
documents = st.sampled_from(DOCUMENTS)


@dataclass(frozen=True)
class ModelDocument:
    """What a document should be."""

    title: str
    text: str
    number: int


written = st.lists(st.tuples(documents, st.builds(ModelDocument, st.sampled_from(TITLES), texts, st.integers(0, 2))), min_size=1, max_size=4)

# Projects, and the documents of each.
Model = dict[str, dict[str, ModelDocument]]


class CrashError(Exception):
    """The consumer has ended in the middle of a write."""


@dataclass
class Stream:
    """A project's stream as the consumer reads it by hand, and the batches that came last."""

    events: AsyncGenerator[FeedEvent, None]
    reset_due: bool
    recent: list[FeedEvent] = field(default_factory=list)


class Catalog:
    """The catalog with its feed, which can be stopped, copied and replaced by an older copy."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.backups: list[tuple[Path, Model]] = []
        self.model: Model = {}
        self._open()

    def _open(self) -> None:
        self.catalog = SqliteCatalog.open(self.folder)
        self.feed = ChangeFeed(self.catalog, Signals(), heartbeat_seconds=HEARTBEAT_SECONDS)

    async def restart(self, *, backup: bool = False, restore: int | None = None) -> None:
        """Stops and starts, with a copy made in between, or replaced by an older copy as an operator does it."""
        await self.catalog.close()
        if backup:
            target = self.folder / f"backup{len(self.backups)}.db"
            shutil.copyfile(self.folder / "catalog.db", target)
            self.backups.append((target, copy.deepcopy(self.model)))
        if restore is not None:
            source, model = self.backups[restore % len(self.backups)]
            for suffix in ("-wal", "-shm"):
                (self.folder / f"catalog.db{suffix}").unlink(missing_ok=True)
            shutil.copyfile(source, self.folder / "catalog.db")
            (self.folder / RESTORED_MARKER).touch()
            self.model = copy.deepcopy(model)
        self._open()

    async def create(self, project: str) -> None:
        """A project without documents."""
        await self.catalog.create_project(NewProject(ProjectId(project), project, "", {}, "model", ChunkingSettings()), None)
        self.model[project] = {}

    async def write(self, project: str, written: Sequence[tuple[str, ModelDocument]]) -> None:
        """Writes documents, one transaction."""
        key, _ = await self.catalog.find_project(ProjectId(project))
        prepared = [
            PreparedDocument(
                DocumentInput(DocumentId(name), one.title, one.text, {"number": one.number}), chunks_of(name, one.title, one.text), repr(one)
            )
            for name, one in written
        ]
        await self.catalog.upsert_documents(ProjectId(project), key, prepared, TraceContext(), None)
        self.model[project].update(written)

    async def delete(self, project: str, document: str) -> None:
        """Deletes a document, if it is there."""
        key, _ = await self.catalog.find_project(ProjectId(project))
        await self.catalog.delete_documents(key, [(DocumentId(document), None)], TraceContext())
        self.model[project].pop(document, None)

    async def delete_project(self, project: str) -> None:
        """Ends a project."""
        await self.catalog.delete_project(ProjectId(project), etag="")
        del self.model[project]

    async def embed(self, limit: int) -> None:
        """Gives the oldest chunks of each project their vectors."""
        for project in await self.catalog.projects_to_embed():
            chunks = await self.catalog.unembedded(project, limit)
            vectors = np.array([vector_of(chunk.text) for chunk in chunks], dtype=np.float32).reshape(len(chunks), DIMENSION)
            await self.catalog.store_embeddings(project, [chunk.key for chunk in chunks], vectors)

    async def compact(self) -> None:
        """Embeds and projects everything, purges deleted projects, and forgets every tombstone."""
        await self.embed(1_000)
        for project in await self.catalog.projects_to_project():
            await self.catalog.advance(project, project.embedded_sequence)  # type: ignore[arg-type] # the same scale
        for deleted in await self.catalog.deleted_projects():
            while await self.catalog.purge_documents(deleted.key, 100):
                pass
            await self.catalog.mark_purged(deleted.key)
        await self.catalog.compact(tombstones_older_than=-1, requests_older_than=0)


class FeedMachine(RuleBasedStateMachine):
    """The rules. Each runs to its end before the next one; streams that are read by hand stay open in between."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.folder = Path(tempfile.mkdtemp(dir=FOLDER))
        self.catalog = Catalog(self.folder / "catalog")
        self.streams: dict[str, Stream] = {}
        self.steps_to_crash: int | None = None
        self.incarnation = 0
        self.replica = self._open_replica()
        self.at_rest = False

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        """Runs to the end, and notes that the replica may have to follow."""
        self.at_rest = False
        return self.loop.run_until_complete(asyncio.wait_for(work, PATIENCE_SECONDS))

    # --- what happens in the catalog ---------------------------------------------------------------------------------------------------

    @initialize(first=written, known=st.booleans())
    def begin(self, first: list[tuple[str, ModelDocument]], known: bool) -> None:
        """There is a project with documents, and sometimes the replica has them."""
        self.do(self.catalog.create("p"))
        self.do(self.catalog.write("p", first))
        if known:
            self.come_to_rest()

    @rule(project=projects)
    def create_or_delete_a_project(self, project: str) -> None:
        """A project that ends, or comes (again)."""
        self.do(self.catalog.delete_project(project) if project in self.catalog.model else self.catalog.create(project))

    @rule(project=projects, some=written)
    def write(self, project: str, some: list[tuple[str, ModelDocument]]) -> None:
        """Documents come, or are replaced."""
        if project in self.catalog.model:
            self.do(self.catalog.write(project, some))

    @rule(project=projects, which=st.integers(0, 4), compacted=st.booleans())
    def delete(self, project: str, which: int, compacted: bool) -> None:
        """A document goes, and sometimes its tombstone at once."""
        names = sorted(self.catalog.model.get(project, ()))
        if names:
            self.do(self.catalog.delete(project, names[which % len(names)]))
            if compacted:
                self.compact()

    @rule(limit=st.sampled_from([1, 3, 1_000]))
    def embed(self, limit: int) -> None:
        """Vectors come, not always all of them."""
        self.do(self.catalog.embed(limit))

    @rule()
    def compact(self) -> None:
        """Tombstones go."""
        self.do(self.catalog.compact())

    @rule(backup=st.booleans())
    def restart_the_catalog(self, backup: bool) -> None:
        """Every stream breaks; sometimes the operator has made a copy."""
        self.do(self._cut_all())
        self.do(self.catalog.restart(backup=backup))

    @precondition(lambda self: self.catalog.backups)
    @rule(which=st.integers(0, 10), project=projects, some=written)
    def restore(self, which: int, project: str, some: list[tuple[str, ModelDocument]]) -> None:
        """The catalog is an older copy of itself, and life goes on in another way."""
        self.do(self._cut_all())
        self.do(self.catalog.restart(restore=which))
        self.write(project, some)

    # --- what happens to the consumer --------------------------------------------------------------------------------------------------

    @rule(project=projects, count=st.integers(1, 6), crash=st.none() | st.integers(0, 5))
    def take(self, project: str, count: int, crash: int | None) -> None:
        """Some events arrive and are applied; the process may end after any step of that."""
        self.do(self._take(project, count, crash))

    @rule(project=projects, crash=st.integers(0, 3), which=st.integers(0, 4))
    def crash_in_the_first_copy(self, project: str, crash: int, which: int) -> None:
        """The copy is lost and begins again, the process ends in the middle of its first batch, and something that it has by then is deleted."""
        self.do(self._cut(project))
        self.replica.drop_project(ProjectId(project))
        self.take(project, 4, crash)
        self.delete(project, which, compacted=False)

    # Histories that chance alone rarely comes to.

    @rule(project=projects, which=st.integers(0, 4))
    def forget_under_an_open_stream(self, project: str, which: int) -> None:
        """A stream that had everything is overtaken by the compaction."""
        self.take(project, 4, None)
        self.delete(project, which, compacted=True)
        self.take(project, 2, None)

    @rule(project=projects)
    def purge_under_an_open_stream(self, project: str) -> None:
        """The project of a stream ends, and nothing is left of it."""
        self.take(project, 1, None)
        if project in self.catalog.model:
            self.create_or_delete_a_project(project)
        self.compact()
        self.take(project, 1, None)

    @rule(project=projects, one=written, other=written)
    def go_another_way(self, project: str, one: list[tuple[str, ModelDocument]], other: list[tuple[str, ModelDocument]]) -> None:
        """What the replica has seen since the backup never happened, and as much has happened instead."""
        self.restart_the_catalog(backup=True)
        self.write(project, one)
        self.take(project, 4, None)
        self.restore(len(self.catalog.backups) - 1, project, other)

    @rule(project=projects, which=st.integers(0, 4))
    def retitle_and_crash(self, project: str, which: int) -> None:
        """A change that shows in the keyword index alone is stored when the process ends."""
        self.take(project, 4, None)
        names = sorted(self.catalog.model.get(project, ()))
        if names:
            name = names[which % len(names)]
            before = self.catalog.model[project][name]
            self.write(project, [(name, replace(before, title=next(title for title in TITLES if title != before.title)))])
            self.take(project, 2, 0)

    @rule(project=projects)
    def duplicate(self, project: str) -> None:
        """What came last comes once more. It is refused, or changes nothing."""
        self.do(self._again(project, reverse=False))

    @rule(project=projects)
    def reorder(self, project: str) -> None:
        """What came last comes once more, the newest first."""
        self.do(self._again(project, reverse=True))

    @rule(project=projects, lost=written, kept=written)
    def lose(self, project: str, lost: list[tuple[str, ModelDocument]], kept: list[tuple[str, ModelDocument]]) -> None:
        """Changes are lost on the way. What follows is refused, and the stream is watched again."""
        self.write(project, lost)
        self.do(self._take(project, 2, None, applied=False))
        self.write(project, kept)
        self.take(project, 3, None)

    @rule(project=projects)
    def cut(self, project: str) -> None:
        """The stream ends between two messages, or in the middle of one: that is one message less."""
        self.do(self._cut(project))

    @rule()
    def reopen(self) -> None:
        """The consumer is stopped and started."""
        self.do(self._cut_all())
        self.replica.close()
        self.replica = self._open_replica()
        self.at_rest = False

    @rule()
    def come_to_rest(self) -> None:
        """The follower runs until it has everything."""
        self.do(self._rest())
        self.at_rest = True

    @invariant()
    def at_rest_the_replica_is_the_model(self) -> None:
        """Documents, metadata, chunks by keyword and vectors, of every project."""
        if self.at_rest:
            check(self.replica, self.catalog.model)

    def teardown(self) -> None:
        """Every history ends at rest, and in equality."""
        try:
            self.do(self._rest())
            check(self.replica, self.catalog.model)
        finally:
            self.loop.run_until_complete(self._cut_all())
            self.replica.close()
            self.loop.run_until_complete(self.catalog.catalog.close())
            self.loop.run_until_complete(self.loop.shutdown_default_executor())
            self.loop.close()
            shutil.rmtree(self.folder)

    # -----------------------------------------------------------------------------------------------------------------------------------

    def _open_replica(self) -> Replica:
        return Replica.open(self.folder / f"replica{self.incarnation}", vectors_max=1_000, step=self._step)

    def _step(self, name: str) -> None:
        """The replica's files, as a crash after this step would leave them, are what is opened next."""
        if self.steps_to_crash is None:
            return
        self.steps_to_crash -= 1
        if self.steps_to_crash < 0:
            self.steps_to_crash = None
            shutil.copytree(self.folder / f"replica{self.incarnation}", self.folder / f"replica{self.incarnation + 1}")
            raise CrashError(name)

    async def _take(self, project: str, count: int, crash: int | None, *, applied: bool = True) -> None:
        if project not in self.catalog.model and project not in self.streams:
            return
        if project not in self.streams and project not in {
            each.project.id for each in self.replica.projects()
        }:  # the list of projects tells, as the follower would hear
            _, listed = await self.catalog.catalog.find_project(ProjectId(project))
            self.replica.put_project(listed)
        stream = self.streams.get(project)
        if stream is None:
            here = self.replica.project(ProjectId(project))
            events = self.catalog.feed.watch_project(ProjectId(project), here.documents_cursor, here.vectors_cursor, include_vectors=True)
            stream = self.streams[project] = Stream(events, reset_due=here.documents_cursor is None or here.documents_cursor.sequence == 0)
        self.steps_to_crash = crash
        beats = 0
        try:
            while count > 0:
                event = await anext(stream.events)
                stream.recent = [*stream.recent[-2:], event]
                if applied:
                    if stream.reset_due and isinstance(event, DocumentBatch | VectorBatch):
                        raise FeedGapError("the reset was lost")  # the follower's own rule
                    apply(self.replica, project, event)
                    stream.reset_due = stream.reset_due and not isinstance(event, Reset)
                beats += isinstance(event, Heartbeat)
                if beats == 2 or (beats and applied and self.replica.project(ProjectId(project)).lag == 0):
                    break  # there is nothing more
                count -= not isinstance(event, Heartbeat)
        except CrashError:
            await self._cut_all()
            self.replica.close()
            self.incarnation += 1
            self.replica = self._open_replica()
        except KnowledgeBeastError:  # a gap, or the end of the project: watch again
            await self._cut(project)
        finally:
            self.steps_to_crash = None

    async def _again(self, project: str, *, reverse: bool) -> None:
        stream = self.streams.get(project)
        for event in [] if stream is None or stream.reset_due else stream.recent[:: -1 if reverse else 1]:
            if isinstance(event, DocumentBatch | VectorBatch):  # a reset is no batch: whoever hears it again has asked for it
                with suppress(FeedGapError):
                    apply(self.replica, project, event)

    async def _cut(self, project: str) -> None:
        stream = self.streams.pop(project, None)
        if stream is not None:
            await stream.events.aclose()

    async def _cut_all(self) -> None:
        for project in list(self.streams):
            await self._cut(project)

    async def _rest(self) -> None:
        """Embeds everything, and follows until all that the catalog has is here."""
        await self._cut_all()
        await self.catalog.embed(1_000)
        follower = asyncio.create_task(Follower(self.catalog.feed, self.replica, backoff=Backoff(initial=0.001, maximum=0.01)).run())
        try:
            while not await self._has_everything():
                assert not follower.done()
                await asyncio.sleep(0.002)  # what is waited for lies in threads and files, which set no event
        finally:
            follower.cancel()
            with suppress(asyncio.CancelledError):
                await follower

    async def _has_everything(self) -> bool:
        position, _ = await self.catalog.catalog.project_list_position()
        here = {each.project.id: each for each in self.replica.projects()}
        if self.replica.project_list_cursor != position or set(here) != set(self.catalog.model):
            return False
        for project_id, copied in here.items():
            _, project = await self.catalog.catalog.find_project(project_id)
            cursors = {(cursor.epoch, cursor.sequence) for cursor in (copied.documents_cursor, copied.vectors_cursor) if cursor is not None}
            if cursors != {(project.epoch, project.head)} or copied.vectors_cursor is None or copied.contact_time is None:
                return False
        return True


def apply(replica: Replica, project: str, event: FeedEvent) -> None:
    """Applies an event of a project's stream."""
    match event:
        case Reset():
            replica.apply_reset(ProjectId(project), event)
        case DocumentBatch():
            replica.apply_documents(ProjectId(project), event)
        case VectorBatch():
            replica.apply_vectors(ProjectId(project), event)
        case Heartbeat():
            replica.apply_heartbeat(ProjectId(project), event)


def check(replica: Replica, model: Model) -> None:
    """Every way of asking the replica gives what the model has, and nothing else."""
    assert {each.project.id for each in replica.projects()} == set(model)
    for name, written in model.items():
        project = ProjectId(name)
        hits = {hit.pk: hit for hit in replica.hydrate(project, replica.allowed(project, AllOf(())).tolist())}
        expected = {
            (document, one.title, one.number, chunk) for document, one in written.items() for chunk in chunks_of(document, one.title, one.text)
        }
        assert {(hit.document_id, hit.title, hit.metadata["number"], hit.chunk) for hit in hits.values()} == expected
        assert len(hits) == len(expected)
        for word in (*WORDS, "golf", "hotel"):
            found = sorted(hits[hit.pk].chunk.id for hit in replica.keyword(project, word, 1_000))
            assert found == sorted(chunk.id for _, title, _, chunk in expected if word in f"{title} {chunk.text}".split())
        near = {hit.pk: hit.score for hit in replica.vectors(project, vector_of("alpha"), 1_000) or []}
        assert near.keys() == hits.keys()
        for pk, score in near.items():
            assert score == pytest.approx(float(vector_of("alpha") @ vector_of(hits[pk].chunk.text)), abs=1e-5)
        assert replica.resolve(project, [chunk.id for *_, chunk in expected] + [ChunkId("none")]) == {hit.chunk.id: pk for pk, hit in hits.items()}


def test_a_replica_at_rest_is_the_catalog_whatever_has_happened() -> None:
    """Writes, deletes, restores, compactions, crashes and every trouble on the way, in any order, end in equality."""
    run_state_machine_as_test(
        FeedMachine,
        settings=settings(
            max_examples=int(EXAMPLES or 150),
            stateful_step_count=30,
            derandomize=EXAMPLES is None,
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )

"""The follower brings a real replica to what the catalog has, whatever happens on the way."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from services.query.replica import Replica
from services.query.replica.feed import Feed
from services.query.replica.follower import Follower
from shared.domain import Cursor, DocumentBatch, FeedEvent, FeedStream, ProjectId, Reset, ResetReason
from shared.errors import NotFoundError, UnavailableError
from shared.filters import Comparison, Negation, Operator
from shared.resilience.backoff import Backoff
from tests.fakes.feed import ModelFeed, vector_of

P = ProjectId("p")
QUICK = Backoff(initial=0.001, maximum=0.005)
WORDS = ["alpha", "bravo", "charlie", "delta", "echo", "foxtrot", "golf", "hotel"]
EVERYTHING = Negation(Comparison("no such field", Operator.EQUAL, 0))
PATIENCE_SECONDS = 60.0


@asynccontextmanager
async def following(feed: Feed, replica: Replica, backoff: Backoff = QUICK, **settings: Any) -> AsyncIterator[Follower]:  # noqa: ANN401 - of any field
    """A follower at work."""
    follower = Follower(feed, replica, backoff=backoff, **settings)
    task = asyncio.create_task(follower.run())
    try:
        yield follower
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def until(condition: Callable[[], object]) -> None:
    """Waits until a condition holds."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not condition():  # what is waited for lies in threads and files, which set no event
            await asyncio.sleep(0.005)


def caught_up(feed: ModelFeed, replica: Replica) -> bool:
    """The replica has come to the catalog's position in everything."""
    here = {each.project.id: each for each in replica.projects()}
    if set(here) != set(feed.projects):
        return False
    return all(
        here[ProjectId(name)].documents_cursor == Cursor(model.project.epoch, model.head)  # type: ignore[arg-type] # the model counts in int
        and here[ProjectId(name)].vectors_cursor == Cursor(model.project.epoch, model.embedded)  # type: ignore[arg-type] # same
        for name, model in feed.projects.items()
    )


def check(feed: ModelFeed, replica: Replica) -> None:
    """Every way of asking the replica gives what the catalog has."""
    for name, model in feed.projects.items():
        project = ProjectId(name)
        expected = {chunk.id: (document, chunk) for document in model.live.values() for chunk in document.chunks}
        hits = {hit.pk: hit for hit in replica.hydrate(project, replica.allowed(project, EVERYTHING).tolist())}
        assert {(hit.document_id, hit.title, repr(hit.metadata), hit.chunk) for hit in hits.values()} == {
            (document.id, document.title, repr(document.metadata), chunk) for document, chunk in expected.values()
        }
        assert replica.resolve(project, list(expected)) == {hit.chunk.id: pk for pk, hit in hits.items()}
        for word in WORDS:
            found = [hits[hit.pk].chunk.id for hit in replica.keyword(project, word, 1_000)]
            assert sorted(found) == sorted(chunk_id for chunk_id, (document, chunk) in expected.items() if word in f"{document.title}\n{chunk.text}")
        embedded = {chunk.id for number, document in model.documents.values() if document and number <= model.embedded for chunk in document.chunks}
        near = replica.vectors(project, vector_of("alpha"), 1_000) or []
        assert embedded <= {hits[hit.pk].chunk.id for hit in near}
        for hit in near:
            assert hit.score == pytest.approx(float(vector_of("alpha") @ vector_of(hits[hit.pk].chunk.text)), abs=1e-5)


def open_replica(tmp_path: Path, *, vectors_max: int = 10_000) -> Replica:
    """The replica of a test."""
    return Replica.open(tmp_path / "replica", vectors_max=vectors_max)


def text(rng: random.Random) -> str:
    """A few lines of a few words."""
    return "\n".join(" ".join(rng.choices(WORDS, k=2)) for _ in range(rng.randint(1, 3)))


def happen(feed: ModelFeed, rng: random.Random) -> None:
    """One thing happens in the catalog, or between it and the follower."""
    name = rng.choice(["p", "q", "r"])
    if name not in feed.projects:
        feed.create_project(name)
        return
    document = f"doc{rng.randrange(8)}"
    what = rng.randrange(100)
    if what < 60:
        feed.upsert(name, document, text(rng), title=rng.choice(["golf", "hotel"]), metadata={"n": rng.randrange(3)})
    elif what < 75:
        feed.delete(name, document)
    elif what < 85:
        feed.embed(name)
    elif what < 88:
        feed.delete_project(name)
    elif what < 91:
        feed.compact(name)
    elif what < 94:
        feed.restore(name, lose=rng.randrange(6))
    elif what < 97:
        feed.gaps_to_come += 1
    else:
        feed.interrupt()


@pytest.mark.parametrize("seed", range(6))
async def test_reaches_the_catalog_after_any_history(tmp_path: Path, seed: int) -> None:
    """Random writes, deletes, compactions, restores, gaps, interruptions and restarts of the follower end in equality."""
    rng = random.Random(seed)  # repeats a history
    feed, replica = ModelFeed(batch_size=1 + 2 * seed), open_replica(tmp_path)
    for _ in range(5):
        async with following(feed, replica):
            for _ in range(25):
                happen(feed, rng)
                if rng.random() < 0.5:
                    await asyncio.sleep(rng.random() * 0.01)
        if rng.random() < 0.5:
            replica.close()
            replica = open_replica(tmp_path)
    feed.gaps_to_come = 0
    async with following(feed, replica):
        await until(lambda: caught_up(feed, replica))
    check(feed, replica)
    replica.close()


async def test_goes_on_from_the_stored_cursor(tmp_path: Path) -> None:
    """After a restart the feed is asked for what came after, and nothing is fetched twice."""
    feed, replica = ModelFeed(), open_replica(tmp_path)
    feed.create_project(P)
    feed.upsert(P, "one", "alpha")
    feed.embed(P)
    async with following(feed, replica):
        await until(lambda: caught_up(feed, replica))
    replica.close()
    replica = open_replica(tmp_path)
    feed.watched.clear()
    feed.upsert(P, "two", "bravo")
    async with following(feed, replica):
        await until(lambda: caught_up(feed, replica))
    position = Cursor("e1", 1)  # type: ignore[arg-type] # plain int
    assert sorted(feed.watched, key=repr) == sorted([(None, Cursor("list1", 1), None), (P, position, position)], key=repr)  # type: ignore[arg-type] # plain int
    check(feed, replica)
    replica.close()


async def test_a_gap_is_healed_from_the_cursor(tmp_path: Path) -> None:
    """When a batch went missing, the feed is watched again from where the copy is; nothing begins anew."""
    feed, replica = ModelFeed(batch_size=1), open_replica(tmp_path)
    feed.create_project(P)
    feed.upsert(P, "one", "alpha")
    feed.embed(P)
    async with following(feed, replica):
        await until(lambda: caught_up(feed, replica))
        feed.watched.clear()
        feed.gaps_to_come = 1
        for document, line in (("two", "bravo"), ("three", "charlie"), ("four", "delta")):
            feed.upsert(P, document, line)
        feed.embed(P)
        await until(lambda: caught_up(feed, replica))
    assert [documents.sequence for name, documents, _ in feed.watched if name == P and documents] == [1]
    check(feed, replica)
    replica.close()


async def test_a_gap_that_lasts_is_healed_by_a_fresh_copy(tmp_path: Path) -> None:
    """When watching again from the cursor ends in a gap too, everything is fetched from the beginning."""
    feed, replica = ModelFeed(), open_replica(tmp_path)
    feed.create_project(P)
    feed.upsert(P, "one", "alpha")
    feed.embed(P)
    async with following(feed, replica):
        await until(lambda: caught_up(feed, replica))
        feed.watched.clear()
        feed.only_snapshots = True
        feed.interrupt()
        feed.upsert(P, "two", "bravo")
        feed.embed(P)
        await until(lambda: caught_up(feed, replica))
    assert [documents and documents.sequence for name, documents, _ in feed.watched if name == P] == [1, 1, None]
    check(feed, replica)
    replica.close()


async def test_one_project_in_trouble_stops_no_other(tmp_path: Path) -> None:
    """A project whose every event fails is tried again and again while its neighbour is kept up to date."""
    feed, replica = ModelFeed(), open_replica(tmp_path)
    apply = replica.apply_documents
    failures = 0

    def apply_or_fail(project_id: ProjectId, batch: DocumentBatch) -> None:
        nonlocal failures
        if project_id == P:
            failures += 1
            raise RuntimeError("a defect")
        apply(project_id, batch)

    replica.apply_documents = apply_or_fail  # type: ignore[method-assign] # the defect
    feed.create_project("p")
    feed.create_project("q")
    async with following(feed, replica):
        feed.upsert("p", "one", "alpha")
        await until(lambda: failures > 2)
        feed.upsert("q", "two", "bravo")
        await until(lambda: ProjectId("q") in {each.project.id for each in replica.projects()} and replica.keyword(ProjectId("q"), "bravo", 1))
        replica.apply_documents = apply  # type: ignore[method-assign] # the defect is mended
        feed.embed("p")
        feed.embed("q")
        await until(lambda: caught_up(feed, replica))
    check(feed, replica)
    replica.close()


async def test_a_deleted_project_goes_and_a_new_one_of_its_name_comes(tmp_path: Path) -> None:
    """The end of a project drops its copy; created again, it has the new content alone. A reset of the list drops nothing that is still there."""
    feed, replica = ModelFeed(), open_replica(tmp_path)
    for name in ("p", "q"):
        feed.create_project(name)
        feed.upsert(name, "one", "alpha")
    async with following(feed, replica) as follower:
        await until(lambda: len(replica.projects()) == 2 and replica.keyword(P, "alpha", 1))
        feed.delete_project("p")
        await until(lambda: [each.project.id for each in replica.projects()] == ["q"])
        assert set(follower.streams()) == {"q"}
        with pytest.raises(NotFoundError):
            replica.keyword(P, "alpha", 1)
        feed.create_project("p")
        feed.upsert("p", "two", "bravo")
        await until(lambda: len(replica.projects()) == 2 and replica.keyword(P, "bravo", 1))
        assert replica.keyword(P, "alpha", 1) == []
    feed.delete_project("q")
    feed.restore("p", lose=0)
    async with following(feed, replica):
        await until(lambda: caught_up(feed, replica))
    check(feed, replica)
    replica.close()


async def test_says_how_it_is_doing(tmp_path: Path) -> None:
    """Connected or not and since when; stale when nothing was heard for too long; going on by itself when the feed is back."""
    feed, replica = ModelFeed(), open_replica(tmp_path)
    feed.create_project(P)
    feed.upsert(P, "one", "alpha")
    async with following(feed, replica, stale_after=0.05) as follower:
        await until(lambda: follower.connected and P in follower.streams() and follower.streams()[P].connected)
        connected_since, heard = follower.since, follower.last_contact
        assert heard is not None
        feed.down = True
        feed.interrupt()
        await until(lambda: not follower.connected and not follower.streams()[P].connected)
        assert follower.since >= connected_since
        await until(follower.stale_since)
        assert (follower.stale_since() or 0.0) >= connected_since
        assert follower.stale_since(P) is not None
        feed.down = False
        await until(lambda: follower.connected and follower.stale_since() is None)
    replica.close()


async def test_vectors_are_not_asked_for_when_they_would_not_be_kept(tmp_path: Path) -> None:
    """With vectors switched off only documents are fetched."""
    feed, replica = ModelFeed(), open_replica(tmp_path, vectors_max=0)
    feed.create_project(P)
    feed.upsert(P, "one", "alpha")
    feed.embed(P)
    async with following(feed, replica):
        await until(lambda: replica.projects() and replica.project(P).vector_sequence == 1)
    assert replica.project(P).vectors_cursor is None
    assert replica.counts(P).vectors == 0
    assert replica.keyword(P, "alpha", 1)
    replica.close()


async def test_changes_that_cannot_be_applied_are_no_sign_of_life(tmp_path: Path) -> None:
    """The indexer is heard, but what it tells does not come through: the copy counts as silent since the last change that did."""
    broken, attempts = False, 0

    def step(name: str) -> None:
        nonlocal attempts
        if broken and name == "documents stored":
            attempts += 1
            raise UnavailableError("the disk is gone", component="database")

    feed, replica = ModelFeed(), Replica.open(tmp_path / "replica", vectors_max=0, step=step)
    feed.create_project(P)
    feed.upsert(P, "one", "alpha")
    async with following(feed, replica) as follower:
        await until(lambda: P in {each.project.id for each in replica.projects()} and replica.project(P).head and replica.project(P).lag == 0)
        await until(lambda: follower.streams()[P].connected)
        broken = True
        feed.upsert(P, "two", "beta")
        await until(lambda: attempts >= 1)
        heard = follower.streams()[P].last_contact
        await until(lambda: attempts >= 4)
        assert follower.streams()[P].last_contact == heard
        broken = False
        await until(lambda: replica.project(P).lag == 0 and follower.streams()[P].last_contact != heard)
    replica.close()


async def test_a_stream_from_the_beginning_begins_with_a_reset(tmp_path: Path) -> None:
    """A copy that was interrupted in its first batch holds what may be gone by now: without a reset, nothing is taken from a stream."""
    feed = ModelFeed()
    interrupted = False

    def step(name: str) -> None:
        nonlocal interrupted
        if name == "documents stored" and not interrupted:
            interrupted = True
            feed.delete(P, "one")
            feed.compact(P)
            feed.resets_to_lose = 1
            raise UnavailableError("the disk is gone for a moment", component="database")

    replica = Replica.open(tmp_path / "replica", vectors_max=100, step=step)
    feed.create_project(P)
    feed.upsert(P, "one", "alpha")
    feed.upsert(P, "two", "bravo")
    async with following(feed, replica):
        await until(lambda: interrupted)
        feed.embed(P)
        await until(lambda: caught_up(feed, replica))
    check(feed, replica)
    replica.close()


class FailingBehindResets(ModelFeed):
    """A feed whose streams end right after their reset, as if the first document could not be read.

    Attributes:
        stream: which reset there is; None when all is well.
        attempts: when such a stream was asked for, on the monotonic clock.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stream: FeedStream | None = None
        self.attempts: list[float] = []

    async def watch_project(
        self, project_id: ProjectId, documents: Cursor | None, vectors: Cursor | None, *, include_vectors: bool
    ) -> AsyncGenerator[FeedEvent, None]:
        """See Feed."""
        if self.stream is None:
            async for event in super().watch_project(project_id, documents, vectors, include_vectors=include_vectors):
                yield event
            return
        self.attempts.append(time.monotonic())
        yield Reset(ResetReason.NO_CURSOR, self.stream, self.projects[project_id].project.epoch)
        raise UnavailableError("the document cannot be read", component="database")


@pytest.mark.parametrize("stream", [FeedStream.DOCUMENTS, FeedStream.VECTORS])
async def test_a_stream_that_never_gets_beyond_its_reset_brings_nothing(tmp_path: Path, stream: FeedStream) -> None:
    """It is tried again less and less often, and the copy is stale once the time is over, until changes come through again."""
    feed, replica = FailingBehindResets(), open_replica(tmp_path)
    feed.create_project(P)
    feed.upsert(P, "one", "alpha")
    feed.embed(P)

    def stale() -> bool:
        """The project is, and it alone."""
        feed.embed(P)  # wakes the streams that are open: each sends a heartbeat
        return follower.stale_since() is None and follower.stale_since(P) is not None

    async with following(feed, replica, backoff=Backoff(initial=0.02, maximum=0.4), stale_after=0.25) as follower:
        await until(lambda: caught_up(feed, replica))
        feed.stream = stream
        feed.interrupt()
        await until(lambda: feed.attempts)
        heard = follower.streams()[P].last_contact
        await until(lambda: len(feed.attempts) >= 6)
        assert follower.streams()[P].last_contact == heard
        waits = [later - earlier for earlier, later in pairwise(feed.attempts)]
        assert waits[4] > 4 * 0.02, "the sixth attempt comes as soon as the second"
        await until(stale)
        feed.stream = None
        await until(lambda: caught_up(feed, replica) and not stale() and follower.stale_since(P) is None)
    check(feed, replica)
    replica.close()


class ListFailingBehindResets(ModelFeed):
    """A feed whose list of projects ends right after its reset while `failing`."""

    failing = False

    async def watch_project_list(self, cursor: Cursor | None) -> AsyncGenerator[FeedEvent, None]:
        """See Feed."""
        if self.failing:
            yield Reset(ResetReason.NO_CURSOR, FeedStream.PROJECTS, "another list")
            raise UnavailableError("the list cannot be read", component="database")
        async for event in super().watch_project_list(cursor):
            yield event


async def test_a_list_that_never_gets_beyond_its_reset_is_not_heard(tmp_path: Path) -> None:
    """Projects that were created or deleted meanwhile do not come through, so everything here may be stale."""
    feed, replica = ListFailingBehindResets(), open_replica(tmp_path)
    feed.create_project(P)
    async with following(feed, replica, stale_after=0.2) as follower:
        await until(lambda: replica.projects() and follower.connected)
        feed.failing = True
        feed.interrupt()
        await until(lambda: follower.stale_since() is not None)
        assert not follower.connected
        feed.failing = False
        await until(lambda: follower.connected)
    replica.close()

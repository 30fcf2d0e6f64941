"""While a project is being copied anew it is there all the time, and searches of it say that something may be missing."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path

from services.query.replica import Replica
from shared.domain import Cursor, FeedStream, Heartbeat, Reset, ResetReason, SequenceNumber, VectorSequence
from shared.search import DegradationReason, SearchMode
from tests.fakes.feed import TIME, make_batch, make_document, make_project
from tests.fixtures.world import P, World, ids, open_world
from tests.waiting import eventually

NO_CURSOR = Reset(ResetReason.NO_CURSOR, FeedStream.DOCUMENTS, "e2")


def beat(head: int, epoch: str = "e2") -> Heartbeat:
    """A heartbeat of the project's feed."""
    return Heartbeat(epoch, SequenceNumber(head), VectorSequence(head), TIME)


def filled(folder: Path, step: Callable[[str], None] = lambda _name: None) -> Replica:
    """A replica with a project of two documents."""
    replica = Replica.open(folder, vectors_max=10, step=step)
    replica.put_project(make_project("docs", head=2))
    replica.apply_reset(P, Reset(ResetReason.NO_CURSOR, FeedStream.DOCUMENTS, "e1"))
    replica.apply_documents(P, make_batch(0, make_document("a", "alpha"), make_document("b", "beta")))
    return replica


def test_a_project_that_nobody_has_written_to_lacks_nothing(tmp_path: Path) -> None:
    """Created a moment ago: its first copy is empty, and whole."""
    replica = Replica.open(tmp_path, vectors_max=10)
    replica.put_project(make_project("docs"))
    assert not replica.project(P).copying
    replica.apply_reset(P, Reset(ResetReason.NO_CURSOR, FeedStream.DOCUMENTS, "e1"))
    assert not replica.project(P).copying
    replica.close()


def test_a_first_copy_is_being_made_until_it_has_come_to_where_the_feed_was(tmp_path: Path) -> None:
    """Not until it has come to where the feed is by then: a project that is written to all the time would never be whole."""
    replica = Replica.open(tmp_path, vectors_max=10)
    replica.put_project(make_project("docs", head=3))
    assert replica.project(P).copying
    replica.apply_reset(P, Reset(ResetReason.NO_CURSOR, FeedStream.DOCUMENTS, "e1"))
    replica.apply_documents(P, make_batch(0, make_document("a", "alpha"), head=3))
    assert replica.project(P).copying
    replica.apply_heartbeat(P, beat(1_000, "e1"))
    replica.apply_documents(P, make_batch(1, make_document("b", "beta"), make_document("c", "gamma"), head=1_000))
    assert not replica.project(P).copying
    replica.close()


def test_ordinary_changes_are_no_copy(tmp_path: Path) -> None:
    """A copy that is behind by some changes has all that it had."""
    replica = filled(tmp_path)
    assert not replica.project(P).copying
    replica.apply_heartbeat(P, beat(50, "e1"))
    assert replica.project(P).lag == 48
    assert not replica.project(P).copying
    replica.close()


def test_a_restored_project_takes_the_place_of_the_old_one_without_being_absent(tmp_path: Path) -> None:
    """At each step of the change there is such a project; from the first one on it is the new one, which is being copied."""
    steps: list[str] = []
    seen: list[tuple[str, bool]] = []

    def look(name: str) -> None:
        if name.startswith("project"):
            project = replica.project(P)
            steps.append(name)
            seen.append((project.project.epoch, project.copying))

    replica = filled(tmp_path, look)
    assert replica.put_project(make_project("docs", epoch="e2", head=1))
    assert steps == ["project replaced", "project dropped"]
    assert [epoch for epoch, _ in seen] == ["e1", "e2"]
    assert replica.project(P).copying
    assert replica.keyword(P, "alpha", 10) == []
    replica.apply_reset(P, NO_CURSOR)
    replica.apply_documents(P, make_batch(0, make_document("z", "alpha"), epoch="e2"))
    assert not replica.project(P).copying
    assert len(replica.keyword(P, "alpha", 10)) == 1
    replica.close()


def test_a_crash_between_the_two_leaves_the_new_one_alone(tmp_path: Path) -> None:
    """The old one is removed when the replica is opened again; nothing of it is found."""

    def look(name: str) -> None:
        if name == "project replaced":
            shutil.copytree(tmp_path / "replica", tmp_path / "crashed")

    replica = filled(tmp_path / "replica", look)
    replica.put_project(make_project("docs", epoch="e2", head=1))
    replica.close()

    again = Replica.open(tmp_path / "crashed", vectors_max=10)
    (project,) = again.projects()
    assert (project.project.epoch, project.documents_cursor, project.copying) == ("e2", None, True)
    assert again.keyword(P, "alpha beta", 10) == []
    assert (again.totals().documents, again.totals().chunks) == (0, 0)
    again.apply_reset(P, NO_CURSOR)
    again.apply_documents(P, make_batch(0, make_document("z", "alpha"), epoch="e2"))
    assert len(again.keyword(P, "alpha", 10)) == 1
    again.close()


def test_a_copy_that_begins_twice_is_still_being_made(tmp_path: Path) -> None:
    """The stream broke off right behind its reset; the project was created while the replica ran, so the list told of no changes."""
    replica = Replica.open(tmp_path, vectors_max=10)
    replica.put_project(make_project("docs"))
    reset = Reset(ResetReason.NO_CURSOR, FeedStream.DOCUMENTS, "e1")
    replica.apply_reset(P, reset)
    replica.apply_documents(P, make_batch(0, make_document("a", "alpha"), make_document("b", "beta")))
    for _ in range(2):
        replica.apply_reset(P, reset)
        assert replica.project(P).copying
    replica.close()
    again = Replica.open(tmp_path, vectors_max=10)
    assert again.project(P).copying
    again.apply_documents(P, make_batch(0, make_document("a", "alpha"), head=2))
    assert again.project(P).copying
    again.apply_documents(P, make_batch(1, make_document("b", "beta")))
    assert not again.project(P).copying
    again.close()


def test_a_replica_that_ended_in_the_middle_of_a_copy_knows_it(tmp_path: Path) -> None:
    """It goes on where it was, and says until then that something is missing."""
    replica = Replica.open(tmp_path, vectors_max=10)
    replica.put_project(make_project("docs", head=3))
    replica.apply_reset(P, Reset(ResetReason.NO_CURSOR, FeedStream.DOCUMENTS, "e1"))
    replica.apply_documents(P, make_batch(0, make_document("a", "alpha"), head=3))
    replica.close()
    again = Replica.open(tmp_path, vectors_max=10)
    assert again.project(P).copying
    again.apply_documents(P, make_batch(1, make_document("b", "beta"), make_document("c", "gamma"), head=3))
    assert not again.project(P).copying
    again.close()


async def copy_begins(world: World) -> None:
    """The catalog was restored: the project has another epoch, and its copy begins anew."""
    world.replica.put_project(make_project("docs", epoch="e2", head=4))
    world.replica.apply_reset(P, NO_CURSOR)
    world.replica.apply_documents(P, make_batch(0, make_document("d0", "alpha text"), epoch="e2", head=4))


async def test_searches_of_a_project_that_is_being_copied_say_so(tmp_path: Path) -> None:
    """Whatever the mode, with what has come so far; and no more once all is there."""
    async with open_world(tmp_path) as world:
        await copy_begins(world)
        answer = await world.ask("alpha", mode=SearchMode.KEYWORD)
        assert ids(answer) == ["d0"]
        (degradation,) = answer.degradations
        assert (degradation.reason, degradation.component) == (DegradationReason.REPLICA_STALE, "replica")
        rest = [make_document(f"d{number}", f"beta text {number}") for number in (1, 2, 3)]
        world.replica.apply_documents(P, make_batch(1, *rest, epoch="e2"))
        assert (await world.ask("alpha", mode=SearchMode.KEYWORD)).degradations == ()


async def test_a_search_with_a_token_waits_until_the_copy_is_whole(tmp_path: Path) -> None:
    """The token's document may have been written again since: then it comes with its last change, behind others that are older."""
    async with open_world(tmp_path) as world:
        await copy_begins(world)
        search = asyncio.create_task(world.ask("gamma", mode=SearchMode.KEYWORD, fresh_as=Cursor("e2", SequenceNumber(1)), seconds=10.0))
        await asyncio.wait({search}, timeout=0.05)
        assert not search.done()
        rest = [make_document(f"d{number}", f"gamma text {number}") for number in (1, 2, 3)]
        world.replica.apply_documents(P, make_batch(1, *rest, epoch="e2"))
        answer = await search
        assert len(answer.hits) == 3
        assert answer.degradations == ()


async def test_a_search_with_a_token_that_the_copy_is_too_slow_for_says_so(tmp_path: Path) -> None:
    """And leaves itself the time to answer."""
    async with open_world(tmp_path) as world:
        await copy_begins(world)
        answer = await world.ask("alpha", mode=SearchMode.KEYWORD, fresh_as=Cursor("e2", SequenceNumber(1)), seconds=0.5)
        assert ids(answer) == ["d0"]
        assert {(each.reason, each.component) for each in answer.degradations} == {(DegradationReason.REPLICA_STALE, "replica")}


async def test_what_was_found_in_half_a_copy_is_not_kept_as_a_good_answer(tmp_path: Path) -> None:
    """When vectors cannot be searched later, it is not what stands in."""
    async with open_world(tmp_path, vectors_max=0) as world:
        await copy_begins(world)
        await world.store.ensure_collection(make_project("docs", epoch="e2").collection, timeout=1)
        await world.ask("alpha")
        world.store.fail()
        answer = await world.ask("alpha")
        assert not answer.served_from_cache


async def test_a_search_during_which_the_project_is_dropped_says_so(tmp_path: Path) -> None:
    """It began while all was there, and found what was left; also if it has waited for a write before."""
    async with open_world(tmp_path) as world:
        world.embedder.hang = True
        searches = [asyncio.create_task(world.ask("alpha", seconds=5.0, fresh_as=token)) for token in (None, Cursor("e1", SequenceNumber(4)))]

        async def embedding() -> int:
            return len(world.embedder.calls)

        await eventually(embedding, lambda calls: calls == len(searches))
        world.replica.apply_reset(P, Reset(ResetReason.COMPACTED, FeedStream.DOCUMENTS, "e1"))
        world.replica.apply_documents(P, make_batch(0, make_document("d0", "alpha text")))
        assert not world.replica.project(P).copying, "the copy is whole again, and was not in between"
        for search in searches:
            reasons = {(each.reason, each.component) for each in (await search).degradations}
            assert (DegradationReason.REPLICA_STALE, "replica") in reasons

"""Waiting for a position, and joining what waits."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator
from contextlib import aclosing

from services.query.replica.batching import MAX_CHANGES, in_groups, join_documents
from services.query.replica.waiter import Waiter
from shared.domain import Cursor, DocumentBatch, FeedEvent, Heartbeat, ProjectId, SequenceNumber, VectorSequence
from shared.errors import UnavailableError
from shared.resilience.backoff import Backoff
from tests.fakes.feed import TIME, make_batch, make_document

P = ProjectId("p")
BEAT = Heartbeat("e1", SequenceNumber(9), VectorSequence(0), TIME)


def at(sequence: int) -> Cursor:
    """A position in epoch e1."""
    return Cursor("e1", SequenceNumber(sequence))


async def test_a_position_that_is_reached_answers_at_once_and_another_after_its_time() -> None:
    """No waiting for the past; False for a future that does not come."""
    waiter = Waiter(lambda _: at(5))
    assert await waiter.wait_for(P, at(5), 0.0)
    assert not await waiter.wait_for(P, at(6), 0.01)


async def test_a_position_of_another_epoch_is_not_reached() -> None:
    """Sequences of different epochs cannot be compared."""
    waiter = Waiter(lambda _: at(5))
    assert not await waiter.wait_for(P, Cursor("e2", SequenceNumber(1)), 0.01)


async def test_a_thread_wakes_those_whose_position_has_come_and_nobody_else() -> None:
    """A notice from another thread ends the right waits."""
    position = {P: 0}
    waiter = Waiter(lambda project: at(position[project]) if project in position else None)
    asyncio.get_running_loop().set_debug(True)  # refuses what is not allowed from another thread
    near, far = (asyncio.create_task(waiter.wait_for(P, at(sequence), 10)) for sequence in (3, 4))
    other = asyncio.create_task(waiter.wait_for(ProjectId("unknown"), at(0), 10))
    await asyncio.sleep(0)

    def move() -> None:
        position[P] = 3
        waiter.notify(P)

    threading.Thread(target=move).start()
    assert await near
    assert not far.done()
    assert not other.done()
    position[P] = 4
    waiter.notify(P)
    assert await far
    other.cancel()


async def test_no_notice_is_lost_between_many_threads_and_waiters() -> None:
    """Waits that begin while the position moves all end."""
    position = [0]
    waiter = Waiter(lambda _: at(position[0]))

    def count() -> None:
        for number in range(1, 501):
            position[0] = number
            waiter.notify(P)

    thread = threading.Thread(target=count)
    waits = [asyncio.create_task(waiter.wait_for(P, at(sequence), 30)) for sequence in range(0, 501, 5)]
    thread.start()
    assert all(await asyncio.gather(*waits))
    thread.join()


def test_neighbouring_batches_become_one() -> None:
    """Ranges that join are joined in order; heartbeats, gaps and the bound separate."""
    one, two, three = make_document("a", "x"), make_document("b", "y"), make_document("c", "z")
    joined = join_documents([make_batch(0, one), make_batch(1, two, "a"), BEAT, make_batch(3, three), make_batch(7, three)])
    assert [(each.range.start, each.range.end) if isinstance(each, DocumentBatch) else None for each in joined] == [(0, 3), None, (3, 4), (7, 8)]
    first = joined[0]
    assert isinstance(first, DocumentBatch)
    assert [change.document_id for change in first.changes] == ["a", "b", "a"]
    large = [make_batch(start, *(["x"] * MAX_CHANGES)) for start in (0, MAX_CHANGES)]
    assert len(join_documents(list(large))) == 2


async def test_what_arrives_meanwhile_comes_together_and_the_error_last() -> None:
    """Groups hold everything that was sent before the failure, in order, and reading ahead is bounded."""
    produced = 0

    async def events() -> AsyncGenerator[FeedEvent, None]:
        nonlocal produced
        for start in range(10):
            produced += 1
            yield make_batch(start, "x")
        raise UnavailableError("gone", component="change_feed")

    got: list[FeedEvent] = []
    failure = None
    try:
        async with aclosing(in_groups(events(), 4)) as groups:
            async for group in groups:
                assert produced <= len(got) + len(group) + 5
                got += group
                for _ in range(20):  # gives the reader its turns
                    await asyncio.sleep(0)
    except UnavailableError as error:
        failure = error
    assert list(range(10)) == [each.range.start for each in got if isinstance(each, DocumentBatch)]
    assert failure is not None


def test_waits_grow_up_to_the_maximum() -> None:
    """Each wait lies in the upper half of its bound, which doubles."""
    backoff = Backoff(initial=1.0, maximum=5.0)
    for failures, longest in ((1, 1.0), (2, 2.0), (3, 4.0), (4, 5.0), (10_000, 5.0)):
        assert all(longest / 2 <= backoff.seconds(failures) <= longest for _ in range(20))

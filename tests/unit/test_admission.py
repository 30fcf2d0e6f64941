"""Admission: who is let in, who waits, who is refused, and whose place is whose."""

from __future__ import annotations

import asyncio

import pytest

from shared.errors import ResourceExhaustedError
from shared.resilience.admission import OVERLOADED, Admission, Limit, idle

SOON = 5.0


async def in_turn() -> None:
    """Lets every task that can go on do so."""
    for _ in range(5):
        await asyncio.sleep(0)


class Requests:
    """Requests that work until they are told to end."""

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self.working: list[str] = []
        self.refused: list[str] = []
        self._ends: dict[str, asyncio.Event] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def send(self, *names: str) -> None:
        """Each arrives, and works or waits when this returns."""
        for name in names:
            self._ends[name] = asyncio.Event()
            self._tasks[name] = asyncio.create_task(self._serve(name))
        await in_turn()

    async def _serve(self, name: str) -> None:
        try:
            ticket = await self._admission.enter()
        except ResourceExhaustedError:
            self.refused.append(name)
            return
        with ticket.held():
            self.working.append(name)
            await self._ends[name].wait()
            self.working.remove(name)

    async def end(self, name: str) -> None:
        """The request is done."""
        self._ends[name].set()
        await in_turn()

    async def cancel(self, name: str) -> None:
        """The client goes away."""
        self._tasks[name].cancel()
        await in_turn()


async def test_as_many_as_allowed_work_the_next_wait_and_the_rest_is_refused() -> None:
    """Two places, a queue of one."""
    admission = Admission(Limit(concurrency=2, queue=1, patience=SOON))
    requests = Requests(admission)
    await requests.send("a", "b", "c", "d")
    assert (requests.working, requests.refused, admission.waiting) == (["a", "b"], ["d"], 1)


async def test_a_refusal_says_why_and_when_to_come_back() -> None:
    """RESOURCE_EXHAUSTED, and not at the same moment for all."""
    admission = Admission(Limit(concurrency=1, queue=0, patience=SOON))
    ticket = await admission.enter()
    waits = set()
    for _ in range(10):
        with pytest.raises(ResourceExhaustedError) as refused:
            await admission.enter()
        assert refused.value.reason == OVERLOADED
        waits.add(refused.value.retry_after)
    assert len(waits) > 1
    assert all(0.5 <= wait <= 1.5 for wait in waits)
    ticket.close()
    (await admission.enter()).close()


async def test_those_who_wait_are_let_in_in_the_order_in_which_they_came() -> None:
    """One place; each end lets the next in."""
    requests = Requests(Admission(Limit(concurrency=1, queue=5, patience=SOON)))
    await requests.send("a", "b", "c")
    await requests.end("a")
    assert requests.working == ["b"]
    await requests.end("b")
    assert requests.working == ["c"]


async def test_nobody_overtakes_those_who_wait() -> None:
    """A place that becomes free is not for a newcomer."""
    requests = Requests(Admission(Limit(concurrency=1, queue=1, patience=SOON)))
    await requests.send("a", "b")
    await requests.end("a")
    await requests.send("c")
    assert requests.working == ["b"]


async def test_who_waits_too_long_is_refused_and_leaves_no_trace() -> None:
    """The patience is over before there is a place."""
    admission = Admission(Limit(concurrency=1, queue=1, patience=0.01))
    ticket = await admission.enter()
    with pytest.raises(ResourceExhaustedError):
        await admission.enter()
    assert admission.waiting == 0
    ticket.close()
    assert admission.admitted == 0
    (await admission.enter()).close()


async def test_a_client_that_goes_away_while_waiting_holds_no_place() -> None:
    """Neither in the queue nor afterwards."""
    admission = Admission(Limit(concurrency=1, queue=2, patience=SOON))
    requests = Requests(admission)
    await requests.send("a", "b", "c")
    await requests.cancel("b")
    assert admission.waiting == 1
    await requests.end("a")
    assert requests.working == ["c"]


async def test_a_client_that_goes_away_the_moment_it_is_let_in_gives_its_place_back() -> None:
    """Let in and cancelled in the same turn of the loop."""
    admission = Admission(Limit(concurrency=1, queue=1, patience=SOON))
    ticket = await admission.enter()
    waiting = asyncio.create_task(admission.enter())
    await in_turn()
    ticket.close()
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    async with asyncio.timeout(SOON):
        (await admission.enter()).close()


async def test_an_idle_request_lends_its_place_and_works_on_when_it_is_back() -> None:
    """While a waits for somebody else, b works; a does not queue a second time."""
    admission = Admission(Limit(concurrency=1, queue=1, patience=SOON, yields=True))
    requests = Requests(admission)
    ticket = await admission.enter()
    with ticket.held():
        await requests.send("b")
        assert requests.working == []
        with idle():
            await in_turn()
            assert requests.working == ["b"]
        assert admission.admitted == 2
        await requests.send("c")
        await requests.end("b")
        assert requests.working == [], "a still works, in the only place"
    await in_turn()
    assert requests.working == ["c"]


async def test_a_limit_that_does_not_yield_keeps_its_places() -> None:
    """A batch is at work as long as it runs."""
    admission = Admission(Limit(concurrency=1, queue=0, patience=SOON))
    ticket = await admission.enter()
    with ticket.held(), idle(), pytest.raises(ResourceExhaustedError):
        await admission.enter()


async def test_parts_that_are_idle_at_the_same_time_are_one_place() -> None:
    """The first gives it away, the last takes it back."""
    admission = Admission(Limit(concurrency=1, queue=0, patience=SOON, yields=True))
    ticket = await admission.enter()
    with ticket.held(), idle():
        with idle():
            other = await admission.enter()
            with pytest.raises(ResourceExhaustedError):
                await admission.enter()
        with pytest.raises(ResourceExhaustedError):
            await admission.enter()
        other.close()


async def test_a_part_that_outlives_its_request_takes_no_place() -> None:
    """Others wait for the same computation, whose first caller has gone."""
    admission = Admission(Limit(concurrency=1, queue=0, patience=SOON, yields=True))
    ticket = await admission.enter()
    back = asyncio.Event()

    async def part() -> None:
        with idle():
            await back.wait()

    with ticket.held():
        task = asyncio.create_task(part())
        await in_turn()
    back.set()
    await task
    assert admission.admitted == 0
    other = await admission.enter()
    with pytest.raises(ResourceExhaustedError):
        await admission.enter()
    other.close()


async def test_idle_requests_are_bounded_too() -> None:
    """Whatever hangs, memory does not grow without an end."""
    admission = Admission(Limit(concurrency=1, queue=0, patience=SOON, yields=True))
    let_in = 0
    waiting = []

    async def hang() -> None:
        nonlocal let_in
        ticket = await admission.enter()
        let_in += 1
        with ticket.held(), idle():
            await asyncio.Event().wait()

    for _ in range(100):
        waiting.append(asyncio.create_task(hang()))
        await in_turn()
    assert let_in == 32
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    assert admission.admitted == 0


async def test_outside_of_a_request_idle_does_nothing() -> None:
    """Background work uses the same code."""
    with idle():
        pass

"""Single flight: what identical calls share, and what they do not."""

from __future__ import annotations

import asyncio
import contextvars
import random
import traceback
from collections import defaultdict
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from services.query.application.flights import Flights
from shared.errors import UnavailableError
from shared.observability import metrics

_variable: contextvars.ContextVar[str] = contextvars.ContextVar("_variable", default="unset")


@dataclass
class Computation:
    """Something that takes until `release` is set."""

    value: str = "value"
    error: Exception | None = None
    started: int = 0
    cancelled: int = 0
    running: asyncio.Event = field(default_factory=asyncio.Event)
    release: asyncio.Event = field(default_factory=asyncio.Event)

    async def make(self) -> str:
        """Waits, then returns the value or fails."""
        self.started += 1
        self.running.set()
        try:
            await self.release.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.error:
            raise self.error
        return self.value


def _shared() -> float:
    """Searches that were counted as shared."""
    return metrics.REGISTRY.get_sample_value("kb_searches_shared_total") or 0.0


async def _callers(flights: Flights[str, str], computation: Computation, count: int) -> list[asyncio.Task[tuple[str, bool]]]:
    """So many calls with the same key that all wait."""
    tasks = [asyncio.create_task(flights.run("key", computation.make)) for _ in range(count)]
    await computation.running.wait()
    return tasks


async def test_identical_calls_share_one_computation_and_are_counted() -> None:
    """Three callers get the value of one computation; the two that joined it know that, and the metric counts them."""
    flights, computation = Flights[str, str](), Computation()
    before = _shared()
    tasks = await _callers(flights, computation, 3)
    computation.release.set()
    assert await asyncio.gather(*tasks) == [("value", False), ("value", True), ("value", True)]
    assert computation.started == 1
    assert _shared() - before == 2
    assert len(flights) == 0


async def test_calls_with_other_keys_and_later_calls_compute_for_themselves() -> None:
    """Only what is under way is shared: another key is another computation, and nothing is kept of one that has ended."""
    flights, computation = Flights[str, str](), Computation()
    computation.release.set()
    both = await asyncio.gather(flights.run("a", computation.make), flights.run("b", computation.make))
    later = await flights.run("a", computation.make)
    assert [*both, later] == [("value", False)] * 3
    assert computation.started == 3


async def test_a_cancelled_caller_leaves_the_others_alone() -> None:
    """The first caller, whose call began the computation, gives up: the second still gets the value."""
    flights, computation = Flights[str, str](), Computation()
    first, second = await _callers(flights, computation, 2)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    computation.release.set()
    assert await second == ("value", True)
    assert (computation.started, computation.cancelled) == (1, 0)


async def test_the_computation_ends_when_its_last_caller_leaves() -> None:
    """Nobody waits, so nothing is computed any more."""
    flights, computation = Flights[str, str](), Computation()
    tasks = await _callers(flights, computation, 2)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await asyncio.sleep(0)  # the computation notices
    assert computation.cancelled == 1
    assert len(flights) == 0


async def test_a_call_that_comes_after_the_last_has_left_begins_anew() -> None:
    """It does not join the computation that is being cancelled, even while that has not noticed yet."""
    flights, given_up, computation = Flights[str, str](), Computation(), Computation("new")
    (first,) = await _callers(flights, given_up, 1)
    first.cancel()
    await asyncio.sleep(0)  # the caller leaves in this round, its computation is told in the next
    assert given_up.cancelled == 0
    computation.release.set()
    assert await flights.run("key", computation.make) == ("new", False)
    assert given_up.cancelled == 1


async def test_a_computation_that_has_ended_is_not_joined() -> None:
    """A call that comes after the end computes for itself, even if its callers have yet to be told: a storm of calls keeps no value alive."""
    flights = Flights[str, int]()
    calls: list[asyncio.Task[tuple[int, bool]]] = []

    async def make() -> int:
        if len(calls) < 3:  # this call runs after the end of this computation, before its caller goes on
            calls.append(asyncio.create_task(flights.run("key", make)))
        return len(calls)

    assert await flights.run("key", make) == (1, False)
    assert [await call for call in calls] == [(2, False), (3, False), (3, False)]


async def test_every_caller_gets_an_exception_of_its_own() -> None:
    """Type, fields, cause and origin are those of the original, and no traceback shows another caller's way."""
    cause = OSError("the disk")
    error = UnavailableError("gone", component="replica", retry_after=7.0, reason="WHY")
    error.__cause__ = cause
    flights, computation = Flights[str, str](), Computation(error=error)
    tasks = await _callers(flights, computation, 3)
    computation.release.set()
    raised = [failure for failure in await asyncio.gather(*tasks, return_exceptions=True) if isinstance(failure, UnavailableError)]
    assert len({id(failure) for failure in raised}) == 3
    for failure in raised:
        assert (failure.message, failure.component, failure.retry_after, failure.reason) == ("gone", "replica", 7.0, "WHY")
        assert (str(failure), failure.__cause__) == ("gone", cause)
        names = [frame.name for frame in traceback.extract_tb(failure.__traceback__)]
        assert (names.count("run"), names[-1]) == (1, "make")


async def test_the_computation_sees_the_context_of_its_first_caller() -> None:
    """Its spans and log lines belong to the request that began it."""
    flights = Flights[str, str]()

    async def make() -> str:
        return _variable.get()

    _variable.set("request 7")
    assert await flights.run("key", make) == ("request 7", False)


async def test_a_failure_that_nobody_waits_for_is_not_reported_to_the_event_loop() -> None:
    """A computation that fails while it is cancelled has no caller that would miss its result."""
    flights, reports = Flights[str, str](), list[object]()
    running, ended = asyncio.Event(), asyncio.Event()
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reports.append(context))

    async def make() -> str:
        running.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
            raise ValueError("while cleaning up")

    caller = asyncio.create_task(flights.run("key", make))
    await running.wait()
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    await ended.wait()
    await asyncio.sleep(0)  # the task ends, and its callbacks run
    await asyncio.sleep(0)
    assert reports == []


@dataclass(frozen=True)
class Plan:
    """A caller: its key, when it comes, when it gives up (None: never), how long its computation would take, and whether that fails; in rounds."""

    key: int
    start: int
    patience: int | None
    work: int
    fails: bool


async def _play(plans: list[Plan]) -> None:
    """Runs the callers and checks what each gets, and that nothing is left."""
    flights = Flights[int, int]()
    under_way: dict[int, set[asyncio.Task[Any]]] = defaultdict(set)

    def computation(plan: Plan) -> Callable[[], Coroutine[Any, Any, int]]:
        async def make() -> int:
            task = asyncio.current_task()
            assert task is not None
            assert all(other.cancelling() for other in under_way[plan.key]), "two computations of one key at once"
            under_way[plan.key].add(task)
            try:
                for _ in range(plan.work):
                    await asyncio.sleep(0)
                if plan.fails:
                    raise UnavailableError(str(plan.key), component="test")
                return plan.key
            finally:
                under_way[plan.key].discard(task)

        return make

    async def call(plan: Plan) -> str:
        for _ in range(plan.start):
            await asyncio.sleep(0)
        task = asyncio.create_task(flights.run(plan.key, computation(plan)))
        for _ in range(plan.patience or 0):
            await asyncio.sleep(0)
        if plan.patience is not None:
            task.cancel()
        try:
            value, _ = await task
        except UnavailableError as error:
            return error.message
        except asyncio.CancelledError:
            return "cancelled"
        return str(value)

    async with asyncio.timeout(30):
        outcomes = await asyncio.gather(*map(call, plans))
    for plan, outcome in zip(plans, outcomes, strict=True):
        assert outcome == str(plan.key) or (outcome == "cancelled" and plan.patience is not None)
    for _ in range(3):  # cancelled computations notice in the next round
        await asyncio.sleep(0)
    assert len(flights) == 0
    assert not any(under_way.values())
    assert len(asyncio.all_tasks()) == 1


_PLAN = st.builds(
    Plan,
    key=st.integers(0, 2),
    start=st.integers(0, 6),
    patience=st.none() | st.integers(0, 8),
    work=st.integers(0, 5),
    fails=st.booleans(),
)


@hypothesis_settings(max_examples=150)
@given(st.lists(_PLAN, max_size=12))
def test_any_order_of_coming_giving_up_and_failing_is_served(plans: list[Plan]) -> None:
    """Who stays gets the value or the failure of its key, one computation of a key runs at a time, and nothing is left behind."""
    asyncio.run(_play(plans))


async def test_hundreds_of_callers_that_come_and_go_are_served() -> None:
    """The same with 1,000 callers of ten keys, a third of which give up."""
    rng = random.Random(7)
    plans = [
        Plan(rng.randrange(10), rng.randrange(60), rng.randrange(12) if rng.random() < 0.33 else None, rng.randrange(10), rng.random() < 0.2)
        for _ in range(1_000)
    ]
    await _play(plans)


async def test_a_computation_that_somebody_else_cancels_is_begun_anew_for_those_who_wait() -> None:
    """Who did not give up gets a value, and not somebody else's cancellation."""
    flights: Flights[str, str] = Flights()
    begun: list[asyncio.Task[Any]] = []

    async def make() -> str:
        task = asyncio.current_task()
        assert task is not None
        begun.append(task)
        if len(begun) == 1:
            await asyncio.Event().wait()
        return "value"

    callers = [asyncio.create_task(flights.run("key", make)) for _ in range(3)]
    while not begun:
        await asyncio.sleep(0)
    begun[0].cancel()

    assert [value for value, _ in await asyncio.gather(*callers)] == ["value"] * 3
    assert len(begun) == 2
    assert len(flights) == 0

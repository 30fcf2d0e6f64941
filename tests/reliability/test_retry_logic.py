"""Retries: how many, how long between, and when not."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from shared.chroma.factory import create_chroma_store
from shared.chroma.status import refused, unreachable
from shared.config import CommonSettings, load
from shared.errors import (
    CircuitOpenError,
    InvalidArgumentError,
    KnowledgeBeastError,
    NotFoundError,
    ResourceExhaustedError,
    VectorStoreError,
    VectorStoreUnavailableError,
)
from shared.observability.metrics import REGISTRY
from shared.resilience.deadline import Deadline
from shared.resilience.retry import RetryBudget, RetryOutcome, RetryPolicy


class Clock:
    """Monotonic seconds, moved by sleeping."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        """The time."""
        return self.now

    async def sleep(self, seconds: float) -> None:
        """Passes the time at once."""
        self.slept.append(seconds)
        self.now += seconds


class Calls:
    """A call that raises its errors in turn, then succeeds."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.count = 0

    async def __call__(self) -> str:
        """The next error, or success."""
        self.count += 1
        if self.errors:
            raise self.errors.pop(0)
        return "ok"


def down(times: int) -> Calls:
    """A store that does not answer so many times."""
    return Calls(*(VectorStoreUnavailableError("down") for _ in range(times)))


@pytest.fixture
def clock() -> Clock:
    """A clock at zero."""
    return Clock()


@pytest.fixture
def outcomes() -> list[tuple[RetryOutcome, int]]:
    """What the policy reported."""
    return []


@pytest.fixture
def policy(clock: Clock, outcomes: list[tuple[RetryOutcome, int]]) -> RetryPolicy:
    """The default figures without jitter."""
    return RetryPolicy(jitter=0.0, sleep=clock.sleep, on_outcome=lambda outcome, attempts: outcomes.append((outcome, attempts)))


async def run(policy: RetryPolicy, call: Callable[[], object], clock: Clock, seconds: float = 60.0, budget: RetryBudget | None = None) -> object:
    """The call under the policy, with a budget that does not matter unless given."""
    return await policy.call(call, deadline=Deadline.after(seconds, clock), budget=budget or RetryBudget(clock=clock))  # type: ignore[arg-type]


async def test_a_success_is_not_repeated(policy: RetryPolicy, clock: Clock, outcomes: list[tuple[RetryOutcome, int]]) -> None:
    """One call, no wait."""
    call = Calls()
    assert await run(policy, call, clock) == "ok"
    assert (call.count, clock.slept, outcomes) == (1, [], [(RetryOutcome.SUCCEEDED, 1)])


async def test_it_waits_one_second_then_two(policy: RetryPolicy, clock: Clock, outcomes: list[tuple[RetryOutcome, int]]) -> None:
    """Two failures are got over with waits of 1 and 2 s."""
    call = down(2)
    assert await run(policy, call, clock) == "ok"
    assert (call.count, clock.slept, outcomes) == (3, [1.0, 2.0], [(RetryOutcome.RECOVERED, 3)])


async def test_the_third_failure_is_the_last(policy: RetryPolicy, clock: Clock, outcomes: list[tuple[RetryOutcome, int]]) -> None:
    """After three attempts the last error is raised as it is."""
    errors = [VectorStoreUnavailableError(str(n)) for n in range(3)]
    call = Calls(*errors)
    with pytest.raises(VectorStoreUnavailableError) as raised:
        await run(policy, call, clock)

    assert raised.value is errors[2]
    assert (call.count, clock.slept, outcomes) == (3, [1.0, 2.0], [(RetryOutcome.ATTEMPTS_SPENT, 3)])


async def test_waits_double_up_to_ten_seconds(clock: Clock) -> None:
    """1, 2, 4, 8, and then never more than 10 s."""
    await run(RetryPolicy(attempts=7, jitter=0.0, sleep=clock.sleep), down(6), clock)

    assert clock.slept == [1.0, 2.0, 4.0, 8.0, 10.0, 10.0]


async def test_figures_are_arguments(clock: Clock) -> None:
    """Attempts, first wait, multiplier and cap can be set."""
    await run(RetryPolicy(attempts=5, initial=0.1, multiplier=3.0, max_wait=2.0, jitter=0.0, sleep=clock.sleep), down(4), clock)

    assert clock.slept == pytest.approx([0.1, 0.3, 0.9, 2.0])


async def test_jitter_spreads_the_waits(clock: Clock) -> None:
    """Waits differ from call to call, by at most half of the first."""
    policy = RetryPolicy(sleep=clock.sleep)
    for _ in range(50):
        await run(policy, down(1), clock)

    assert all(1.0 <= wait <= 1.5 for wait in clock.slept)
    assert len(set(clock.slept)) > 40


@pytest.mark.parametrize("error", [VectorStoreError("no"), CircuitOpenError("open"), RuntimeError("bug")])
async def test_what_does_not_pass_is_not_repeated(
    policy: RetryPolicy, clock: Clock, outcomes: list[tuple[RetryOutcome, int]], error: Exception
) -> None:
    """A refusal, an open circuit and a bug are raised at once."""
    call = Calls(error)
    with pytest.raises(type(error)) as raised:
        await run(policy, call, clock)

    assert raised.value is error
    assert (call.count, clock.slept, outcomes) == (1, [], [(RetryOutcome.NOT_RETRYABLE, 1)])


@pytest.mark.parametrize(("seconds", "attempts"), [(0.08, 1), (1.0, 1), (1.5, 2), (3.0, 2), (5.0, 3)])
async def test_no_wait_passes_the_deadline(
    policy: RetryPolicy, clock: Clock, outcomes: list[tuple[RetryOutcome, int]], seconds: float, attempts: int
) -> None:
    """80 ms give one attempt, 1.5 s two, 5 s three."""
    call = down(9)
    with pytest.raises(VectorStoreUnavailableError):
        await run(policy, call, clock, seconds)

    assert call.count == attempts
    assert clock.now < max(seconds, 0.001)
    assert outcomes == [(RetryOutcome.ATTEMPTS_SPENT if attempts == 3 else RetryOutcome.NO_TIME, attempts)]


async def test_time_spent_in_an_attempt_counts(policy: RetryPolicy, clock: Clock) -> None:
    """An attempt that took nearly all of the time is not repeated."""
    calls = 0

    async def slow() -> str:
        nonlocal calls
        calls += 1
        clock.now += 4.5
        raise VectorStoreUnavailableError("down")

    with pytest.raises(VectorStoreUnavailableError):
        await run(policy, slow, clock, 5.0)
    assert calls == 1


async def test_an_empty_budget_stops_retries(policy: RetryPolicy, clock: Clock, outcomes: list[tuple[RetryOutcome, int]]) -> None:
    """All callers share the budget; when it is spent each makes one attempt."""
    budget = RetryBudget(ratio=0.0, per_second=0.0, capacity=3.0, clock=clock)
    for _ in range(3):
        with pytest.raises(VectorStoreUnavailableError):
            await run(policy, down(9), clock, budget=budget)

    assert outcomes == [(RetryOutcome.ATTEMPTS_SPENT, 3), (RetryOutcome.NO_BUDGET, 2), (RetryOutcome.NO_BUDGET, 1)]


async def test_a_budget_is_a_share_of_the_requests(clock: Clock) -> None:
    """Ten requests earn two retries at 20 %; what is earned above the capacity is lost."""
    budget = RetryBudget(ratio=0.2, per_second=0.0, capacity=3.0, clock=clock)
    while budget.withdraw():
        pass
    for _ in range(11):
        budget.deposit()
    assert [budget.withdraw() for _ in range(3)] == [True, True, False]
    for _ in range(1_000):
        budget.deposit()
    assert budget.available == 3.0


async def test_a_budget_fills_with_time(clock: Clock) -> None:
    """Ten retries a second, so that a quiet service may retry too."""
    budget = RetryBudget(clock=clock)
    while budget.withdraw():
        pass
    clock.now += 0.55
    assert [budget.withdraw() for _ in range(6)] == [True] * 5 + [False]


@pytest.mark.parametrize("where", ["call", "wait"])
async def test_cancelling_ends_it(where: str, clock: Clock) -> None:
    """Cancelled in a call or between calls, it stops at once and says so."""
    reached = asyncio.Event()
    outcomes: list[tuple[RetryOutcome, int]] = []

    async def forever(_seconds: float = 0.0) -> None:
        reached.set()
        await asyncio.Event().wait()

    policy = RetryPolicy(sleep=forever, on_outcome=lambda outcome, attempts: outcomes.append((outcome, attempts)))
    task = asyncio.create_task(run(policy, forever if where == "call" else down(9), clock))
    await reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert outcomes == [(RetryOutcome.CANCELLED, 1)]


def answered(status: int) -> Exception:
    """What the adapter makes of an answer with this HTTP status."""
    return refused("query", status, b"", about_collection=True, retry_after=None)


@pytest.mark.parametrize("error", [answered(status) for status in (408, 425, 429, 500, 502, 503, 504)], ids=lambda error: str(error.__cause__))
async def test_temporary_answers_are_repeated_by_their_status(policy: RetryPolicy, clock: Clock, error: Exception) -> None:
    """Too many requests, time-outs on the other side and server errors pass."""
    assert await run(policy, Calls(error), clock) == "ok"


@pytest.mark.parametrize("error", [answered(status) for status in (400, 401, 403, 404, 409, 413, 422)], ids=lambda error: str(error.__cause__))
async def test_final_answers_are_not_repeated(policy: RetryPolicy, clock: Clock, error: Exception) -> None:
    """Validation, authentication and not found would be answered the same way again."""
    call = Calls(error)
    with pytest.raises(VectorStoreError):
        await run(policy, call, clock)
    assert call.count == 1


@pytest.mark.parametrize("error", [ConnectionRefusedError(), ConnectionResetError(), TimeoutError(), OSError("no route")], ids=repr)
async def test_broken_connections_and_timeouts_are_repeated(policy: RetryPolicy, clock: Clock, error: Exception) -> None:
    """Nothing, or nothing whole, came back."""
    assert await run(policy, Calls(unreachable("query", error)), clock) == "ok"


@pytest.mark.parametrize(
    "error", [InvalidArgumentError("no"), NotFoundError("no"), ResourceExhaustedError("no"), KnowledgeBeastError("no")], ids=repr
)
async def test_errors_of_our_own_are_not_repeated(policy: RetryPolicy, clock: Clock, error: Exception) -> None:
    """They say what is wrong with the request, or with us; the store has nothing to do with it."""
    call = Calls(error)
    with pytest.raises(type(error)):
        await run(policy, call, clock)
    assert call.count == 1


async def test_an_outage_does_not_double_the_load(clock: Clock) -> None:
    """With every call failing at 100 a second, retries are a fifth of the requests and ten a second: 1.3 attempts a request, not three."""
    calls = 0
    budget = RetryBudget(clock=clock)
    while budget.withdraw():
        pass

    async def failing() -> None:
        nonlocal calls
        calls += 1
        raise VectorStoreUnavailableError("down")

    async def at_once(_seconds: float) -> None:
        return

    policy = RetryPolicy(sleep=at_once)
    for _ in range(1_000):
        clock.now += 0.01
        with pytest.raises(VectorStoreUnavailableError):
            await run(policy, failing, clock, budget=budget)
    assert calls == pytest.approx(1_300, abs=2)


async def test_looking_at_the_budget_leaves_it_as_it_is(clock: Clock) -> None:
    """A scrape reads it from another thread; however often, the same retries are there."""
    budget = RetryBudget(clock=clock)
    while budget.withdraw():
        pass
    clock.now += 0.25
    assert [budget.available for _ in range(5)] == [2.5] * 5
    assert [budget.withdraw() for _ in range(3)] == [True, True, False]


async def test_the_budget_is_a_metric() -> None:
    """`kb_retry_budget`: what could be retried at the moment of the scrape; full at the start."""
    chroma = create_chroma_store(load(CommonSettings))
    assert REGISTRY.get_sample_value("kb_retry_budget") == 100.0
    await chroma.client.close()

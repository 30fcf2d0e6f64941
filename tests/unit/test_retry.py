"""Retries: how many, how long between, and when not."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from shared.errors import CircuitOpenError, VectorStoreError, VectorStoreUnavailableError
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

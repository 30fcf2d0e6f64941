"""The circuit breaker: when it opens, who is let through, and what counts."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

import pytest

from shared.errors import CircuitOpenError, CollectionNotFoundError, VectorStoreError, VectorStoreUnavailableError
from shared.resilience.breaker import Breaker, BreakerState


class Clock:
    """Monotonic seconds, moved by hand."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        """The time."""
        return self.now


class Recorder:
    """Listens to a breaker."""

    def __init__(self) -> None:
        self.changes: list[tuple[str, str]] = []
        self.rejections = 0

    def changed(self, old: BreakerState, new: BreakerState) -> None:
        """Notes a transition."""
        self.changes.append((old, new))

    def rejected(self) -> None:
        """Counts a refusal."""
        self.rejections += 1


@pytest.fixture
def clock() -> Clock:
    """A clock at zero."""
    return Clock()


@pytest.fixture
def heard() -> Recorder:
    """What the breaker told."""
    return Recorder()


@pytest.fixture
def breaker(clock: Clock, heard: Recorder) -> Breaker:
    """Five failures within 60 s open it for 30 s; a probe is lost after 10 s."""
    return Breaker(probe_lease=10.0, clock=clock, on_state_change=[heard.changed], on_rejection=[heard.rejected])


async def succeed() -> str:
    """A call that works."""
    return "ok"


async def fail() -> str:
    """A call that the store does not answer."""
    raise VectorStoreUnavailableError("down")


def raising(error: BaseException) -> Callable[[], Awaitable[str]]:
    """A call that raises the error."""

    async def call() -> str:
        raise error

    return call


async def attempt(breaker: Breaker, call: Callable[[], Awaitable[str]]) -> str:
    """The result of the call, or the name of its error."""
    try:
        return await breaker.call_async(call)
    except (VectorStoreUnavailableError, VectorStoreError, RuntimeError) as error:
        return type(error).__name__


async def open_up(breaker: Breaker) -> None:
    """Five failures."""
    for _ in range(5):
        await attempt(breaker, fail)
    assert breaker.state is BreakerState.OPEN


async def started(breaker: Breaker, call: Callable[[], Awaitable[str]], running: asyncio.Event) -> asyncio.Task[str]:
    """The call as a task that has got into the function."""
    task = asyncio.create_task(breaker.call_async(call))
    await running.wait()
    running.clear()
    return task


class Hanging:
    """A call that hangs until it is told how to end."""

    def __init__(self) -> None:
        self.running = asyncio.Event()
        self.end: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def __call__(self) -> str:
        """Hangs."""
        self.running.set()
        return await asyncio.shield(self.end)


async def test_it_passes_results_and_errors_through(breaker: Breaker) -> None:
    """A closed breaker changes neither what is returned nor what is raised."""
    assert await breaker.call_async(succeed) == "ok"
    error = VectorStoreUnavailableError("down")
    with pytest.raises(VectorStoreUnavailableError) as raised:
        await breaker.call_async(raising(error))
    assert raised.value is error


async def test_the_fifth_failure_opens_it(breaker: Breaker, heard: Recorder) -> None:
    """Four failures leave it closed, the fifth opens it, and then nothing is called."""
    called = False

    async def call() -> str:
        nonlocal called
        called = True
        return "ok"

    for count in range(1, 5):
        await attempt(breaker, fail)
        assert (breaker.state, breaker.failures) == (BreakerState.CLOSED, count)
    await attempt(breaker, fail)
    assert (breaker.state, breaker.failures) == (BreakerState.OPEN, 5)

    assert await attempt(breaker, call) == "CircuitOpenError"
    assert not called
    assert heard.changes == [("closed", "open")]
    assert heard.rejections == 1


async def test_successes_between_do_not_excuse_failures(breaker: Breaker) -> None:
    """Failures within the window count, whether or not other calls work."""
    for _ in range(5):
        await attempt(breaker, fail)
        await attempt(breaker, succeed)

    assert breaker.state is BreakerState.OPEN


async def test_the_window_slides(breaker: Breaker, clock: Clock) -> None:
    """Five failures spread over more than 60 s leave it closed; five within any 60 s open it."""
    for moment in (0.0, 15.0, 30.0, 45.0, 60.1):
        clock.now = moment
        await attempt(breaker, fail)
    assert (breaker.state, breaker.failures) == (BreakerState.CLOSED, 4)

    clock.now = 74.9
    await attempt(breaker, fail)
    assert breaker.state is BreakerState.OPEN


@pytest.mark.parametrize("error", [VectorStoreError("no"), CollectionNotFoundError("no"), CircuitOpenError("inner"), RuntimeError("bug")])
async def test_other_errors_are_neutral(breaker: Breaker, error: Exception) -> None:
    """Refusals, an open circuit further in, and errors of another kind do not count."""
    for _ in range(20):
        assert await attempt(breaker, raising(error)) == type(error).__name__

    assert (breaker.state, breaker.failures) == (BreakerState.CLOSED, 0)


async def test_cancelled_calls_are_neutral(breaker: Breaker) -> None:
    """Cancelling many calls does not open it."""
    for _ in range(20):
        hanging = Hanging()
        task = await started(breaker, hanging, hanging.running)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    assert (breaker.state, breaker.failures) == (BreakerState.CLOSED, 0)


async def test_the_error_says_when_to_come_back(breaker: Breaker, clock: Clock) -> None:
    """`retry_after` counts down, in the property and in the error."""
    assert breaker.retry_after == 0.0
    await open_up(breaker)
    clock.now += 12.0
    assert breaker.retry_after == 18.0
    with pytest.raises(CircuitOpenError) as raised:
        await breaker.call_async(succeed)
    assert raised.value.retry_after == 18.0


async def test_after_thirty_seconds_a_success_closes_it(breaker: Breaker, clock: Clock, heard: Recorder) -> None:
    """It refuses until 30 s are over, then a probe that works closes it, and old failures are forgotten."""
    await open_up(breaker)
    clock.now += 29.9
    assert await attempt(breaker, succeed) == "CircuitOpenError"
    clock.now += 0.1
    assert breaker.state is BreakerState.HALF_OPEN
    assert breaker.retry_after == 0.0
    assert await attempt(breaker, succeed) == "ok"

    assert (breaker.state, breaker.failures) == (BreakerState.CLOSED, 0)
    assert heard.changes == [("closed", "open"), ("open", "half_open"), ("half_open", "closed")]
    await attempt(breaker, fail)
    assert breaker.closed


async def test_a_failed_probe_opens_it_again(breaker: Breaker, clock: Clock, heard: Recorder) -> None:
    """One failure of the probe is enough, and another 30 s begin."""
    await open_up(breaker)
    clock.now += 30.0
    await attempt(breaker, fail)

    assert (breaker.state, breaker.retry_after) == (BreakerState.OPEN, 30.0)
    assert heard.changes[1:] == [("open", "half_open"), ("half_open", "open")]


@pytest.mark.parametrize(("works", "state"), [(True, BreakerState.CLOSED), (False, BreakerState.OPEN)])
async def test_fifty_callers_make_one_probe(breaker: Breaker, clock: Clock, heard: Recorder, works: bool, state: BreakerState) -> None:
    """Of fifty concurrent callers on a half-open breaker exactly one is let through; the others are refused at once."""
    await open_up(breaker)
    clock.now += 30.0
    probes = 0
    release = asyncio.Event()

    async def call() -> str:
        nonlocal probes
        probes += 1
        await release.wait()
        return await (succeed if works else fail)()

    tasks = [asyncio.create_task(attempt(breaker, call)) for _ in range(50)]
    async with asyncio.timeout(10):  # a caller that is let through waits for `release`
        refused = [await task for task in tasks[1:]]
    assert refused == ["CircuitOpenError"] * 49
    assert heard.rejections == 49
    assert probes == 1
    release.set()

    assert await tasks[0] == ("ok" if works else "VectorStoreUnavailableError")
    assert probes == 1
    assert breaker.state is state


async def test_a_cancelled_probe_gives_its_lease_back(breaker: Breaker, clock: Clock) -> None:
    """Neither closed nor open again: the next caller is the probe."""
    await open_up(breaker)
    clock.now += 30.0
    hanging = Hanging()
    task = await started(breaker, hanging, hanging.running)
    assert await attempt(breaker, succeed) == "CircuitOpenError"
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert breaker.state is BreakerState.HALF_OPEN
    assert await attempt(breaker, succeed) == "ok"
    assert breaker.closed


async def test_a_refused_probe_gives_its_lease_back(breaker: Breaker, clock: Clock) -> None:
    """A permanent error of the probe is neutral too."""
    await open_up(breaker)
    clock.now += 30.0
    assert await attempt(breaker, raising(VectorStoreError("no"))) == "VectorStoreError"

    assert breaker.state is BreakerState.HALF_OPEN
    assert await attempt(breaker, succeed) == "ok"


async def test_a_lost_probes_lease_expires(breaker: Breaker, clock: Clock) -> None:
    """After 10 s without a result another probe is let through, and the lost one's result no longer counts."""
    await open_up(breaker)
    clock.now += 30.0
    lost, second = Hanging(), Hanging()
    lost_task = await started(breaker, lost, lost.running)
    clock.now += 9.9
    assert breaker.retry_after == pytest.approx(0.1)
    assert await attempt(breaker, succeed) == "CircuitOpenError"
    clock.now += 0.1
    second_task = await started(breaker, second, second.running)

    lost.end.set_result("late")
    assert await lost_task == "late"
    assert breaker.state is BreakerState.HALF_OPEN
    second.end.set_result("ok")
    assert await second_task == "ok"
    assert breaker.closed


async def test_a_late_failure_of_an_older_era_is_dropped(breaker: Breaker, clock: Clock) -> None:
    """A call that hung since before the breaker opened, and fails after it has closed, counts for nothing."""
    old = [Hanging() for _ in range(5)]
    tasks = [await started(breaker, call, call.running) for call in old]
    await open_up(breaker)
    clock.now += 30.0
    assert await attempt(breaker, succeed) == "ok"
    for call, task in zip(old, tasks, strict=True):
        call.end.set_exception(VectorStoreUnavailableError("late"))
        with pytest.raises(VectorStoreUnavailableError):
            await task

    assert (breaker.state, breaker.failures) == (BreakerState.CLOSED, 0)


@pytest.mark.parametrize("elapsed", [0.0, 30.0])
async def test_a_late_success_of_an_older_era_does_not_close_it(breaker: Breaker, clock: Clock, elapsed: float) -> None:
    """Only the probe's success closes it, not that of a call from before."""
    hanging = Hanging()
    task = await started(breaker, hanging, hanging.running)
    await open_up(breaker)
    clock.now += elapsed
    hanging.end.set_result("late")
    assert await task == "late"

    assert breaker.state is (BreakerState.HALF_OPEN if elapsed else BreakerState.OPEN)


async def test_since_is_the_beginning_of_the_outage(breaker: Breaker, clock: Clock) -> None:
    """`since` is set when it opens, kept while probes fail, and set again when it closes."""
    before = datetime.now(UTC)
    await open_up(breaker)
    outage = breaker.since
    assert before <= outage <= datetime.now(UTC)
    clock.now += 30.0
    await attempt(breaker, fail)
    assert breaker.since == outage
    clock.now += 30.0
    await attempt(breaker, succeed)
    assert breaker.since > outage


async def test_thresholds_are_arguments(clock: Clock) -> None:
    """Every figure can be set."""
    breaker = Breaker(
        "other", failure_threshold=2, window=1.0, recovery_timeout=3.0, is_failure=lambda error: isinstance(error, KeyError), clock=clock
    )
    assert breaker.name == "other"
    for _ in range(2):
        with pytest.raises(KeyError):
            await breaker.call_async(raising(KeyError()))

    assert (breaker.state, breaker.retry_after) == (BreakerState.OPEN, 3.0)


async def test_it_works_as_a_decorator(breaker: Breaker) -> None:
    """`@breaker` guards a coroutine function with the same rules, and refuses with our error."""
    guarded = breaker(fail)
    for _ in range(5):
        with pytest.raises(VectorStoreUnavailableError):
            await guarded()

    with pytest.raises(CircuitOpenError):
        await guarded()


def test_it_refuses_to_guard_what_it_cannot(breaker: Breaker) -> None:
    """As a plain context manager the library's own counting would apply, so that is an error."""
    with pytest.raises(TypeError, match="call_async"), breaker:
        pass

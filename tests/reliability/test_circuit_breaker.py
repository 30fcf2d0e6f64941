"""The circuit breaker: when it opens, who is let through, what counts, and who is told; alone, and as the services use it around ChromaDB."""

from __future__ import annotations

import asyncio
import io
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from services.cli.stack.process import free_port
from shared.checks import add_common_checks
from shared.chroma.factory import ChromaStore, create_chroma_store
from shared.chroma.resilient import ResilientVectorStore
from shared.config import CommonSettings, load
from shared.errors import CircuitOpenError, CollectionNotFoundError, VectorStoreError, VectorStoreUnavailableError
from shared.gen.knowledgebeast.ops.v1 import status_pb2
from shared.health import HealthMonitor
from shared.observability import logging
from shared.observability.metrics import REGISTRY
from shared.resilience.breaker import Breaker, BreakerState
from shared.resilience.retry import RetryBudget, RetryPolicy
from shared.rpc.status_service import StatusServicer
from shared.serving import ServingStates
from tests.fakes.vector_store import FakeVectorStore
from tests.fixtures.world import LineEmbedder


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


# --- around the vector store -----------------------------------------------------------------------------------------------------------------

VECTOR = np.ones(4, np.float32)


def guarded(inner: FakeVectorStore, breaker: Breaker, attempts: int = 3) -> ResilientVectorStore:
    """A store behind retry, breaker and time limit; waits between attempts are a millisecond."""
    return ResilientVectorStore(inner, breaker=breaker, retry=RetryPolicy(attempts=attempts, initial=0.001), budget=RetryBudget())


async def ask(store: ResilientVectorStore, timeout: float = 5.0) -> str:
    """`ok`, or the name of the error."""
    try:
        await store.query("c", VECTOR, 5, timeout=timeout)
    except (VectorStoreUnavailableError, VectorStoreError) as error:
        return type(error).__name__
    return "ok"


async def test_hung_calls_are_seen_before_their_callers_give_up(clock: Clock) -> None:
    """The time limit inside the breaker fires before the caller's deadline cancels the call: five hung calls open it, and the sixth does not wait."""
    inner, breaker = FakeVectorStore(), Breaker(clock=clock)
    inner.hang()
    store = guarded(inner, breaker, attempts=1)
    async with asyncio.timeout(0.5):  # all five callers' own deadline
        assert await asyncio.gather(*(ask(store, timeout=0.4) for _ in range(5))) == ["VectorStoreUnavailableError"] * 5
    assert breaker.state is BreakerState.OPEN

    began = time.perf_counter()
    assert await ask(store, timeout=0.4) == "CircuitOpenError"
    assert time.perf_counter() - began < 0.1
    assert inner.calls["query"] == 5


async def test_fifty_searches_after_an_outage_ask_the_store_once(clock: Clock) -> None:
    """Through the whole stack of retry, breaker and time limit one call reaches the store; the 49 others are refused at once, without a retry."""
    inner, breaker = FakeVectorStore(), Breaker(clock=clock, probe_lease=60.0)
    inner.collections["c"] = {}
    inner.fail()
    store = guarded(inner, breaker)
    while breaker.state is not BreakerState.OPEN:
        await ask(store)
    clock.now += 30.0
    before = inner.calls["query"]
    inner.heal()
    inner.hang()
    searches = [asyncio.create_task(ask(store)) for _ in range(50)]
    await inner.called("query")
    async with asyncio.timeout(2):
        refused = [await search for search in searches[1:]]
    assert refused == ["CircuitOpenError"] * 49
    assert inner.calls["query"] == before + 1
    inner.heal()
    assert await searches[0] == "ok"
    assert breaker.closed


# --- as the services make it -----------------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def store_of(**settings: float) -> AsyncIterator[ChromaStore]:
    """What the settings give, around a ChromaDB that is not there."""
    chroma = create_chroma_store(load(CommonSettings, chroma_url=f"http://127.0.0.1:{free_port()}", retry_attempts=1, **settings))
    try:
        yield chroma
    finally:
        chroma.breaker.reset()  # the metrics of this process show it until another store is made
        await chroma.client.close()


def sample(name: str, **labels: str) -> float:
    """The value of a metric now."""
    value = REGISTRY.get_sample_value(name, labels)
    assert value is not None
    return value


@pytest.fixture
def lines() -> Iterator[Callable[[], list[dict[str, Any]]]]:
    """A function that returns the lines that were logged so far."""
    stream = io.StringIO()
    logging.configure("tests", "info", "json", stream=stream)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    logging.configure("tests", "info", "json")


async def test_thresholds_come_from_the_settings() -> None:
    """KB_BREAKER_FAILURES failures open it, for KB_BREAKER_RECOVERY seconds; outside of KB_BREAKER_WINDOW seconds they do not count."""
    async with store_of(breaker_failures=2, breaker_recovery=7.0, breaker_window=0.05) as chroma:
        await ask(chroma.store)
        async with asyncio.timeout(5):
            while chroma.breaker.failures:
                await asyncio.sleep(0.01)
        await ask(chroma.store)
        assert chroma.breaker.state is BreakerState.CLOSED
    async with store_of(breaker_failures=2, breaker_recovery=7.0, breaker_window=60.0) as chroma:
        assert [await ask(chroma.store) for _ in range(3)] == ["VectorStoreUnavailableError"] * 2 + ["CircuitOpenError"]
        assert 6.0 < chroma.breaker.retry_after <= 7.0


async def test_states_transitions_and_rejections_are_metrics() -> None:
    """The gauge has the state, half-open as soon as the time is over; each change and each refused call is counted."""
    transitions, rejections = sample("kb_breaker_transitions_total", to="open"), sample("kb_breaker_rejections_total")
    async with store_of(breaker_failures=2, breaker_recovery=0.3) as chroma:
        for _ in range(5):
            await ask(chroma.store)
        assert sample("kb_breaker_state") == 2
        assert sample("kb_breaker_transitions_total", to="open") == transitions + 1
        assert sample("kb_breaker_rejections_total") == rejections + 3
        async with asyncio.timeout(5):
            while sample("kb_breaker_state") == 2:
                await asyncio.sleep(0.01)
        assert sample("kb_breaker_state") == 1
        chroma.breaker.reset()
        assert sample("kb_breaker_state") == 0


async def test_each_transition_is_one_log_line(lines: Callable[[], list[dict[str, Any]]]) -> None:
    """With both states and the number of refused calls, so that an outage is two lines and not one a call."""
    async with store_of(breaker_failures=2) as chroma:
        for _ in range(5):
            await ask(chroma.store)
        chroma.breaker.reset()
    changes = [line for line in lines() if "circuit breaker" in line["event"]]
    assert [(line["before"], line["after"], line["rejections"], line["level"]) for line in changes] == [
        ("closed", "open", 0, "warning"),
        ("open", "closed", 3, "warning"),
    ]


async def test_get_status_tells_the_breaker_as_it_is_now(tmp_path: Path) -> None:
    """State, failures and refused calls, and while it is open since when and for how long: not as of the last check, but of the answer."""
    async with store_of(breaker_failures=2) as chroma:
        monitor = HealthMonitor("query", ServingStates())
        add_common_checks(monitor, chroma=chroma, embedder=LineEmbedder(), data_dir=tmp_path, disk_reserve_bytes=0, when_low="")  # type: ignore[arg-type] # it has all that a check calls
        await monitor.start()
        servicer = StatusServicer(monitor)
        try:
            assert await _breaker(servicer) == {"breaker": "closed", "breaker_failures": 0, "breaker_rejections": 0}
            began = datetime.now(UTC)
            for _ in range(3):
                await ask(chroma.store)
            told = await _breaker(servicer)
            assert 29.0 < told.pop("breaker_retry_after_s") <= 30.0
            assert began.timestamp() - 1 <= datetime.fromisoformat(told.pop("breaker_since")).timestamp() <= datetime.now(UTC).timestamp()
            assert told == {"breaker": "open", "breaker_failures": 2, "breaker_rejections": 1}
        finally:
            await monitor.stop()


async def _breaker(servicer: StatusServicer) -> dict[str, Any]:
    response = await servicer.GetStatus(status_pb2.GetStatusRequest(), None)
    (details,) = [component.details for component in response.components if component.name == "chromadb"]
    return {name: details[name] for name in details if name.startswith("breaker")}

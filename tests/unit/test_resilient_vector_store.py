"""The vector store behind retry, breaker and time limit, on the fake."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import numpy as np
import pytest

from shared.chroma.resilient import CallOutcome, ResilientVectorStore
from shared.errors import CircuitOpenError, CollectionNotFoundError, VectorStoreError, VectorStoreUnavailableError
from shared.resilience.breaker import NO_TIME, Breaker, BreakerState
from shared.resilience.retry import RetryBudget, RetryPolicy
from tests.fakes.vector_store import FakeVectorStore

VECTOR = np.ones(4, np.float32)


@dataclass
class Setup:
    """A resilient store and what is inside."""

    inner: FakeVectorStore = field(default_factory=FakeVectorStore)
    breaker: Breaker = field(default_factory=Breaker)
    reported: list[tuple[str, str]] = field(default_factory=list)

    def store(self, *, attempts: int = 3, attempt_timeout: float | None = None, margin: float = 0.03) -> ResilientVectorStore:
        """The store, with waits of a millisecond."""
        return ResilientVectorStore(
            self.inner,
            breaker=self.breaker,
            retry=RetryPolicy(attempts=attempts, initial=0.001),
            budget=RetryBudget(),
            on_call=lambda operation, outcome, _seconds: self.reported.append((operation, outcome)),
            attempt_timeout=attempt_timeout,
            margin=margin,
        )


@pytest.fixture
def setup() -> Setup:
    """A store with the collection `c`."""
    setup = Setup()
    setup.inner.collections["c"] = {}
    return setup


async def test_a_short_failure_is_not_seen(setup: Setup) -> None:
    """Two failed attempts are repeated, and each is reported."""
    setup.inner.fail(times=2)

    assert await setup.store().count("c", timeout=5.0) == 0
    assert setup.reported == [("count", "unavailable"), ("count", "unavailable"), ("count", "ok")]


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (VectorStoreError("no"), CallOutcome.REFUSED),
        (CollectionNotFoundError("no"), CallOutcome.NOT_FOUND),
        (RuntimeError("bug"), CallOutcome.ERROR),
    ],
)
async def test_refusals_pass_through_at_once(setup: Setup, error: Exception, outcome: CallOutcome) -> None:
    """An error that another attempt cannot mend is raised as it is, and leaves the breaker closed."""
    setup.inner.fail(error)
    store = setup.store()
    for _ in range(6):
        with pytest.raises(type(error)) as raised:
            await store.query("c", VECTOR, 5, timeout=5.0)
        assert raised.value is error

    assert setup.reported == [("query", outcome)] * 6
    assert setup.inner.calls["query"] == 6
    assert setup.breaker.closed


async def test_a_dead_store_is_left_alone(setup: Setup) -> None:
    """Five failed attempts, retries included, open the breaker; from then on the store is not asked and the answer comes at once."""
    setup.inner.fail()
    store = setup.store()
    with pytest.raises(VectorStoreUnavailableError):
        await store.query("c", VECTOR, 5, timeout=5.0)
    with pytest.raises(CircuitOpenError):
        await store.query("c", VECTOR, 5, timeout=5.0)
    assert setup.inner.calls["query"] == 5
    assert setup.reported == [("query", "unavailable")] * 5 + [("query", "rejected")]

    with pytest.raises(CircuitOpenError):
        await store.count("c", timeout=5.0)
    assert setup.inner.calls["count"] == 0


async def test_a_hung_store_is_seen_before_the_caller_gives_up() -> None:
    """The attempt ends by its own time limit before the caller's deadline cancels it, so the breaker counts it."""
    setup = Setup(breaker=Breaker(failure_threshold=1))
    setup.inner.hang()
    store = setup.store(attempts=1, margin=0.2)
    async with asyncio.timeout(0.8):
        with pytest.raises(VectorStoreUnavailableError):
            await store.query("c", VECTOR, 5, timeout=0.8)

    assert setup.breaker.state is BreakerState.OPEN
    assert setup.reported == [("query", "unavailable")]


async def test_a_hung_attempt_does_not_take_all_of_the_time(setup: Setup) -> None:
    """With a limit for each attempt there is time left for another."""
    setup.inner.hang()
    with pytest.raises(VectorStoreUnavailableError):
        await setup.store(attempt_timeout=0.02).count("c", timeout=30.0)

    assert setup.inner.calls["count"] == 3


async def test_callers_in_a_hurry_do_not_open_the_breaker_for_others(setup: Setup) -> None:
    """Time limits too short for any store to keep say nothing about this one."""
    setup.inner.hang()
    store = setup.store()
    for _ in range(20):
        with pytest.raises(VectorStoreUnavailableError):
            await store.query("c", VECTOR, 5, timeout=0.02)
    assert setup.breaker.state is BreakerState.CLOSED


async def test_a_cancelled_call_counts_for_nothing(setup: Setup) -> None:
    """A caller that goes away is reported as such and leaves the breaker closed."""
    setup.inner.hang()
    store = setup.store()
    for _ in range(6):
        task = asyncio.create_task(store.query("c", VECTOR, 5, timeout=30.0))
        await setup.inner.called("query")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    assert setup.reported == [("query", "cancelled")] * 6
    assert setup.breaker.failures == 0


@pytest.mark.parametrize("timeout", [-1.0, 0.0, 0.005])
async def test_without_time_the_store_is_not_asked(setup: Setup, timeout: float) -> None:
    """A caller without time gets an error that the breaker does not hear of."""
    for _ in range(6):
        with pytest.raises(VectorStoreUnavailableError) as raised:
            await setup.store().query("c", VECTOR, 5, timeout=timeout)
        assert raised.value.reason == NO_TIME

    assert setup.inner.calls["query"] == 0
    assert setup.breaker.failures == 0


async def test_a_ping_asks_the_store_itself(setup: Setup) -> None:
    """An open breaker does not stop a ping, and a ping does not close it."""
    setup.inner.fail(operation="query")
    store = setup.store()
    for _ in range(2):
        with pytest.raises(VectorStoreUnavailableError):
            await store.query("c", VECTOR, 5, timeout=5.0)
    assert setup.breaker.state is BreakerState.OPEN

    await store.ping(timeout=1.0)
    assert setup.breaker.state is BreakerState.OPEN
    setup.inner.fail()
    with pytest.raises(VectorStoreUnavailableError):
        await store.ping(timeout=1.0)
    assert setup.inner.calls["ping"] == 2

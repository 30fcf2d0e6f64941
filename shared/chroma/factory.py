"""Puts the vector store together as the services use it: the adapter, its breaker and retries, their metrics."""

from __future__ import annotations

from dataclasses import dataclass

from shared.chroma.client import ChromaClient
from shared.chroma.resilient import CallOutcome, ResilientVectorStore
from shared.config import CommonSettings
from shared.observability import exemplars, metrics
from shared.observability.guarded import read_at_scrape
from shared.observability.logging import get_logger
from shared.resilience.breaker import Breaker, BreakerState
from shared.resilience.retry import RetryBudget, RetryOutcome, RetryPolicy

_STATE_VALUES = {BreakerState.CLOSED: 0, BreakerState.HALF_OPEN: 1, BreakerState.OPEN: 2}

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class ChromaStore:
    """The vector store behind its breaker, and the parts that health and shutdown need."""

    store: ResilientVectorStore
    breaker: Breaker
    client: ChromaClient


def create_chroma_store(settings: CommonSettings, *, attempt_timeout: float | None = None) -> ChromaStore:
    """The vector store that the settings name; nothing is connected yet. Close `client` at the end.

    Args:
        settings: Of the service.
        attempt_timeout: Seconds that one attempt gets at most; None leaves it all that its caller gave.
    """
    client = ChromaClient(
        settings.chroma_url,
        tenant=settings.chroma_tenant,
        database=settings.chroma_database,
        pool_size=settings.chroma_pool_size,
        connect_timeout=settings.chroma_connect_timeout,
    )
    breaker = Breaker(
        failure_threshold=settings.breaker_failures,
        window=settings.breaker_window,
        recovery_timeout=settings.breaker_recovery,
        probe_lease=2 * settings.chroma_timeout,  # longer than any attempt
        on_state_change=[lambda before, after: _state_changed(breaker, before, after)],
        on_rejection=[metrics.BREAKER_REJECTIONS.inc],
    )
    # Read at the scrape: that it is half-open comes with time, and nobody announces it.
    read_at_scrape(metrics.BREAKER_STATE, lambda: _STATE_VALUES[breaker.state])
    retry = RetryPolicy(
        attempts=settings.retry_attempts,
        initial=settings.retry_initial,
        multiplier=settings.retry_multiplier,
        max_wait=settings.retry_max,
        on_outcome=_retried,
    )
    budget = RetryBudget()
    read_at_scrape(metrics.RETRY_BUDGET, lambda: budget.available)
    store = ResilientVectorStore(client, breaker=breaker, retry=retry, budget=budget, on_call=_called, attempt_timeout=attempt_timeout)
    return ChromaStore(store, breaker, client)


def _called(operation: str, outcome: CallOutcome, seconds: float) -> None:
    if outcome is CallOutcome.REJECTED:
        return  # nothing was asked; what the breaker refuses is counted by itself
    metrics.CHROMADB_REQUEST_DURATION.labels(operation, outcome.value).observe(seconds, exemplars.current())


def _retried(outcome: RetryOutcome, _attempts: int) -> None:
    metrics.RETRIES.labels(outcome.value).inc()


def _state_changed(breaker: Breaker, before: BreakerState, after: BreakerState) -> None:
    metrics.BREAKER_TRANSITIONS.labels(after.value).inc()
    # Refused calls are too many to be logged one by one: their number at each change tells how many there were between.
    _log.warning(
        "the circuit breaker around ChromaDB changed",
        before=before.value,
        after=after.value,
        rejections=breaker.rejections,
        retry_after_s=round(breaker.retry_after, 1),
    )

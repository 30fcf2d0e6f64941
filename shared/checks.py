"""The health checks of components that both services have."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import psutil

from shared.chroma.factory import ChromaStore
from shared.embedding.factory import LoadableEmbedder
from shared.errors import VectorStoreUnavailableError
from shared.health import Degraded, Details, HealthMonitor
from shared.observability import metrics
from shared.resilience.breaker import Breaker, BreakerState

_PING_SECONDS = 1.5
# A ping takes a millisecond or two. One that takes so long finds a store, or a network, that costs each search its vector leg's time.
_SLOW_PING_SECONDS = 0.4
# One failed call is got over by a retry; with several within the breaker's window something is wrong, also when every second call works.
_FAILURES_TO_TELL = 2
_GIGABYTE = 1e9


def add_common_checks(
    monitor: HealthMonitor, *, chroma: ChromaStore, embedder: LoadableEmbedder, data_dir: Path, disk_reserve_bytes: int, when_low: str
) -> None:
    """Adds `chromadb`, `embedding_model` and `disk` to a monitor. Neither service needs one of them to take requests.

    Args:
        monitor: of the service.
        chroma: the vector store with its breaker, whose state is told with every answer.
        embedder: of the service.
        data_dir: folder on the disk that is looked at.
        disk_reserve_bytes: with less free, the disk is degraded.
        when_low: what the service then does not do, for people.
    """
    breaker = chroma.breaker

    async def chromadb() -> Details | Degraded:
        began = time.perf_counter()
        try:
            await chroma.store.ping(timeout=_PING_SECONDS)
        except VectorStoreUnavailableError:
            metrics.CHROMADB_UP.set(0)
            raise
        metrics.CHROMADB_UP.set(1)
        seconds = time.perf_counter() - began
        if breaker.state is BreakerState.OPEN:
            return Degraded("it answers, but calls to it failed so often that it is left alone for now")
        if breaker.closed and breaker.failures >= _FAILURES_TO_TELL:
            return Degraded(f"it answers, but {breaker.failures} calls to it failed lately")
        if seconds > _SLOW_PING_SECONDS:
            return Degraded(f"it answers slowly: after {seconds * 1e3:.0f} ms")
        return {}

    async def embedding_model() -> Details:
        await embedder.embed(["ready?"])
        return {"model": embedder.model}

    async def disk() -> Details | Degraded:
        usage = await asyncio.to_thread(psutil.disk_usage, str(data_dir))
        metrics.DISK_FREE_BYTES.set(usage.free)
        metrics.DISK_SIZE_BYTES.set(usage.total)
        figures = {"available_gb": round(usage.free / _GIGABYTE, 1)}
        if usage.free < disk_reserve_bytes:
            free, reserve = usage.free / _GIGABYTE, disk_reserve_bytes / _GIGABYTE
            return Degraded(f"{free:.2f} GB are free, less than the {reserve:.2f} GB that must be: {when_low}", figures)
        return figures

    monitor.add_check("chromadb", chromadb, interval=2.0, latency=True, figures=lambda: _breaker_figures(breaker))
    monitor.add_check("embedding_model", embedding_model, timeout=10.0)
    monitor.add_check("disk", disk)


def _breaker_figures(breaker: Breaker) -> Details:
    """The breaker as it is now; while it is not closed, also since when and for how long."""
    figures: dict[str, str | int | float | bool] = {
        "breaker": breaker.state.value,
        "breaker_failures": breaker.failures,
        "breaker_rejections": breaker.rejections,
    }
    if not breaker.closed:
        figures["breaker_since"] = breaker.since.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        figures["breaker_retry_after_s"] = round(breaker.retry_after, 1)
    return figures

"""The health checks of components that both services have."""

from __future__ import annotations

import asyncio
from pathlib import Path

import psutil

from shared.chroma.factory import ChromaStore
from shared.embedding.factory import LoadableEmbedder
from shared.errors import VectorStoreUnavailableError
from shared.health import Details, HealthMonitor
from shared.observability import metrics

_PING_SECONDS = 1.5
_GIGABYTE = 1e9


def add_common_checks(monitor: HealthMonitor, *, chroma: ChromaStore, embedder: LoadableEmbedder, data_dir: Path) -> None:
    """Adds `chromadb`, `embedding_model` and `disk` to a monitor. Neither service needs one of them to take requests."""

    async def chromadb() -> Details:
        try:
            await chroma.store.ping(timeout=_PING_SECONDS)
        except VectorStoreUnavailableError:
            metrics.CHROMADB_UP.set(0)
            raise
        metrics.CHROMADB_UP.set(1)
        return {"breaker": chroma.breaker.state.value}

    async def embedding_model() -> Details:
        await embedder.embed(["ready?"])
        return {"model": embedder.model}

    async def disk() -> Details:
        usage = await asyncio.to_thread(psutil.disk_usage, str(data_dir))
        return {"available_gb": round(usage.free / _GIGABYTE, 1)}

    monitor.add_check("chromadb", chromadb, latency=True)
    monitor.add_check("embedding_model", embedding_model, timeout=10.0)
    monitor.add_check("disk", disk, interval=30.0)

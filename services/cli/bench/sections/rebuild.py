"""ChromaDB loses everything; the vectors come back from the catalog while searches are answered."""

from __future__ import annotations

import asyncio
import shutil
import time

from services.cli.bench.ask import Ask
from services.cli.bench.context import Bench, scrape
from services.cli.bench.dataset import PROJECT, followed
from services.cli.bench.stats import percentiles
from shared.client import KnowledgeBeast
from shared.domain import ProjectState
from shared.errors import DeadlineExceededError

_POLL = 0.1
_PATIENCE = 900.0  # seconds for the whole rebuild
_PAUSE = 0.05  # seconds between two searches, so that they are witnesses and not load
_GRACE = 25.0
_EMBEDDED = "kb_embedding_batch_size_sum"


async def run(bench: Bench) -> None:
    """Wipes ChromaDB's folder, asks for the rebuild, and searches until it is done."""
    stack = bench.stack
    embedded = (await scrape(stack.ports.indexer_http)).get(_EMBEDDED, 0.0)
    await stack.chroma.stop(_GRACE)
    await asyncio.to_thread(shutil.rmtree, stack.data_dir / "chroma")
    (stack.data_dir / "chroma").mkdir()
    await stack.start_chroma()
    async with KnowledgeBeast(stack.indexer_address, stack.query_address, timeout=30.0) as kb:
        before = await kb.get_project(PROJECT)
        began = time.monotonic()
        await kb.rebuild_vectors(PROJECT)
        done = asyncio.create_task(_rebuilt(bench, kb, before.head))
        latencies, failed, degraded = await _witness(bench, done)
        await done
        elapsed = done.result() - began
        await followed(kb, await kb.get_project(PROJECT))
    again = (await scrape(stack.ports.indexer_http)).get(_EMBEDDED, 0.0) - embedded
    values = {
        "seconds": elapsed,
        "chunks_per_second": before.chunk_count / elapsed,
        "chunks_embedded_again": again,
        "searches": float(len(latencies) + failed),
        "failed": float(failed),
        "degraded_share": degraded / max(1, len(latencies)),
        **{f"search_{name}": value for name, value in percentiles(latencies).items()},
    }
    bench.record("rebuild", "ChromaDB wiped, written again from the catalog", values, n=before.chunk_count)


async def _rebuilt(bench: Bench, kb: KnowledgeBeast, head: int) -> float:
    """Waits until every vector is in ChromaDB again; when that was seen, on the monotonic clock."""
    until = time.monotonic() + _PATIENCE
    with bench.meter("rebuilding", "changes", head) as meter:
        while time.monotonic() < until:
            project = await kb.get_project(PROJECT)
            meter.set(project.vector_sequence)
            if project.state is ProjectState.ACTIVE and project.vector_sequence >= head:
                return time.monotonic()
            await asyncio.sleep(_POLL)
    raise DeadlineExceededError(f"the vectors were not back within {_PATIENCE:g} s")


async def _witness(bench: Bench, done: asyncio.Task[float]) -> tuple[list[float], int, int]:
    """Searches, one at a time with a pause between, until `done`; latencies in seconds, failures, degraded answers."""
    latencies: list[float] = []
    failed = degraded = 0
    while not done.done():
        burst = await bench.generator.run(bench.stub, [Ask(next(bench.queries))])
        latencies += burst.latencies
        failed += burst.failed
        degraded += burst.degraded
        await asyncio.sleep(_PAUSE)
    return latencies, failed, degraded

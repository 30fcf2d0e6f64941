"""Writing: documents acknowledged a second, and searchable a second against what the embedder alone does on the same texts."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import time
from asyncio.subprocess import PIPE
from typing import Any

import orjson

from services.cli.bench.context import Bench
from services.cli.bench.load import child_environment
from services.cli.bench.records import ratio_values
from services.cli.bench.stats import median, paired_ratio
from services.cli.console import line
from services.cli.stack import lock
from services.cli.stack.stack import Ports, Stack
from shared.client import KnowledgeBeast
from shared.errors import DeadlineExceededError, UnavailableError

_ROUNDS = 3
_DOCUMENTS = 3_000  # a round
_POLL = 0.05
_TIMEOUT = 900.0  # seconds for one round


async def run(bench: Bench) -> None:
    """In rounds of their own project: embeds texts alone, and writes the same texts through a stack that holds nothing else."""
    count = min(_DOCUMENTS, len(bench.dataset.corpus.documents) // _ROUNDS)
    folder = bench.root / "ingest"
    shutil.rmtree(folder, ignore_errors=True)
    rounds: list[dict[str, float]] = []
    with lock.exclusive(folder):
        stack = Stack(folder, bench.stack.model_dir, Ports.free())
        await stack.start()
        try:
            for number in range(_ROUNDS):
                job = {"corpus": str(bench.root / "corpus.jsonl"), "start": number * count, "count": count}
                steps = (_embed, _write) if number % 2 == 0 else (_write, _embed)
                found: dict[str, float] = {}
                for step in steps:
                    found |= await step(stack, job, f"round{number}")
                line(f"ingest, round {number + 1}: " + ", ".join(f"{name} {value:,.0f}" for name, value in found.items()))
                rounds.append(found)
        finally:
            await stack.stop()
    shutil.rmtree(folder)
    searchable = [found["searchable"] for found in rounds]
    embedder = [found["embedder"] for found in rounds]
    for name, label in (("acknowledged", "documents acknowledged"), ("searchable", "documents searchable"), ("embedder", "embedder alone")):
        values = {"per_second": median([found[name] for found in rounds])}
        if name == "searchable":
            values |= ratio_values("to_embedder", paired_ratio(searchable, embedder))
        if name == "acknowledged":
            values["client_cpu_ms"] = median([found["client_cpu_ms"] for found in rounds])
        bench.record("ingest", label, values, n=count * _ROUNDS)


async def _embed(stack: Stack, job: dict[str, Any], _project: str) -> dict[str, float]:
    found = await _job({**job, "kind": "embed", "model_dir": str(stack.model_dir), "concurrency": os.cpu_count() or 1})
    return {"embedder": job["count"] / found["seconds"]}


async def _write(stack: Stack, job: dict[str, Any], project: str) -> dict[str, float]:
    """Writes and waits until everything is in ChromaDB. Raises DeadlineExceededError."""
    async with KnowledgeBeast(stack.indexer_address, stack.query_address) as kb:
        await kb.create_project(project)
        written = await _job({**job, "kind": "ingest", "indexer": stack.indexer_address, "project": project})
        if written["failed"] or written["acknowledged"] != job["count"]:
            raise UnavailableError(f"{written['failed']} of {job['count']} documents were refused", component="indexer")
        until = time.monotonic() + _TIMEOUT
        while (current := await kb.get_project(project)).vector_sequence < current.head:
            if time.monotonic() > until:
                raise DeadlineExceededError(f"{job['count']} documents were not searchable within {_TIMEOUT:g} s")
            await asyncio.sleep(_POLL)
        # Both processes read the same clock of the kernel.
        searchable = time.monotonic() - written["began"]
    return {
        "acknowledged": job["count"] / written["seconds"],
        "searchable": job["count"] / searchable,
        "client_cpu_ms": written["client_cpu"] / job["count"] * 1e3,
    }


async def _job(job: dict[str, Any]) -> dict[str, Any]:
    """Runs one job of the ingest worker. Raises UnavailableError if it fails; its error is on stderr."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "services.cli.bench.ingest_worker", stdin=PIPE, stdout=PIPE, env=child_environment()
    )
    try:
        output, _ = await asyncio.wait_for(process.communicate(orjson.dumps(job)), _TIMEOUT)
    except BaseException:
        if process.returncode is None:
            process.kill()
            await process.wait()
        raise
    if process.returncode != 0:
        raise UnavailableError("the ingest worker has failed: its error stands above", component="bench")
    result: dict[str, Any] = orjson.loads(output)
    return result

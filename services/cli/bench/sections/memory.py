"""Memory of each process: idle, and with a corpus after searches of every kind."""

from __future__ import annotations

import shutil
from pathlib import Path

import psutil

from services.cli.bench.ask import Ask
from services.cli.bench.context import Bench
from services.cli.stack import lock
from services.cli.stack.process import ManagedProcess
from services.cli.stack.stack import Ports, Stack

_WARM = 300  # searches of each mode before memory is read


async def run(bench: Bench) -> None:
    """Reads the memory of the running stack, and of an empty one."""
    for mode in ("hybrid", "vector", "keyword"):
        for below in (None, 500):
            await bench.generator.run(bench.stub, [Ask(query, mode, below) for query in bench.queries.take(_WARM)], concurrency=8)
    for process in bench.stack.processes:
        bench.record(
            "memory", f"{process.name}, with {bench.size} chunks", figures(process), n=1, labels={"process": process.name, "state": "loaded"}
        )
    folder = bench.root / "idle"
    with lock.exclusive(folder):
        idle = Stack(folder, bench.stack.model_dir, Ports.free())
        await idle.start()
        try:
            for process in idle.processes:
                bench.record("memory", f"{process.name}, idle", figures(process), n=1, labels={"process": process.name, "state": "idle"})
        finally:
            await idle.stop()
    shutil.rmtree(folder)


def figures(process: ManagedProcess) -> dict[str, float]:
    """Resident, anonymous and unique memory in MB, and whether torch is loaded.

    Resident memory counts pages of mapped files, such as the replica's vectors, that the kernel may take back; anonymous memory does not.
    """
    running = psutil.Process(process.pid)
    status = Path(f"/proc/{process.pid}/status").read_text()
    anonymous = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon:"))
    torch = any("libtorch" in mapped.path for mapped in running.memory_maps())
    full = running.memory_full_info()
    return {
        "rss_mb": full.rss / 1e6,
        "anonymous_mb": anonymous * 1024 / 1e6,
        "unique_mb": full.uss / 1e6,
        "torch_loaded": float(torch),
    }

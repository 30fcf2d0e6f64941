"""The load generator: `python -m services.cli.bench.worker`, a process of its own, so that making load does not disturb what is measured beside it.

One job a line of JSON on stdin, one result a line on stdout; it ends with its stdin. A job is a closed loop: so many searches are always on the
way, and each is followed by the next as soon as it is answered.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import orjson

from services.cli.bench.ask import Ask
from services.cli.bench.targets import Chroma, Echo, Embed, Floor, Library, Outcome, Stub, Target

_THREADS = 32  # for clients that block: as many as the largest concurrency
_ERRORS_KEPT = 3
_TARGETS: dict[str, Any] = {"library": Library, "stub": Stub, "echo": Echo, "embed": Embed, "chroma": Chroma, "floor": Floor}


def make_target(kind: str, arguments: dict[str, Any]) -> Target[Any]:
    """The target that a job names. The competitors' packages are imported only when one of them is asked for."""
    if kind in _TARGETS:
        target: Target[Any] = _TARGETS[kind](**arguments)
        return target
    from services.cli.bench import competing  # noqa: PLC0415 - needs the `bench` extra

    competitor: Target[Any] = competing.TARGETS[kind](**arguments)
    return competitor


@dataclass(slots=True)
class _Run:
    """What happened in one job."""

    latencies: list[float] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    failed: int = 0
    used: int = 0


async def run_job(target: Target[Any], job: dict[str, Any]) -> dict[str, Any]:
    """Runs one job: until the asks are used up, or (if there is a limit) until `seconds` are over and what is on the way is answered."""
    asks = [Ask.from_json(value) for value in job["asks"]]
    waiting = deque([await target.prepare(ask) for ask in asks])
    seconds = job.get("seconds")
    run = _Run()
    began, cpu = time.perf_counter(), time.process_time()
    until = float("inf") if seconds is None else began + seconds

    async def loop() -> None:
        while waiting and time.perf_counter() < until:
            prepared = waiting.popleft()
            run.used += 1
            started = time.perf_counter()
            try:
                outcome = await target.send(prepared)
            except Exception as error:  # noqa: BLE001 - whatever a target raises, the competitors' own errors too, is a failed search
                run.failed += 1
                if len(run.errors) < _ERRORS_KEPT:
                    run.errors.append(f"{type(error).__name__}: {error}"[:300])
            else:
                run.latencies.append(time.perf_counter() - started)
                run.outcomes.append(outcome)

    await asyncio.gather(*(loop() for _ in range(job["concurrency"])))
    elapsed, spent = time.perf_counter() - began, time.process_time() - cpu
    stages = [outcome.stages for outcome in run.outcomes if outcome.stages]
    return {
        "latencies": run.latencies,
        "elapsed": elapsed,
        "client_cpu": spent,
        "used": run.used,
        "failed": run.failed,
        "errors": run.errors,
        "degraded": sum(outcome.degraded for outcome in run.outcomes),
        "cached": sum(outcome.cached for outcome in run.outcomes),
        "stages": [sorted(values)[len(values) // 2] for values in zip(*stages, strict=True)] if stages else [],
        "ids": [outcome.ids for outcome in run.outcomes] if job.get("collect") else [],
    }


async def main() -> None:
    """Serves jobs until stdin ends."""
    loop = asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(_THREADS))
    async with contextlib.AsyncExitStack() as stack:
        targets: dict[str, Target[Any]] = {}
        while line := await loop.run_in_executor(None, sys.stdin.buffer.readline):
            job = orjson.loads(line)
            key = orjson.dumps([job["target"], job["arguments"]], option=orjson.OPT_SORT_KEYS).decode()
            if key not in targets:
                target = make_target(job["target"], job["arguments"])
                await target.open()
                stack.push_async_callback(target.close)
                targets[key] = target
            result = await run_job(targets[key], job)
            sys.stdout.buffer.write(orjson.dumps(result, option=orjson.OPT_APPEND_NEWLINE))
            sys.stdout.buffer.flush()


if __name__ == "__main__":
    asyncio.run(main())

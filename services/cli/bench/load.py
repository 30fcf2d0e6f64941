"""The benchmark's side of the load generator: starts it, gives it jobs, reads what came of them."""

from __future__ import annotations

import asyncio
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import orjson

import services
from services.cli.bench.ask import Ask
from shared.errors import UnavailableError

_ROOT = Path(services.__path__[0]).resolve().parent
_LINE_LIMIT = 256 * 1024 * 1024  # bytes; a result has a number for each of thousands of searches
_JOB_TIMEOUT = 600.0  # seconds; far above any slice
_STOP_TIMEOUT = 10.0


def child_environment() -> dict[str, str]:
    """The environment of a Python process that is to find these very sources, wherever the command is run from."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (str(_ROOT), os.environ.get("PYTHONPATH"))))}


@dataclass(frozen=True, slots=True)
class TargetSpec:
    """What the load generator is to call: the name of a target and what it is made with."""

    kind: str
    arguments: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Burst:
    """What one job brought.

    Attributes:
        latencies: Seconds of each search that was answered.
        elapsed: Seconds from the first search to the last answer.
        client_cpu: Seconds of processor time that the load generator took.
        used: How many of the asks were sent.
        failed: How many ended with an error.
        errors: A few of those errors.
        degraded: How many answers were degraded.
        cached: How many answers came from the service's cache.
        stages: Medians inside the service in seconds: total, embed, vector, keyword, assemble; empty if the target tells nothing.
        ids: Chunk ids of each answer, if they were asked for; in the order of the asks at concurrency 1.
    """

    latencies: list[float]
    elapsed: float
    client_cpu: float
    used: int
    failed: int
    errors: list[str]
    degraded: int
    cached: int
    stages: list[float]
    ids: list[list[str]]


class LoadGenerator:
    """A process that makes load; an async context manager. One job at a time."""

    def __init__(self) -> None:
        self._process: Process | None = None

    async def __aenter__(self) -> Self:
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "services.cli.bench.worker",
            stdin=PIPE,
            stdout=PIPE,
            env=child_environment(),
            limit=_LINE_LIMIT,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        process = self._started()
        if process.stdin is not None:
            process.stdin.close()  # the end of its input ends it
        try:
            await asyncio.wait_for(process.wait(), _STOP_TIMEOUT)
        except TimeoutError:
            process.kill()
            await process.wait()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._started().pid

    async def run(
        self, target: TargetSpec, asks: Sequence[Ask], *, concurrency: int = 1, seconds: float | None = None, collect: bool = False
    ) -> Burst:
        """Runs one closed loop over the asks. `collect` asks for the ids in the answers. Raises UnavailableError if the process has ended."""
        process = self._started()
        if process.stdin is None or process.stdout is None:
            raise AssertionError("the process was started with pipes")
        job = {
            "target": target.kind,
            "arguments": target.arguments,
            "asks": [ask.as_json() for ask in asks],
            "concurrency": concurrency,
            "seconds": seconds,
            "collect": collect,
        }
        process.stdin.write(orjson.dumps(job, option=orjson.OPT_APPEND_NEWLINE))
        line = await asyncio.wait_for(process.stdout.readline(), _JOB_TIMEOUT)
        if not line:
            raise UnavailableError("the load generator has ended: its error stands above", component="bench")
        return Burst(**orjson.loads(line))

    def _started(self) -> Process:
        if self._process is None:
            raise AssertionError("use it as a context manager")
        return self._process

"""The life of a service process: real processes, real signals."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from shared.lifecycle import Lifecycle

ROOT = Path(__file__).parents[2]

# What every script below begins with: stages that log when they open and close.
PRELUDE = """
import asyncio, os, sys
from contextlib import asynccontextmanager
from shared.errors import ConfigurationError
from shared.lifecycle import run
from shared.observability import logging
logging.configure("tests", "info", "json")
log = logging.get_logger("tests")

@asynccontextmanager
async def stage(name, closing=None):
    log.info("open", stage=name)
    try:
        yield name
    finally:
        if closing is not None:
            await closing()
        log.info("close", stage=name)

async def for_ever(name="task"):
    try:
        await asyncio.Event().wait()
    finally:
        log.info("close", stage=name)

async def fail():
    raise RuntimeError("the disk is gone")
"""


class Script:
    """A process that runs `main(life)` of the given source."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.lines: list[dict[str, Any]] = []

    @classmethod
    async def start(cls, main: str, grace: float = 5) -> Script:
        """Starts the process."""
        source = f"{PRELUDE}\n{main}\nsys.exit(run(main, grace={grace}))\n"
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", source, cwd=ROOT, stdout=asyncio.subprocess.PIPE)
        return cls(process)

    async def until(self, event: str) -> None:
        """Reads lines until this event."""
        assert self.process.stdout is not None
        async with asyncio.timeout(20):
            while not (self.lines and self.lines[-1]["event"] == event):
                line = await self.process.stdout.readline()
                assert line, f"ended before {event!r}: {self.lines}"
                self.lines.append(json.loads(line))

    async def end(self) -> int:
        """Reads the rest and returns the exit code."""
        assert self.process.stdout is not None
        async with asyncio.timeout(20):
            rest = await self.process.stdout.read()
            self.lines += [json.loads(line) for line in rest.splitlines()]
            return await self.process.wait()

    def stages(self, event: str) -> list[str]:
        """The stages that logged this event, in order."""
        return [line["stage"] for line in self.lines if line["event"] == event]


@asynccontextmanager
async def script(main: str, grace: float = 5) -> AsyncIterator[Script]:
    """A process that is gone at the end."""
    running = await Script.start(main, grace)
    try:
        yield running
    finally:
        if running.process.returncode is None:
            running.process.kill()
            await running.process.wait()


IN_ORDER = """
async def main(life):
    await life.enter("store", stage("store"))
    life.background("task", for_ever())
    await life.enter("server", stage("server"))
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_closes_the_stages_in_reverse_and_exits_with_0(number: signal.Signals) -> None:
    """Server, then tasks, then stores: nothing is closed while something before it still uses it."""
    async with script(IN_ORDER) as process:
        await process.until("started")
        process.process.send_signal(number)
        assert await process.end() == 0
        assert process.stages("close") == ["server", "task", "store"]


async def test_a_background_task_that_fails_ends_the_process() -> None:
    """The reason is logged with its stack, the stages are closed, the exit code is not 0."""
    main = IN_ORDER + '    life.background("projector", fail())\n'
    async with script(main) as process:
        assert await process.end() == 1
        (line,) = [line for line in process.lines if line["event"] == "background task ended"]
        assert (line["task"], line["level"]) == ("projector", "error")
        assert "the disk is gone" in line["exception"]
        assert process.stages("close")[-1] == "store"


async def test_a_background_task_that_returns_ends_the_process() -> None:
    """Work that must go on for ever and stops in silence is a failure too."""
    main = IN_ORDER + '    life.background("projector", asyncio.sleep(0))\n'
    async with script(main) as process:
        assert await process.end() == 1


async def test_a_wrong_configuration_is_said_in_one_line() -> None:
    """No stack: what to change, and exit code 1 after closing what was open."""
    main = """
async def main(life):
    await life.enter("store", stage("store"))
    raise ConfigurationError("KB_PORT is taken")
"""
    async with script(main) as process:
        assert await process.end() == 1
        (line,) = [line for line in process.lines if line["event"] == "cannot start"]
        assert line["reason"] == "KB_PORT is taken"
        assert "exception" not in line
        assert process.stages("close") == ["store"]


async def test_a_signal_while_starting_closes_what_is_open() -> None:
    """A start that hangs can be stopped: the open stages are closed, and that is no failure."""
    main = """
async def main(life):
    await life.enter("store", stage("store"))
    log.info("hanging")
    await asyncio.Event().wait()
"""
    async with script(main) as process:
        await process.until("hanging")
        process.process.terminate()
        assert await process.end() == 0
        assert process.stages("close") == ["store"]


async def test_a_stage_that_hangs_costs_the_grace_and_not_the_others() -> None:
    """The stages behind a hanging one are closed all the same, and the exit code says that something went wrong."""
    main = """
async def main(life):
    await life.enter("store", stage("store"))
    await life.enter("server", stage("server", asyncio.Event().wait))
"""
    async with script(main, grace=0.2) as process:
        await process.until("started")
        process.process.terminate()
        assert await process.end() == 1
        assert process.stages("close") == ["store"]
        assert [line["stage"] for line in process.lines if line["event"] == "stage did not stop in time"] == ["server"]


async def test_a_second_signal_ends_the_process_at_once() -> None:
    """Somebody who presses Ctrl-C twice does not wait for the grace."""
    main = """
async def main(life):
    await life.enter("server", stage("server", asyncio.Event().wait))
"""
    async with script(main, grace=600) as process:
        await process.until("started")
        process.process.send_signal(signal.SIGINT)
        await process.until("stopping")
        process.process.send_signal(signal.SIGINT)
        assert await process.end() == 128 + signal.SIGINT


async def test_stop_in_the_last_step_of_the_start_does_not_hurt_the_end() -> None:
    """A stop that comes while `main` returns is not delivered into the closing of a stage."""
    closed = []

    async def close() -> None:
        await asyncio.sleep(0)
        closed.append(os.getpid())

    async def main(life: Lifecycle) -> None:
        life.on_stop("store", close)
        life.stop()

    assert await Lifecycle(5).run(main) == 0
    assert len(closed) == 1

"""The life of a service process: real processes, real signals, and the services themselves under load."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from itertools import count, pairwise
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from services.cli.stack.stack import Ports, Stack
from shared.client import KnowledgeBeast
from shared.domain import DocumentId, DocumentInput
from shared.errors import KnowledgeBeastError, UnavailableError
from shared.gen.knowledgebeast.indexer.v1 import change_feed_pb2, change_feed_pb2_grpc
from shared.lifecycle import Lifecycle
from shared.rpc.status import from_rpc_error
from tests.waiting import eventually

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


async def test_clients_are_turned_away_before_anything_is_closed() -> None:
    """First it is said that no calls are wanted, then some time passes, then the endless calls are ended, then the server closes."""
    main = """
async def main(life):
    await life.enter("server", stage("server"))
    life.on_drain(lambda: log.info("announced"), delay=0.3, end=lambda: log.info("ended"))
"""
    async with script(main) as process:
        await process.until("started")
        process.process.terminate()
        assert await process.end() == 0
        events = [line["event"] for line in process.lines]
        assert events[events.index("stopping") :] == ["stopping", "announced", "draining", "ended", "close", "stopped"]
        times = {line["event"]: datetime.fromisoformat(line["timestamp"]) for line in process.lines}
        assert 0.25 < (times["ended"] - times["announced"]).total_seconds() < 2


async def test_after_a_failure_nothing_is_waited_for() -> None:
    """What failed may be what calls need: the drain's time is not spent, the rest is as always."""
    main = """
async def main(life):
    await life.enter("server", stage("server"))
    life.on_drain(lambda: log.info("announced"), delay=60, end=lambda: log.info("ended"))
    life.background("projector", fail())
"""
    async with script(main, grace=600) as process:
        assert await process.end() == 1
        events = [line["event"] for line in process.lines]
        assert "draining" not in events
        assert events[-4:] == ["announced", "ended", "close", "stopped"]


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


# --- the indexer under load ----------------------------------------------------------------------------------------------------------------------


def document(name: str) -> DocumentInput:
    """A small document."""
    return DocumentInput(DocumentId(name), "", f"Everything about {name}.", {})


class Load:
    """Callers who write one document after another until the indexer is gone, and what they were told."""

    def __init__(self, client: KnowledgeBeast) -> None:
        self._client = client
        self.acknowledged: set[str] = set()
        self.failures: list[KnowledgeBeastError] = []

    async def write(self, caller: int) -> None:
        """Writes until a call fails."""
        for number in count():
            name = f"w{caller}-{number}"
            try:
                result = await self._client.upsert("docs", [document(name)])
            except KnowledgeBeastError as error:
                self.failures.append(error)
                return
            self.acknowledged |= {row.document_id for row in result.results if row.error is None}

    async def stream(self) -> None:
        """Streams without an end."""

        async def batches() -> AsyncIterator[list[DocumentInput]]:
            for number in count():
                yield [document(f"s{number}-{place}") for place in range(5)]

        try:
            async for result in self._client.ingest("docs", batches()):
                self.acknowledged |= {row.document_id for row in result.results if row.error is None}
        except KnowledgeBeastError as error:
            self.failures.append(error)


async def follow(address: str, ranges: list[tuple[int, int]]) -> grpc.aio.AioRpcError:
    """Watches the project's documents until the feed ends; how it ended."""
    async with grpc.aio.insecure_channel(address) as channel:
        scope = change_feed_pb2.ProjectScope(project_id="docs")
        call = change_feed_pb2_grpc.ChangeFeedServiceStub(channel).WatchChanges(change_feed_pb2.WatchChangesRequest(project=scope))
        try:
            async for event in call:
                if (batch := event.documents).HasField("range"):
                    ranges += [(batch.range.from_sequence, batch.range.to_sequence)]
        except grpc.aio.AioRpcError as error:
            return error
    raise AssertionError("the feed ended without a status")


async def stop_under_load(stack: Stack, load: Load, *work: asyncio.Task[None]) -> None:
    """SIGTERM once a hundred documents are acknowledged; returns when the indexer is gone and every caller knows."""

    async def acknowledged() -> int:
        return len(load.acknowledged)

    await eventually(acknowledged, lambda seen: seen >= 100, seconds=60)
    assert stack.indexer.pid is not None
    os.kill(stack.indexer.pid, signal.SIGTERM)
    assert await asyncio.wait_for(stack.indexer.wait(), 20) == 0
    await asyncio.wait_for(asyncio.gather(*work), 20)


async def stored(stack: Stack) -> set[str]:
    """The documents that the indexer has after it was started again."""
    await stack.start_indexer()
    async with KnowledgeBeast(stack.indexer_address, stack.query_address) as client:
        return {row.id async for row in client.list_documents("docs", page_size=1000)}


@asynccontextmanager
async def indexer_alone(folder: Path, model_dir: Path, **settings: str) -> AsyncIterator[Stack]:
    """An indexer without ChromaDB and query service."""
    stack = Stack(folder / "stack", model_dir, Ports.free(), settings=settings)
    await stack.start_indexer()
    try:
        yield stack
    finally:
        await stack.stop()


async def test_sigterm_under_load_loses_no_write_and_ends_feeds_with_a_whole_batch(tmp_path: Path, model_dir: Path) -> None:
    """Calls in flight are answered, later ones are told UNAVAILABLE, and what was acknowledged is there.

    A feed says why it ends, and its ranges join up to the last one that came, so that is a position to resume from.
    """
    async with indexer_alone(tmp_path, model_dir) as stack:
        ranges: list[tuple[int, int]] = []
        async with KnowledgeBeast(stack.indexer_address, stack.query_address) as client:
            await client.create_project("docs")
            load = Load(client)
            feed = asyncio.create_task(follow(stack.indexer_address, ranges))
            await stop_under_load(stack, load, *(asyncio.create_task(load.write(caller)) for caller in range(8)))
            ended = from_rpc_error(await asyncio.wait_for(feed, 20))
        assert {type(error) for error in load.failures} == {UnavailableError}
        assert isinstance(ended, UnavailableError)
        assert (ended.reason, ended.component) == ("SHUTTING_DOWN", "change_feed")
        assert ended.retry_after > 0
        assert ranges[0][0] == 0
        assert all(before[1] == after[0] for before, after in pairwise(ranges))
        kept = await stored(stack)
        assert load.acknowledged <= kept
        assert ranges[-1][1] <= len(kept)


async def test_an_endless_stream_is_cut_within_the_grace(tmp_path: Path, model_dir: Path) -> None:
    """A client that streams on for ever does not keep the indexer from stopping in time; every document that it had a receipt for is there."""
    async with indexer_alone(tmp_path, model_dir, KB_SHUTDOWN_GRACE="4") as stack:
        async with KnowledgeBeast(stack.indexer_address, stack.query_address) as client:
            await client.create_project("docs")
            load = Load(client)
            began = asyncio.get_running_loop().time()
            await stop_under_load(stack, load, asyncio.create_task(load.stream()))
            assert asyncio.get_running_loop().time() - began < 15
        assert {type(error) for error in load.failures} == {UnavailableError}
        assert load.acknowledged <= await stored(stack)

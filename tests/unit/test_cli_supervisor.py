"""What `kb up` does when a process ends, with real processes that only sleep."""

import asyncio
import socket
from collections.abc import AsyncIterator
from dataclasses import astuple
from pathlib import Path

import pytest

from services.cli.stack.process import ManagedProcess
from services.cli.stack.stack import Ports, Stack
from services.cli.supervisor import start, supervise
from shared.errors import FailedPreconditionError, UnavailableError


@pytest.fixture
async def sleeping(tmp_path: Path) -> AsyncIterator[Stack]:
    """A started stack of three processes that write a line and sleep."""
    stack = Stack(tmp_path, tmp_path, Ports.free())
    for name in ("chroma", "indexer", "query"):
        setattr(stack, name, _sleeper(name, tmp_path / f"{name}.log"))
    await stack.start()
    yield stack
    stack.kill()


def _sleeper(name: str, log: Path) -> ManagedProcess:
    async def ready() -> bool:
        return name in await asyncio.to_thread(log.read_text)

    return ManagedProcess(name, ("sh", "-c", f"echo this is {name}; exec sleep 1000"), log=log, ready=ready)


class Told:
    """What the supervisor said; lets a test wait for a line."""

    def __init__(self) -> None:
        self.lines: asyncio.Queue[str] = asyncio.Queue()

    def __call__(self, text: str, style: str) -> None:
        """Keeps the text."""
        self.lines.put_nowait(text)


async def test_chromadb_is_started_again_as_often_as_it_dies(sleeping: Stack) -> None:
    """Each time its end and its return are said, and the others run on."""
    told = Told()
    others = (sleeping.indexer.pid, sleeping.query.pid)
    watching = asyncio.create_task(supervise(sleeping, told, first_delay=0.01))
    async with asyncio.timeout(20):
        for _ in range(2):
            before = sleeping.chroma.pid
            sleeping.kill_chroma()

            assert "ChromaDB was killed by signal 9: searches go on, degraded" in await told.lines.get()
            assert await told.lines.get() == f"ChromaDB is back (process {sleeping.chroma.pid})"
            assert sleeping.chroma.running
            assert sleeping.chroma.pid != before
    watching.cancel()

    assert others == (sleeping.indexer.pid, sleeping.query.pid)


@pytest.mark.parametrize("name", ["indexer", "query"])
async def test_the_end_of_a_service_ends_the_watch_with_its_log(sleeping: Stack, name: str) -> None:
    """What it logged is said, then which service it was, how it ended, and where its log is."""
    told = Told()
    watching = asyncio.create_task(supervise(sleeping, told))
    await asyncio.sleep(0)
    {"indexer": sleeping.indexer, "query": sleeping.query}[name].kill()

    async with asyncio.timeout(20):
        with pytest.raises(UnavailableError, match=rf"^{name} was killed by signal 9: see .*/{name}\.log$") as error:
            await watching

    assert error.value.component == name
    assert told.lines.get_nowait() == f"{name}: this is {name}"


async def test_a_failed_start_leaves_nothing_running(sleeping: Stack, tmp_path: Path) -> None:
    """The third one fails; the first two are stopped."""
    sleeping.kill()
    sleeping.query = ManagedProcess("query", ("sh", "-c", "echo no way; exit 3"), log=tmp_path / "failing.log", ready=_never)

    with pytest.raises(UnavailableError, match="no way"):
        await sleeping.start()

    assert [process.running for process in sleeping.processes] == [False, False, False]


@pytest.mark.parametrize(
    ("logged", "cause"),
    [
        (
            '{"level": "info", "event": "begins"}\n{"level": "error", "event": "cannot start", "reason": "the disk is full"}',
            "cannot start: the disk is full",
        ),
        ("no module named x", "no module named x"),
    ],
)
async def test_a_failed_start_tells_the_cause_of_this_run_alone(sleeping: Stack, tmp_path: Path, logged: str, cause: str) -> None:
    """What an earlier run left in the log is not shown, and the error names the log."""
    sleeping.kill()
    log = tmp_path / "failing.log"
    log.write_text('{"level": "error", "event": "of the run before"}\n')
    sleeping.indexer = ManagedProcess("indexer", ("sh", "-c", 'echo "$1"; exit 1', "sh", logged), log=log, ready=_never)
    told = Told()

    with pytest.raises(UnavailableError) as error:
        await start(sleeping, told, lambda _: None)

    assert (error.value.component, error.value.message) == ("indexer", f"indexer ended with status 1 before it was ready: see {log}")
    assert told.lines.get_nowait() == f"indexer: {cause}"
    assert told.lines.empty()


async def _never() -> bool:
    return False


def test_free_ports_differ_and_a_taken_one_is_named() -> None:
    """The message names the option of the port."""
    ports = Ports.free()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", ports.query_http))
        taken.listen()

        with pytest.raises(FailedPreconditionError, match=rf"port {ports.query_http} is taken.*--query-http-port"):
            ports.check_free()

    ports.check_free()
    assert len(set(astuple(ports))) == 7

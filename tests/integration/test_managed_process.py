"""Child processes: readiness, ending in order, and never outliving the parent."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from services.cli.stack.chroma import chroma_server
from services.cli.stack.process import ManagedProcess, free_port
from shared.errors import FailedPreconditionError, UnavailableError
from tests.fixtures.chroma import ChromaServer

REPOSITORY = Path(__file__).parents[2]
Ready = Callable[[], Awaitable[bool]]

FOREVER = "import signal; signal.pause()"
SERVES_AFTER = "import pathlib, signal, sys; print('up', flush=True); pathlib.Path(sys.argv[1]).touch(); signal.pause()"
IGNORES_SIGTERM = (
    "import pathlib, signal, sys; signal.signal(signal.SIGTERM, signal.SIG_IGN); pathlib.Path(sys.argv[1]).touch()\nwhile True: signal.pause()"
)
HAS_CHILD = f"""
import pathlib, signal, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", {FOREVER!r}])
pathlib.Path(sys.argv[1] + ".tmp").write_text(str(child.pid))
pathlib.Path(sys.argv[1] + ".tmp").rename(sys.argv[1])
signal.pause()
"""
# A parent like `kb up`: starts the command it is given, prints the pid, and waits to be killed.
PARENT = """
import asyncio, pathlib, signal, sys
from services.cli.stack.process import ManagedProcess
folder = pathlib.Path(sys.argv[1])
async def ready():
    return (folder / "up").exists()
process = ManagedProcess("child", (sys.executable, "-c", sys.argv[2], str(folder / "up")), log=folder / "log", ready=ready)
asyncio.run(process.start(30))
if "--suspend" in sys.argv:
    process.suspend()
print(process.pid, flush=True)
signal.pause()
"""


async def at_once() -> bool:
    """Ready from the beginning."""
    return True


async def never() -> bool:
    """Never ready."""
    return False


def exists(path: Path) -> Ready:
    """Ready when the file is there."""

    async def ready() -> bool:
        return await asyncio.to_thread(path.exists)

    return ready


@asynccontextmanager
async def python(code: str, folder: Path, ready: Ready = at_once, **options: Any) -> AsyncIterator[ManagedProcess]:  # noqa: ANN401 - passed on
    """A process that runs the code with one argument, `folder/up`; killed in the end."""
    command = (sys.executable, "-c", code, str(folder / "up"))
    process = ManagedProcess("child", command, log=folder / "logs" / "child.log", ready=ready, **options)
    try:
        yield process
    finally:
        process.kill()


def gone(pid: int, timeout: float = 10.0) -> bool:
    """Whether the process (not our child) ends within `timeout` seconds."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([descriptor], [], [], timeout)[0])
    finally:
        os.close(descriptor)


async def test_start_returns_when_the_process_is_ready(tmp_path: Path) -> None:
    """`start` waits for readiness, and the output is in the log."""
    async with python(SERVES_AFTER, tmp_path, exists(tmp_path / "up")) as process:
        await process.start(30)

        assert (tmp_path / "up").exists()
        assert process.running
        assert process.returncode is None
        assert psutil.pid_exists(process.pid or -1)
        assert process.log_tail() == "up"


async def test_a_process_that_ends_early_fails_with_its_log(tmp_path: Path) -> None:
    """The error of a process that ends before it is ready carries the status and the last twenty log lines."""
    async with python("import sys; [print('line', n) for n in range(30)]; sys.exit(3)", tmp_path, never) as process:
        with pytest.raises(UnavailableError) as raised:
            await process.start(30)

    assert raised.value.component == "child"
    assert "ended with 3" in raised.value.message
    assert raised.value.message.splitlines()[1:] == [f"line {n}" for n in range(10, 30)]
    assert process.returncode == 3


async def test_a_command_that_does_not_exist_is_named(tmp_path: Path) -> None:
    """The error says which program could not be run."""
    process = ManagedProcess("ghost", ("/nonexistent/program",), log=tmp_path / "log", ready=never)

    with pytest.raises(UnavailableError, match="cannot run /nonexistent/program"):
        await process.start(30)


@pytest.mark.parametrize("hangs", [False, True])
async def test_a_process_that_is_not_ready_in_time_is_killed(tmp_path: Path, hangs: bool) -> None:
    """Not ready within the timeout, or readiness itself hanging: an error, and no process is left."""

    async def hanging() -> bool:
        await asyncio.Event().wait()
        return True

    async with python(FOREVER, tmp_path, hanging if hangs else never) as process:
        with pytest.raises(UnavailableError, match=r"not ready within 0\.3 s"):
            await process.start(0.3)

        assert process.returncode == -signal.SIGKILL


async def test_a_cancelled_start_leaves_no_process(tmp_path: Path) -> None:
    """Cancelling `start` kills the child."""
    asked = asyncio.Event()

    async def ready() -> bool:
        asked.set()
        return False

    async with python(FOREVER, tmp_path, ready) as process:
        start = asyncio.create_task(process.start(30))
        await asked.wait()
        start.cancel()
        with pytest.raises(asyncio.CancelledError):
            await start

        assert process.returncode == -signal.SIGKILL


async def test_stop_asks_first(tmp_path: Path) -> None:
    """A process that heeds SIGTERM ends by it, well within the grace, also while it is suspended."""
    for suspended in (False, True):
        async with python(SERVES_AFTER, tmp_path, exists(tmp_path / "up")) as process:
            await process.start(30)
            if suspended:
                process.suspend()
            await process.stop(30)

            assert process.returncode == -signal.SIGTERM
            assert not process.running


async def test_stop_kills_what_does_not_listen(tmp_path: Path) -> None:
    """A process that ignores SIGTERM is killed after the grace."""
    async with python(IGNORES_SIGTERM, tmp_path, exists(tmp_path / "up")) as process:
        await process.start(30)
        await process.stop(0.2)

        assert process.returncode == -signal.SIGKILL


async def test_stop_of_what_does_not_run_does_nothing(tmp_path: Path) -> None:
    """Stopping and killing are safe before the start and after the end."""
    async with python("", tmp_path) as process:
        await process.stop()
        process.kill()
        with pytest.raises(FailedPreconditionError):
            await process.wait()


async def test_every_waiter_hears_of_the_end(tmp_path: Path) -> None:
    """Several tasks may wait; all get the return code."""
    async with python(FOREVER, tmp_path) as process:
        await process.start(30)
        waiters = [asyncio.create_task(process.wait()) for _ in range(3)]
        process.kill()

        assert await asyncio.gather(*waiters) == [-signal.SIGKILL] * 3


async def test_it_can_be_started_again(tmp_path: Path) -> None:
    """After its end a second start makes a new process; a running one is not started twice."""
    async with python(FOREVER, tmp_path) as process:
        await process.start(30)
        first = process.pid
        with pytest.raises(FailedPreconditionError, match="running already"):
            await process.start(30)
        process.kill()
        await process.start(30)

        assert process.running
        assert process.pid != first


async def test_suspend_stops_and_resume_goes_on(tmp_path: Path) -> None:
    """A suspended process counts as running, and the kernel shows it as stopped."""
    async with python(SERVES_AFTER, tmp_path, exists(tmp_path / "up")) as process:
        await process.start(30)
        process.suspend()
        await asyncio.to_thread(os.waitid, os.P_PID, process.pid or -1, os.WSTOPPED | os.WNOWAIT)

        assert process.running
        assert psutil.Process(process.pid).status() == psutil.STATUS_STOPPED
        process.resume()
        await asyncio.to_thread(os.waitid, os.P_PID, process.pid or -1, os.WCONTINUED | os.WNOWAIT)
        assert psutil.Process(process.pid).status() != psutil.STATUS_STOPPED


async def test_it_has_a_session_of_its_own(tmp_path: Path) -> None:
    """Ctrl-C in the parent's terminal does not reach it: it is in another session and process group."""
    async with python(FOREVER, tmp_path) as process:
        await process.start(30)

        assert os.getsid(process.pid or -1) == process.pid != os.getsid(0)


@pytest.mark.parametrize("how", ["kill", "crash"])
async def test_its_own_children_end_with_it(tmp_path: Path, how: str) -> None:
    """What a process leaves in its group is killed, whether it is killed or dies by itself."""
    async with python(HAS_CHILD, tmp_path, exists(tmp_path / "up")) as process:
        await process.start(30)
        grandchild = int((tmp_path / "up").read_text())
        if how == "kill":
            process.kill()
        else:
            os.kill(process.pid or -1, signal.SIGABRT)
            await process.wait()

        assert await asyncio.to_thread(gone, grandchild)


@pytest.mark.parametrize("suspended", [False, True])
@pytest.mark.parametrize("code", [SERVES_AFTER, IGNORES_SIGTERM])
def test_it_dies_when_its_parent_is_killed(tmp_path: Path, code: str, suspended: bool) -> None:
    """After kill -9 of the parent the child ends too, also one that ignores SIGTERM or is suspended."""
    options = ["--suspend"] if suspended else []
    with subprocess.Popen([sys.executable, "-c", PARENT, str(tmp_path), code, *options], stdout=subprocess.PIPE, cwd=REPOSITORY) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert psutil.pid_exists(child)
        parent.kill()
        parent.wait()

    assert gone(child)


async def test_the_environment_is_what_it_is_given(tmp_path: Path) -> None:
    """`env` is the whole environment, `cwd` the working directory."""
    code = "import os; print(sorted(k for k in os.environ if k != 'LC_CTYPE'), os.getcwd())"
    async with python(code, tmp_path, never, env={"ONLY": "this"}, cwd=tmp_path) as process:
        with pytest.raises(UnavailableError, match="ended with 0"):
            await process.start(30)

        assert process.log_tail() == f"['ONLY'] {tmp_path}"


async def test_chroma_ignores_the_callers_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """CHROMA_* variables, which override the server's file, do not reach it."""
    monkeypatch.setenv("CHROMA_PORT", str(free_port()))
    monkeypatch.setenv("CHROMA_PERSIST_PATH", str(tmp_path / "elsewhere"))
    server = chroma_server(tmp_path / "data", free_port(), tmp_path / "chroma.log")
    try:
        await server.start(30)

        assert (tmp_path / "data" / "chroma.sqlite3").exists()
        assert not (tmp_path / "elsewhere").exists()
    finally:
        server.kill()


async def test_another_server_on_the_port_is_not_taken_for_it(tmp_path: Path, chroma: ChromaServer) -> None:
    """ChromaDB on a port that another ChromaDB holds fails to start, though a heartbeat answers there."""
    server = chroma_server(tmp_path / "data", chroma.port, tmp_path / "chroma.log")
    try:
        with pytest.raises(UnavailableError, match="chromadb"):
            await server.start(15)
    finally:
        server.kill()
    assert chroma.process.running

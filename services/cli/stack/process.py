"""A child process that does not outlive its parent. Linux only: it relies on `prctl(2)` and on `pidfd_open(2)`.

The child is the leader of a session of its own, so that Ctrl-C in a terminal reaches the parent alone, which stops its children in the order
that it wants. The parent's death, `kill -9` included, kills the child: see `_EXEC`.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from shared.errors import FailedPreconditionError, UnavailableError

LOG_LINES_IN_ERRORS = 20
_LOG_TAIL_BYTES = 64 * 1024
_READY_INTERVAL = 0.05  # seconds between two looks at readiness
_LISTENING_PORTS = 15_000, 32_000
_KILL_TIMEOUT = 10.0  # seconds; the kernel takes milliseconds unless a disk hangs

# Runs in the child before the command replaces it: asks the kernel for SIGKILL when the parent dies (PR_SET_PDEATHSIG is 1, kept over exec), then
# looks whether the parent died before that was in force. A wrapper and not `preexec_fn`, which runs Python between fork and exec and so may
# deadlock in a program with threads. SIGKILL and not SIGTERM: a stopped or hung child must die too. Raises the soft limit of open files, because
# ChromaDB keeps 4 a collection and the usual 1,024 would end at about 250 collections.
_EXEC = """
import ctypes, os, resource, sys
if ctypes.CDLL(None, use_errno=True).prctl(1, 9) != 0:
    sys.exit("prctl(PR_SET_PDEATHSIG) failed: " + os.strerror(ctypes.get_errno()))
if os.getppid() != int(sys.argv[1]):
    sys.exit("the parent is gone")
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
most = 65536 if hard == resource.RLIM_INFINITY else min(hard, 65536)
if soft != resource.RLIM_INFINITY and soft < most:
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
try:
    os.execvp(sys.argv[2], sys.argv[2:])
except OSError as error:
    sys.exit(f"cannot run {sys.argv[2]}: {error}")
"""


def free_port() -> int:
    """A TCP port of the loopback interface that nothing listens on now; another process may take it before the caller does.

    Below those that Linux gives to outgoing connections (32768 and more), which would else take it as soon as it is let go.
    """
    while True:
        port = random.randrange(*_LISTENING_PORTS)  # noqa: S311 - spreads, keeps no secret
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def check_port_free(port: int, advice: str) -> None:
    """Raises FailedPreconditionError, with the port and the advice, if something listens on a TCP port of the loopback interface."""
    with socket.socket() as probe:
        # As servers do: a port whose last connections are still closing (TIME_WAIT) is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise FailedPreconditionError(f"port {port} is taken: {advice}") from error


class ManagedProcess:
    """One command, run at most once at a time; it may be started again after it has ended.

    It belongs to no event loop: any loop of the parent may wait for it. Start it from a thread that lives as long as it should: the kernel
    takes the end of the thread that started it for the death of the parent.

    Args:
        name: What messages call it.
        command: Program and arguments; the program is looked up in PATH.
        log: Its stdout and stderr are appended here; folders are made.
        env: Its whole environment; None passes on the parent's.
        cwd: Its working directory; None is the parent's.
        ready: Tells whether it serves. May raise nothing; may hang, which counts as "not yet".
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        log: Path,
        ready: Callable[[], Awaitable[bool]],
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> None:
        self.name = name
        self.log = log
        self._command = tuple(command)
        self._env = None if env is None else dict(env)
        self._cwd = cwd
        self._ready = ready
        self._process: subprocess.Popen[bytes] | None = None
        self._log_start = 0  # where this run's lines begin in the log

    @property
    def pid(self) -> int | None:
        """Its process id, also after it has ended; None before the first start."""
        return None if self._process is None else self._process.pid

    @property
    def returncode(self) -> int | None:
        """Exit status, or minus the signal that ended it; None while it runs and before the first start."""
        return None if self._process is None else self._collect(self._process)

    @property
    def running(self) -> bool:
        """True from start until the end, also while suspended."""
        return self._process is not None and self.returncode is None

    async def start(self, timeout: float = 30.0) -> None:
        """Starts it and waits until it is ready.

        Raises:
            FailedPreconditionError: it runs already.
            UnavailableError: it ended, or was not ready within `timeout` seconds and has been killed; carries the last lines of its log.
        """
        if self.running:
            raise FailedPreconditionError(f"{self.name} is running already")
        self._process = self._spawn()
        try:
            async with asyncio.timeout(timeout):
                while not await self._serves():
                    with suppress(TimeoutError):
                        await asyncio.wait_for(self.wait(), _READY_INTERVAL)
        except TimeoutError as error:
            self.kill()
            raise self._failure(f"was not ready within {timeout:g} s") from error
        except BaseException:
            self.kill()
            raise

    async def wait(self) -> int:
        """Waits until it ends; its return code. Raises FailedPreconditionError before the first start."""
        process = self._started()
        if (code := self._collect(process)) is not None:
            return code
        # The process cannot be reaped between the look above and this line (nothing is awaited), so the pid is still its own.
        descriptor = os.pidfd_open(process.pid)
        try:
            ended = asyncio.Event()
            loop = asyncio.get_running_loop()
            loop.add_reader(descriptor, ended.set)
            try:
                await ended.wait()
            finally:
                loop.remove_reader(descriptor)
        finally:
            os.close(descriptor)
        self._collect(process)
        return process.wait()

    async def stop(self, grace: float = 10.0) -> None:
        """Asks it to end (SIGTERM), waits `grace` seconds, then kills it. Does nothing if it does not run. Cancelled, it kills at once."""
        if not self.running:
            return
        process = self._started()
        try:
            process.send_signal(signal.SIGTERM)
            self.resume()  # a suspended process would see SIGTERM only afterwards
            with suppress(TimeoutError):
                await asyncio.wait_for(self.wait(), grace)
        finally:
            self.kill()

    def kill(self) -> None:
        """Kills it and its process group (SIGKILL) and waits for the kernel to say that it is gone. Does nothing if it does not run."""
        if self.running:
            process = self._started()
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(_KILL_TIMEOUT)

    def suspend(self) -> None:
        """Stops it from running (SIGSTOP): to its clients it hangs. Does nothing if it does not run."""
        self._signal_group(signal.SIGSTOP)

    def resume(self) -> None:
        """Lets it run on (SIGCONT). Does nothing if it does not run."""
        self._signal_group(signal.SIGCONT)

    def log_tail(self, lines: int = LOG_LINES_IN_ERRORS) -> str:
        """The last lines that it logged since it was started last, at most 64 KB; empty if there are none."""
        try:
            with self.log.open("rb") as file:
                file.seek(max(self._log_start, file.seek(0, os.SEEK_END) - _LOG_TAIL_BYTES))
                return "\n".join(file.read().decode(errors="replace").splitlines()[-lines:])
        except FileNotFoundError:
            return ""

    def _spawn(self) -> subprocess.Popen[bytes]:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        # -I -S: nothing of the child's environment or of site-packages runs in the wrapper; it costs about 15 ms.
        wrapper = (sys.executable, "-I", "-S", "-c", _EXEC, str(os.getpid()))
        with self.log.open("ab") as log:
            self._log_start = log.seek(0, os.SEEK_END)
            return subprocess.Popen(  # noqa: S603 - the command is the caller's, no shell
                (*wrapper, *self._command),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._env,
                cwd=self._cwd,
                start_new_session=True,
            )

    async def _serves(self) -> bool:
        """Whether it is ready; raises UnavailableError when it has ended. Looks at its life last: another process may answer in its place."""
        ready = await self._ready()
        if (code := self.returncode) is not None:
            raise self._failure(f"ended with {code} before it was ready")
        return ready

    def _collect(self, process: subprocess.Popen[bytes]) -> int | None:
        """The return code if the process has ended. Before it is reaped (its id is still its own) what it left in its process group is killed."""
        if process.returncode is None and os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            os.killpg(process.pid, signal.SIGKILL)
        return process.poll()

    def _signal_group(self, number: signal.Signals) -> None:
        if self.running:
            os.killpg(self._started().pid, number)

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise FailedPreconditionError(f"{self.name} has not been started")
        return self._process

    def _failure(self, what: str) -> UnavailableError:
        return UnavailableError(f"{self.name} {what}; last lines of {self.log}:\n{self.log_tail()}", component=self.name)

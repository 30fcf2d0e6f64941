"""Keeps a stack running in the foreground: what dies, and what to do about it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from services.cli.stack.log_lines import causes
from services.cli.stack.process import ManagedProcess
from services.cli.stack.stack import Stack
from shared.errors import UnavailableError

_FIRST_DELAY = 1.0  # seconds before ChromaDB is started again; doubled after each failure
_LONGEST_DELAY = 30.0
_STABLE = 60.0  # seconds; whoever ran so long starts again with the first delay
_LOG_LINES = 200  # looked at for the cause of an end

Say = Callable[[str, str], None]


async def start(stack: Stack, say: Say, on_ready: Callable[[ManagedProcess], None], *, logs_stay: bool = True) -> None:
    """Starts a stack. If a process fails, `say(text, style)` is told the cause, and UnavailableError says which one it was and how it ended.

    `logs_stay`: whether there is a point in naming the log.
    """
    try:
        await stack.start(on_ready)
    except UnavailableError as error:
        failed = next((process for process in stack.processes if process.name == error.component), None)
        if failed is None or failed.returncode is None:
            raise
        late = isinstance(error.__cause__, TimeoutError)  # killed by us, so its own errors may say why
        _say_cause(failed, say, killed=failed.returncode < 0 and not late)
        how = "was not ready in time" if late else f"{how_it_ended(failed.returncode)} before it was ready"
        see = f": see {failed.log}" if logs_stay else ""
        raise UnavailableError(f"{failed.name} {how}{see}", component=failed.name) from error


async def supervise(stack: Stack, say: Say, *, first_delay: float = _FIRST_DELAY) -> None:
    """Watches a started stack until it must end: returns never, raises UnavailableError when the indexer or the query service has ended.

    ChromaDB's end is no such reason: searches go on without it, and it is started again after `first_delay` seconds, twice that the
    next time, and so on up to 30. `say(text, style)` is told, and also what a service logged of the cause of its end.
    """
    watchers = [
        asyncio.create_task(_keep_chroma(stack, say, first_delay)),
        asyncio.create_task(_until_end(stack.indexer, say)),
        asyncio.create_task(_until_end(stack.query, say)),
    ]
    try:
        await asyncio.gather(*watchers)
    finally:
        for watcher in watchers:
            watcher.cancel()
        await asyncio.gather(*watchers, return_exceptions=True)


async def _until_end(process: ManagedProcess, say: Say) -> None:
    code = await process.wait()
    _say_cause(process, say, killed=code < 0)
    raise UnavailableError(f"{process.name} {how_it_ended(code)}: see {process.log}", component=process.name)


def _say_cause(process: ManagedProcess, say: Say, *, killed: bool) -> None:
    for text in causes(process.log_tail(_LOG_LINES).splitlines(), killed=killed):
        say(f"{process.name}: {text}", "red")


async def _keep_chroma(stack: Stack, say: Say, first_delay: float) -> None:
    delay = first_delay
    while True:
        began = time.monotonic()
        code = await stack.chroma.wait()
        if time.monotonic() - began >= _STABLE:
            delay = first_delay
        say(f"ChromaDB {how_it_ended(code)}: searches go on, degraded; starting it again in {delay:g} s (log: {stack.chroma.log})", "yellow")
        await asyncio.sleep(delay)
        delay = min(delay * 2, _LONGEST_DELAY)
        try:
            await stack.start_chroma()
        except UnavailableError:
            _say_cause(stack.chroma, say, killed=False)
            say(f"ChromaDB did not start: see {stack.chroma.log}", "yellow")
        else:
            say(f"ChromaDB is back (process {stack.chroma.pid})", "green")


def how_it_ended(code: int) -> str:
    """`ended with status 1` or `was killed by signal 9`."""
    return f"was killed by signal {-code}" if code < 0 else f"ended with status {code}"

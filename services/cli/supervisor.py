"""Keeps a stack running in the foreground: what dies, and what to do about it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from services.cli.stack.process import ManagedProcess
from services.cli.stack.stack import Stack
from shared.errors import UnavailableError

_FIRST_DELAY = 1.0  # seconds before ChromaDB is started again; doubled after each failure
_LONGEST_DELAY = 30.0
_STABLE = 60.0  # seconds; whoever ran so long starts again with the first delay
_LOG_LINES = 15

Say = Callable[[str, str], None]


async def supervise(stack: Stack, say: Say, *, first_delay: float = _FIRST_DELAY) -> None:
    """Watches a started stack until it must end: returns never, raises UnavailableError when the indexer or the query service has ended.

    ChromaDB's end is no such reason: searches go on without it, and it is started again after `first_delay` seconds, twice that the
    next time, and so on up to 30. `say(text, style)` is told.
    """
    watchers = [
        asyncio.create_task(_keep_chroma(stack, say, first_delay)),
        asyncio.create_task(_until_end(stack.indexer)),
        asyncio.create_task(_until_end(stack.query)),
    ]
    try:
        await asyncio.gather(*watchers)
    finally:
        for watcher in watchers:
            watcher.cancel()
        await asyncio.gather(*watchers, return_exceptions=True)


async def _until_end(process: ManagedProcess) -> None:
    code = await process.wait()
    last = process.log_tail(_LOG_LINES)
    raise UnavailableError(f"the {process.name} {how_it_ended(code)}; last lines of {process.log}:\n{last}", component=process.name)


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
        except UnavailableError as error:
            say(f"ChromaDB did not start: {error.message}", "yellow")
        else:
            say("ChromaDB is back", "green")


def how_it_ended(code: int) -> str:
    """`ended with status 1` or `was killed by signal 9`."""
    return f"was killed by signal {-code}" if code < 0 else f"ended with status {code}"

"""Work that goes on in the foreground until somebody asks it to end."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine
from typing import Any

from services.cli.console import line
from services.cli.signals import handled_signals


async def until_asked(work: Coroutine[Any, Any, None]) -> None:
    """Runs `work` until it ends, or until Ctrl-C, SIGTERM or SIGHUP, and lets it put itself in order; asked again, it does not wait for that.

    Raises what `work` raises.
    """
    asked = asyncio.Event()
    running = asyncio.create_task(work)

    def on_signal() -> None:
        if asked.is_set():
            running.cancel()  # the second time: do not wait for anything
        asked.set()

    with handled_signals(on_signal):
        stopping = asyncio.create_task(asked.wait())
        try:
            await asyncio.wait((running, stopping), return_when=asyncio.FIRST_COMPLETED)
            if asked.is_set():
                line("stopping")
        finally:
            stopping.cancel()
            running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await running

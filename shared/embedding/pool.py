"""A bounded set of threads for work that uses a whole core."""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from opentelemetry import trace
from opentelemetry.trace import Span

ResultT = TypeVar("ResultT")


def _telling(call: Callable[[], ResultT], span: Span) -> Callable[[], ResultT]:
    """The call, which says on the span how long it has waited for a thread: of several, the one that began last, which is the longest."""
    queued = time.perf_counter()

    def told() -> ResultT:
        if span.is_recording():  # the caller may have given up
            span.set_attribute("kb.wait.core_seconds", time.perf_counter() - queued)
        return call()

    return told


class CorePool:
    """Runs at most `size` calls at the same time.

    Threads of its own, rather than `asyncio.to_thread` behind a semaphore: a cancelled caller gives its place in the semaphore back while its
    thread still computes, so more than `size` would run; and the default threads may all be waiting for a disk.
    """

    def __init__(self, size: int, name: str) -> None:
        self._executor = ThreadPoolExecutor(max_workers=size, thread_name_prefix=name)

    async def run(self, call: Callable[[], ResultT]) -> ResultT:
        """The result of `call()`, which sees the caller's context variables. Cancelled while it waits for a thread, it never runs."""
        context = contextvars.copy_context()
        span = trace.get_current_span()
        if span.is_recording():
            call = _telling(call, span)
        return await asyncio.get_running_loop().run_in_executor(self._executor, context.run, call)

    def close(self) -> None:
        """Ends the threads when their present calls return; calls that wait are cancelled."""
        self._executor.shutdown(wait=False, cancel_futures=True)

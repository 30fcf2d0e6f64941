"""The bounded threads that models run in."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Iterator

import pytest

from shared.embedding.pool import CorePool

_variable: contextvars.ContextVar[str] = contextvars.ContextVar("_variable", default="unset")


@pytest.fixture
def pool() -> Iterator[CorePool]:
    """A pool of one thread."""
    pool = CorePool(1, "test")
    yield pool
    pool.close()


async def test_the_callers_context_is_kept(pool: CorePool) -> None:
    """Trace and request ids of the caller are seen in the thread."""
    _variable.set("request 7")
    assert await pool.run(_variable.get) == "request 7"


async def test_a_cancelled_caller_does_not_free_a_core_before_the_work_ends(pool: CorePool) -> None:
    """Work that was begun counts against the bound until it is over, also when nobody waits for it any more."""
    running, release = threading.Event(), threading.Event()
    order: list[str] = []

    def first() -> None:
        running.set()
        release.wait(10)
        order.append("first ended")

    abandoned = asyncio.create_task(pool.run(first))
    await asyncio.to_thread(running.wait, 10)
    abandoned.cancel()
    with pytest.raises(asyncio.CancelledError):
        await abandoned
    second = asyncio.create_task(pool.run(lambda: order.append("second")))
    await asyncio.sleep(0)  # the second call is handed to the pool
    release.set()
    await second
    assert order == ["first ended", "second"]


async def test_work_that_is_cancelled_while_it_waits_never_runs(pool: CorePool) -> None:
    """A search that was given up does not cost a core later."""
    running, release = threading.Event(), threading.Event()
    ran: list[str] = []

    def first() -> None:
        running.set()
        release.wait(10)

    busy = asyncio.create_task(pool.run(first))
    await asyncio.to_thread(running.wait, 10)
    waiting = asyncio.create_task(pool.run(lambda: ran.append("cancelled")))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    release.set()
    await busy
    await pool.run(lambda: ran.append("last"))
    assert ran == ["last"]

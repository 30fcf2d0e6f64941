"""Waiting for a condition that nothing announces, in one place."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")


async def eventually(look: Callable[[], Awaitable[T]], holds: Callable[[T], object], *, seconds: float = 60.0) -> T:
    """Looks until what is seen holds, and returns it; fails with what was seen last when the time is over."""
    seen: T | None = None
    try:
        async with asyncio.timeout(seconds):
            while True:
                seen = await look()
                if holds(seen):
                    return seen
                await asyncio.sleep(0.05)
    except TimeoutError as error:
        raise AssertionError(f"did not come true within {seconds:g} s; last seen: {seen}") from error

"""Waiting for a condition in another process, which announces nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

_LOOK = 0.1  # seconds between two looks


async def until(holds: Callable[[], Awaitable[bool]], seconds: float) -> None:
    """Looks until it holds. Raises TimeoutError after so many seconds."""
    async with asyncio.timeout(seconds):
        while not await holds():  # noqa: ASYNC110 - see above
            await asyncio.sleep(_LOOK)

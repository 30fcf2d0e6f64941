"""Bytes on their way: what goes in comes out in the same order, each piece after the delay that it was given."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

_PIECES = 256  # under way at most, of 64 KB each


class DelayLine:
    """One direction of a connection. Use it from one event loop."""

    def __init__(self) -> None:
        self._pieces: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_PIECES)

    async def put(self, data: bytes, seconds: float) -> None:
        """Sends bytes that arrive after so many seconds; waits while too many are under way. Empty bytes are the end."""
        await self._pieces.put((asyncio.get_running_loop().time() + seconds, data))

    async def deliver(self, receive: Callable[[bytes], Awaitable[None]]) -> None:
        """Hands over what arrives, until the end. Raises what `receive` raises."""
        clock = asyncio.get_running_loop().time
        while True:
            due, data = await self._pieces.get()
            await asyncio.sleep(max(0.0, due - clock()))
            if not data:
                return
            await receive(data)

"""Wakes those who wait for a change: feeds, the vectoriser, the projector."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable


class Signals:
    """One event a subject. Used from the event loop alone.

    Take the event *before* looking whether there is something to do, and await it only if there was nothing: then no change is missed.
    """

    def __init__(self) -> None:
        self._events: dict[Hashable, asyncio.Event] = {}

    def event(self, subject: Hashable) -> asyncio.Event:
        """The event that the next change of the subject sets."""
        return self._events.setdefault(subject, asyncio.Event())

    def notify(self, *subjects: Hashable) -> None:
        """The subjects have changed."""
        for subject in subjects:
            event = self._events.pop(subject, None)
            if event is not None:
                event.set()


async def wait(event: asyncio.Event, seconds: float) -> None:
    """Returns when the event is set or the time is over."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return

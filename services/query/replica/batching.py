"""Joins small events that are waiting anyway, because each batch costs the replica three commits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace

from shared.domain import DocumentBatch, FeedEvent
from shared.errors import UnavailableError

# A joined batch ends with the one that brings it to this many changes.
MAX_CHANGES = 2_000


def join_documents(events: list[FeedEvent]) -> list[FeedEvent]:
    """The same events in the same order, with neighbouring document batches of which one begins where the other ends made one."""
    joined: list[FeedEvent] = []
    for event in events:
        last = joined[-1] if joined else None
        if (
            isinstance(event, DocumentBatch)
            and isinstance(last, DocumentBatch)
            and last.range.epoch == event.range.epoch
            and last.range.end == event.range.start
            and len(last.changes) < MAX_CHANGES
        ):
            joined[-1] = DocumentBatch(replace(event.range, start=last.range.start), [*last.changes, *event.changes])
        else:
            joined.append(event)
    return joined


async def in_groups(events: AsyncGenerator[FeedEvent, None], limit: int) -> AsyncGenerator[list[FeedEvent], None]:
    """Events as they come, those that arrived while the consumer was busy (at most `limit`) together.

    Reads ahead by at most `limit` events. What `events` raises is raised after everything before it was handed out. Closes `events`.
    """
    queue: asyncio.Queue[FeedEvent | Exception] = asyncio.Queue(limit)
    pump = asyncio.create_task(_pump(events, queue))
    try:
        while True:
            group: list[FeedEvent] = []
            item = await queue.get()
            while not isinstance(item, Exception):
                group.append(item)
                if queue.empty():
                    break
                item = queue.get_nowait()
            if group:
                yield group
            if isinstance(item, Exception):
                raise item
    finally:
        pump.cancel()
        await asyncio.wait({pump})


async def _pump(events: AsyncGenerator[FeedEvent, None], queue: asyncio.Queue[FeedEvent | Exception]) -> None:
    try:
        async with aclosing(events):
            async for event in events:
                await queue.put(event)
        await queue.put(UnavailableError("the change feed ended", component="change_feed"))
    except Exception as error:  # noqa: BLE001 # handed to the consumer, which raises it
        await queue.put(error)

"""Who follows the change feed, and how far each of them is behind. For metrics.

How far the catalog is comes from outside (`heads`), because a stream whose consumer does not read stands still and tells nothing.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Final

from shared.domain import Cursor, DocumentBatch, FeedEvent, FeedStream, Heartbeat, ProjectId, Reset, SequenceNumber
from shared.observability import metrics
from shared.observability.guarded import read_at_scrape

# Names that are told apart; streams of further ones are put together.
_MOST_NAMES: Final = 50
_OTHERS: Final = "_other"
_UNNAMED: Final = "_unnamed"
_LIST_STREAMS: Final = metrics.FEED_STREAMS.labels("project_list")
_PROJECT_STREAMS: Final = metrics.FEED_STREAMS.labels("project")


class _Stream:
    """What one stream of a project has been sent."""

    __slots__ = ("head", "project_id", "sent")

    def __init__(self, project_id: ProjectId, documents: Cursor | None) -> None:
        self.project_id = project_id
        self.sent = documents.sequence if documents else SequenceNumber(0)
        self.head = SequenceNumber(0)

    def told(self, event: FeedEvent) -> None:
        """The consumer has been sent an event."""
        match event:
            case Reset(stream=FeedStream.DOCUMENTS):
                self.sent = SequenceNumber(0)
            case DocumentBatch():
                self.sent, self.head = event.range.end, event.range.head
            case Heartbeat():
                self.head = event.head


class Followers:
    """The streams that are open. Used from the event loop alone, but for what a scrape reads.

    Attributes:
        heads: Sequence of the last change of each project, as of a moment ago; whoever reads the catalog sets it.
    """

    def __init__(self) -> None:
        self.heads: Mapping[ProjectId, SequenceNumber] = {}
        self._streams: dict[str, set[_Stream]] = {}

    async def project_list(self, events: AsyncGenerator[FeedEvent, None]) -> AsyncGenerator[FeedEvent, None]:
        """The events of the project list, for a consumer. Closes `events`."""
        with _LIST_STREAMS.track_inprogress():
            async with aclosing(events):
                async for event in events:
                    yield event

    async def project(
        self, name: str, project_id: ProjectId, documents: Cursor | None, events: AsyncGenerator[FeedEvent, None]
    ) -> AsyncGenerator[FeedEvent, None]:
        """The events of a project, for the consumer of that name, which asks for what comes behind the cursor. Closes `events`."""
        stream = _Stream(project_id, documents)
        label = self._enter(name or _UNNAMED, stream)
        try:
            with _PROJECT_STREAMS.track_inprogress():
                async with aclosing(events):
                    async for event in events:
                        yield event
                        stream.told(event)  # it has been sent when the consumer asks for the next one
        finally:
            self._leave(label, stream)

    def _enter(self, name: str, stream: _Stream) -> str:
        label = self._label(name)
        streams = self._streams.setdefault(label, set())
        streams.add(stream)
        read_at_scrape(metrics.FEED_FOLLOWER_LAG.labels(label), lambda: self._lag(streams))
        return label

    def _leave(self, label: str, stream: _Stream) -> None:
        streams = self._streams[label]
        streams.discard(stream)
        if not streams:
            del self._streams[label]
            metrics.FEED_FOLLOWER_LAG.remove(label)

    def _label(self, name: str) -> str:
        named = len(self._streams) - (_OTHERS in self._streams)
        return name if name in self._streams or named < _MOST_NAMES else _OTHERS

    def _lag(self, streams: set[_Stream]) -> int:
        heads = self.heads
        # A copy, made in one step: the event loop changes the set meanwhile.
        return sum(max(0, max(heads.get(stream.project_id, 0), stream.head) - stream.sent) for stream in tuple(streams))

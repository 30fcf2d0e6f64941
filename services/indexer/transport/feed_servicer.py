"""ChangeFeedService."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

from services.indexer.application.feed import ChangeFeed
from services.indexer.transport import convert
from services.indexer.transport.binding import bound_project
from shared.domain import Cursor, FeedEvent, SequenceNumber
from shared.errors import InvalidArgumentError
from shared.gen.knowledgebeast.common.v1 import types_pb2
from shared.gen.knowledgebeast.indexer.v1 import change_feed_pb2 as pb
from shared.gen.knowledgebeast.indexer.v1 import change_feed_pb2_grpc
from shared.rpc.call import Context

_MAX_CONSUMER = 100


def _cursor(message: types_pb2.Cursor, field: str) -> Cursor | None:
    """A cursor; None if none was sent. Raises InvalidArgumentError."""
    if not message.epoch:
        return None
    if message.sequence < 0:
        raise InvalidArgumentError.of(f"{field}.sequence", "must not be negative")
    return Cursor(message.epoch, SequenceNumber(message.sequence))


class ChangeFeedServicer(change_feed_pb2_grpc.ChangeFeedServiceServicer):
    """The change feed."""

    def __init__(self, feed: ChangeFeed) -> None:
        self._feed = feed

    async def WatchChanges(self, request: pb.WatchChangesRequest, context: Context) -> AsyncIterator[pb.WatchChangesResponse]:
        """See the proto."""
        if len(request.consumer) > _MAX_CONSUMER:
            raise InvalidArgumentError.of("consumer", f"must have at most {_MAX_CONSUMER} characters")
        async with aclosing(self._events(request)) as events:
            async for event in events:
                yield convert.feed_event(event)

    def _events(self, request: pb.WatchChangesRequest) -> AsyncGenerator[FeedEvent, None]:
        scope = request.WhichOneof("scope")
        if scope == "project_list":
            return self._feed.watch_project_list(_cursor(request.project_list.cursor, "project_list.cursor"))
        if scope == "project":
            return self._feed.watch_project(
                bound_project(request.project.project_id, "project.project_id"),
                _cursor(request.project.documents, "project.documents"),
                _cursor(request.project.vectors, "project.vectors"),
                include_vectors=request.project.include_vectors,
            )
        raise InvalidArgumentError.of("scope", "must be project_list or project")

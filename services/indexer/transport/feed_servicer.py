"""ChangeFeedService."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

from services.indexer.application.digest import Digests
from services.indexer.application.feed import ChangeFeed
from services.indexer.application.followers import Followers
from services.indexer.transport import convert
from services.indexer.transport.binding import bound_project
from shared.digest import DEFAULT_PARTS, MAX_NAMED_SEQUENCES, MAX_PARTS, SequenceRange
from shared.domain import Cursor, FeedEvent, SequenceNumber
from shared.errors import InvalidArgumentError
from shared.gen.knowledgebeast.common.v1 import types_pb2
from shared.gen.knowledgebeast.indexer.v1 import change_feed_pb2 as pb
from shared.gen.knowledgebeast.indexer.v1 import change_feed_pb2_grpc
from shared.rpc.access_log import bind_project
from shared.rpc.call import Context

_MAX_CONSUMER = 100


def _cursor(message: types_pb2.Cursor, field: str) -> Cursor | None:
    """A cursor; None if none was sent. Raises InvalidArgumentError."""
    if not message.epoch:
        return None
    if message.sequence < 0:
        raise InvalidArgumentError.of(f"{field}.sequence", "must not be negative")
    return Cursor(message.epoch, SequenceNumber(message.sequence))


def _wanted(request: pb.GetDigestRequest) -> SequenceRange | None:
    """The range; None for everything. Raises InvalidArgumentError, also for what else the request has wrong."""
    if not 0 <= request.parts <= MAX_PARTS:
        raise InvalidArgumentError.of("parts", f"must be 1 to {MAX_PARTS:,}, or 0")
    if not request.HasField("range"):
        if request.include_documents:
            raise InvalidArgumentError.of("range", "must be set when documents are to be included")
        return None
    start, end = request.range.from_sequence, request.range.to_sequence
    if not 0 <= start <= end:
        raise InvalidArgumentError.of("range", "must begin at 0 or later, and not end before it begins")
    if request.include_documents and end - start > MAX_NAMED_SEQUENCES:
        raise InvalidArgumentError.of("range", f"must have at most {MAX_NAMED_SEQUENCES:,} sequences when documents are to be included")
    return SequenceRange(SequenceNumber(start), SequenceNumber(end))


class ChangeFeedServicer(change_feed_pb2_grpc.ChangeFeedServiceServicer):
    """The change feed."""

    def __init__(self, feed: ChangeFeed, digests: Digests, followers: Followers) -> None:
        self._feed = feed
        self._digests = digests
        self._followers = followers

    async def WatchChanges(self, request: pb.WatchChangesRequest, context: Context) -> AsyncIterator[pb.WatchChangesResponse]:
        """See the proto."""
        bind_project(request.project.project_id)
        if len(request.consumer) > _MAX_CONSUMER:
            raise InvalidArgumentError.of("consumer", f"must have at most {_MAX_CONSUMER} characters")
        async with aclosing(self._events(request)) as events:
            async for event in events:
                yield convert.feed_event(event)

    async def GetDigest(self, request: pb.GetDigestRequest, context: Context) -> pb.GetDigestResponse:
        """See the proto."""
        project_id = bound_project(request.project_id)
        wanted = _wanted(request)
        digest = await self._digests.read(
            project_id,
            wanted,
            request.parts or DEFAULT_PARTS,
            named=request.include_documents,
            unsent=request.include_unsent_vectors,
        )
        return convert.digest(digest)

    def _events(self, request: pb.WatchChangesRequest) -> AsyncGenerator[FeedEvent, None]:
        scope = request.WhichOneof("scope")
        if scope == "project_list":
            listed = self._feed.watch_project_list(_cursor(request.project_list.cursor, "project_list.cursor"))
            return self._followers.project_list(listed)
        if scope == "project":
            project_id = bound_project(request.project.project_id, "project.project_id")
            documents, vectors = _cursor(request.project.documents, "project.documents"), _cursor(request.project.vectors, "project.vectors")
            changes = self._feed.watch_project(project_id, documents, vectors, include_vectors=request.project.include_vectors)
            return self._followers.project(request.consumer, project_id, documents, changes)
        raise InvalidArgumentError.of("scope", "must be project_list or project")

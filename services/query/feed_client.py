"""The indexer's change feed over gRPC: messages in, the domain's events out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator

import grpc
import grpc.aio
import numpy as np

from shared.digest import Digest, DocumentDigest, ProjectDigest, SequenceRange
from shared.domain import (
    ChunkId,
    Cursor,
    DocumentBatch,
    DocumentChange,
    DocumentId,
    FeedEvent,
    FeedStream,
    Heartbeat,
    ProjectBatch,
    ProjectChange,
    ProjectId,
    Range,
    Reset,
    ResetReason,
    SequenceNumber,
    TraceContext,
    VectorBatch,
    VectorSequence,
)
from shared.errors import InvalidArgumentError, NotFoundError, UnavailableError
from shared.gen.knowledgebeast.common.v1 import types_pb2
from shared.gen.knowledgebeast.indexer.v1 import change_feed_pb2 as pb
from shared.gen.knowledgebeast.indexer.v1.change_feed_pb2_grpc import ChangeFeedServiceStub
from shared.resilience.deadline import Deadline
from shared.rpc import resources
from shared.rpc.convert import time_of

_COMPONENT = "change_feed"
# Converting a larger message takes more than about a millisecond, so a thread does it and searches go on.
_LARGE_MESSAGE_BYTES = 64_000
# Seconds: gRPC takes no deadline that is over already.
_SHORTEST_CALL = 0.001
_REASONS = {
    pb.Reset.REASON_NO_CURSOR: ResetReason.NO_CURSOR,
    pb.Reset.REASON_EPOCH_CHANGED: ResetReason.EPOCH_CHANGED,
    pb.Reset.REASON_AHEAD_OF_HEAD: ResetReason.AHEAD_OF_HEAD,
    pb.Reset.REASON_COMPACTED: ResetReason.COMPACTED,
}
_STREAMS = {
    pb.Reset.STREAM_PROJECTS: FeedStream.PROJECTS,
    pb.Reset.STREAM_DOCUMENTS: FeedStream.DOCUMENTS,
    pb.Reset.STREAM_VECTORS: FeedStream.VECTORS,
}


def _range(message: pb.Range) -> Range:
    return Range(message.epoch, SequenceNumber(message.from_sequence), SequenceNumber(message.to_sequence), SequenceNumber(message.head_sequence))


def _project_change(message: pb.ProjectChange) -> ProjectChange:
    sequence = SequenceNumber(message.sequence)
    if message.WhichOneof("change") == "upserted":
        project = resources.project(message.upserted)
        return ProjectChange(sequence, project.id, project)
    return ProjectChange(sequence, ProjectId(message.deleted_project_id), None)


def _document_change(message: pb.DocumentChange) -> DocumentChange:
    document = resources.document(message.upserted) if message.WhichOneof("change") == "upserted" else None
    document_id = document.id if document else DocumentId(message.deleted_document_id)
    trace = TraceContext(message.trace.traceparent, message.trace.tracestate)
    return DocumentChange(SequenceNumber(message.sequence), document_id, document, time_of(message.commit_time), trace)


def _vectors(message: pb.VectorBatch) -> VectorBatch:
    values = np.frombuffer(b"".join(vector.values for vector in message.vectors), dtype="<f4").astype(np.float32)
    matrix = values.reshape(len(message.vectors), message.dimension)
    return VectorBatch(_range(message.range), [ChunkId(vector.chunk_id) for vector in message.vectors], matrix)


def event_of(message: pb.WatchChangesResponse) -> FeedEvent | None:
    """The event of a message; None for a kind that this version does not know, whose data a later range would show to be missing.

    Raises ValueError, KeyError or InvalidArgumentError when the message makes no sense.
    """
    match message.WhichOneof("event"):
        case "reset":
            return Reset(_REASONS[message.reset.reason], _STREAMS[message.reset.stream], message.reset.epoch)
        case "projects":
            return ProjectBatch(_range(message.projects.range), [_project_change(change) for change in message.projects.changes])
        case "documents":
            return DocumentBatch(_range(message.documents.range), [_document_change(change) for change in message.documents.changes])
        case "vectors":
            return _vectors(message.vectors)
        case "heartbeat":
            beat = message.heartbeat
            return Heartbeat(beat.epoch, SequenceNumber(beat.head_sequence), VectorSequence(beat.vector_sequence), time_of(beat.time))
        case _:
            return None


def digest_of(message: pb.GetDigestResponse) -> ProjectDigest:
    """The digest of a message."""
    return ProjectDigest(
        message.epoch,
        SequenceNumber(message.head_sequence),
        [
            Digest(
                SequenceRange(SequenceNumber(part.range.from_sequence), SequenceNumber(part.range.to_sequence)),
                part.document_count,
                part.chunk_count,
                part.checksum,
            )
            for part in message.parts
        ],
        [DocumentDigest(DocumentId(each.id), SequenceNumber(each.sequence), each.chunk_count, each.checksum) for each in message.documents],
        VectorSequence(message.embedded_sequence),
        [ChunkId(chunk_id) for chunk_id in message.unsent_chunk_ids],
    )


def _cursor(cursor: Cursor | None) -> types_pb2.Cursor | None:
    return None if cursor is None else types_pb2.Cursor(epoch=cursor.epoch, sequence=cursor.sequence)


class GrpcFeed:
    """Satisfies `services.query.replica.feed.Feed`.

    Args:
        channel: to the indexer; its limit on received messages must be as large as the indexer's on sent ones.
        consumer: name of this consumer in the indexer's logs, at most 100 characters.
        idle_timeout: seconds of silence after which the stream counts as dead; the indexer sends something at least every 5 seconds.
    """

    def __init__(self, channel: grpc.aio.Channel, consumer: str, *, idle_timeout: float = 15.0) -> None:
        self._stub = ChangeFeedServiceStub(channel)
        self._consumer = consumer
        self._idle_timeout = idle_timeout

    def watch_project_list(self, cursor: Cursor | None) -> AsyncGenerator[FeedEvent, None]:
        """See the port."""
        return self._watch(pb.WatchChangesRequest(project_list=pb.ProjectListScope(cursor=_cursor(cursor)), consumer=self._consumer))

    def watch_project(
        self, project_id: ProjectId, documents: Cursor | None, vectors: Cursor | None, *, include_vectors: bool
    ) -> AsyncGenerator[FeedEvent, None]:
        """See the port."""
        scope = pb.ProjectScope(project_id=project_id, documents=_cursor(documents), vectors=_cursor(vectors), include_vectors=include_vectors)
        return self._watch(pb.WatchChangesRequest(project=scope, consumer=self._consumer))

    async def digest(self, project_id: ProjectId, wanted: SequenceRange, parts: int, *, named: bool, deadline: Deadline) -> ProjectDigest:
        """See `services.query.ports.CatalogDigests`."""
        covered = pb.SequenceRange(from_sequence=wanted.start, to_sequence=wanted.end)
        request = pb.GetDigestRequest(project_id=project_id, range=covered, parts=parts, include_documents=named)
        return await self._get_digest(request, deadline)

    async def unsent(self, project_id: ProjectId, deadline: Deadline) -> ProjectDigest:
        """See `services.query.ports.CatalogDigests`."""
        return await self._get_digest(pb.GetDigestRequest(project_id=project_id, range=pb.SequenceRange(), include_unsent_vectors=True), deadline)

    async def _get_digest(self, request: pb.GetDigestRequest, deadline: Deadline) -> ProjectDigest:
        try:
            return digest_of(await self._stub.GetDigest(request, timeout=max(_SHORTEST_CALL, deadline.remaining())))
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND:
                raise NotFoundError("the project does not exist", reason="PROJECT_NOT_FOUND") from error
            raise UnavailableError("the indexer did not tell what the catalog holds", component=_COMPONENT) from error

    async def _watch(self, request: pb.WatchChangesRequest) -> AsyncGenerator[FeedEvent, None]:
        call = self._stub.WatchChanges(request)
        try:
            messages = aiter(call)
            while True:
                message = await self._next(messages)
                large = message.ByteSize() > _LARGE_MESSAGE_BYTES
                event = await asyncio.to_thread(event_of, message) if large else event_of(message)
                if event is not None:
                    yield event
        except (ValueError, KeyError, InvalidArgumentError) as error:
            raise UnavailableError("the indexer sent an event that cannot be read", component=_COMPONENT) from error
        finally:
            call.cancel()  # ends the RPC however the stream was left; after its end this does nothing

    async def _next(self, messages: AsyncIterator[pb.WatchChangesResponse]) -> pb.WatchChangesResponse:
        try:
            async with asyncio.timeout(self._idle_timeout):
                return await anext(messages)
        except StopAsyncIteration as error:
            raise UnavailableError("the indexer ended the change feed", component=_COMPONENT) from error
        except TimeoutError as error:
            raise UnavailableError("the change feed fell silent", component=_COMPONENT) from error
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND:
                raise NotFoundError("the project does not exist", reason="PROJECT_NOT_FOUND") from error
            raise UnavailableError("the indexer's change feed is not available", component=_COMPONENT) from error
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            # gRPC says so too when the channel is closed under the call; that is no wish to end this task.
            raise UnavailableError("the channel to the indexer was closed", component=_COMPONENT) from error

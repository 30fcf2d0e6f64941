"""The feed's client against a real gRPC server that is written by hand."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager

import grpc
import grpc.aio
import numpy as np
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from services.query.feed_client import GrpcFeed
from shared.domain import (
    Chunk,
    ChunkId,
    ChunkingSettings,
    Cursor,
    DocumentBatch,
    FeedEvent,
    FeedStream,
    Heartbeat,
    Project,
    ProjectBatch,
    ProjectId,
    ProjectState,
    Range,
    Reset,
    ResetReason,
    SequenceNumber,
    TraceContext,
    VectorBatch,
    VectorSequence,
)
from shared.errors import NotFoundError, UnavailableError
from shared.gen.knowledgebeast.common.v1 import types_pb2
from shared.gen.knowledgebeast.indexer.v1 import change_feed_pb2 as pb
from shared.gen.knowledgebeast.indexer.v1 import indexer_pb2, project_pb2
from shared.gen.knowledgebeast.indexer.v1.change_feed_pb2_grpc import ChangeFeedServiceServicer, add_ChangeFeedServiceServicer_to_server
from shared.rpc.channel import create_channel
from tests.fakes.feed import TIME

P = ProjectId("p")
Script = Callable[[pb.WatchChangesRequest, "Context"], AsyncIterator[pb.WatchChangesResponse]]
Context = grpc.aio.ServicerContext[pb.WatchChangesRequest, pb.WatchChangesResponse]
BEAT = pb.WatchChangesResponse(heartbeat=pb.Heartbeat(epoch="e1", head_sequence=7, vector_sequence=5))


class Servicer(ChangeFeedServiceServicer):
    """Plays a script. `begun` and `ended` are set when a call has come and when it is over on this side."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.requests: list[pb.WatchChangesRequest] = []
        self.begun, self.ended = asyncio.Event(), asyncio.Event()

    async def GetDigest(self, request: pb.GetDigestRequest, context: object) -> pb.GetDigestResponse:
        """Not asked for here."""
        raise AssertionError(f"nobody should ask for {request}")

    async def WatchChanges(self, request: pb.WatchChangesRequest, context: Context) -> AsyncIterator[pb.WatchChangesResponse]:
        """Plays the script."""
        self.requests.append(request)
        self.begun.set()
        try:
            async for message in self.script(request, context):
                yield message
        finally:
            self.ended.set()


def sending(*messages: pb.WatchChangesResponse, code: grpc.StatusCode | None = None, stay: bool = False) -> Script:
    """Sends messages; then stays, fails or ends."""

    async def script(_: pb.WatchChangesRequest, context: Context) -> AsyncIterator[pb.WatchChangesResponse]:
        for message in messages:
            yield message
        if stay:
            await asyncio.Event().wait()
        if code is not None:
            await context.abort(code, "details that must not be shown")

    return script


@asynccontextmanager
async def serving(script: Script, *, idle_timeout: float = 20.0) -> AsyncIterator[tuple[Servicer, GrpcFeed, grpc.aio.Channel]]:
    """A server on loopback, and the feed's client on a channel with the interceptors that the service has."""
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    servicer = Servicer(script)
    add_ChangeFeedServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    channel = create_channel(f"127.0.0.1:{port}", max_message_bytes=16_000_000)
    try:
        yield servicer, GrpcFeed(channel, "test", idle_timeout=idle_timeout), channel
    finally:
        await channel.close()
        await server.stop(None)


async def collect(events: AsyncGenerator[FeedEvent, None], count: int) -> list[FeedEvent]:
    """The first events of a stream."""
    found: list[FeedEvent] = []
    async with aclosing(events):
        async for event in events:
            found.append(event)
            if len(found) == count:
                break
    return found


def watch(feed: GrpcFeed) -> AsyncGenerator[FeedEvent, None]:
    """Watches a project from the beginning."""
    return feed.watch_project(P, None, None, include_vectors=True)


def stamp() -> Timestamp:
    """The time of everything."""
    message = Timestamp()
    message.FromDatetime(TIME)
    return message


def large_document() -> indexer_pb2.Document:
    """A document with every field set."""
    document = indexer_pb2.Document(id="one", title="Title", sequence=3, update_time=stamp(), create_time=stamp(), chunk_count=1, content_hash="hash")
    document.chunks.append(types_pb2.Chunk(id="one#1", ordinal=0, text="é" * 100_000, start_offset=0, end_offset=100_000))
    document.metadata.update({"text": "x", "whole": 3, "fraction": 0.5, "yes": True, "list": ["a", "b"], "numbers": [1, 2]})
    return document


async def test_every_message_becomes_its_event() -> None:
    """All kinds of messages arrive as the domain's events, exact in every field."""
    covered = pb.Range(epoch="e1", from_sequence=2, to_sequence=4, head_sequence=9)
    project = project_pb2.Project(
        id="p", display_name="P", description="d", labels={"a": "b"}, embedding_model="m", document_count=1, chunk_count=2, epoch="e1",
        head_sequence=9, vector_sequence=8, state=project_pb2.Project.STATE_REBUILDING, create_time=stamp(), update_time=stamp(), etag="t",
        generation=3, chunking=project_pb2.ChunkingSettings(max_tokens=100, overlap_tokens=0),
    )  # fmt: skip
    vectors = np.array([[0.6, 0.8], [1.0, 0.0]], dtype="<f4")
    trace = types_pb2.TraceContext(traceparent="00-a-b-01", tracestate="s=1")
    messages = [
        pb.WatchChangesResponse(reset=pb.Reset(reason=pb.Reset.REASON_COMPACTED, stream=pb.Reset.STREAM_VECTORS, epoch="e1")),
        pb.WatchChangesResponse(
            projects=pb.ProjectBatch(
                range=covered, changes=[pb.ProjectChange(sequence=3, upserted=project), pb.ProjectChange(sequence=4, deleted_project_id="q")]
            )
        ),
        pb.WatchChangesResponse(
            documents=pb.DocumentBatch(
                range=covered,
                changes=[
                    pb.DocumentChange(sequence=3, commit_time=stamp(), trace=trace, upserted=large_document()),
                    pb.DocumentChange(sequence=4, commit_time=stamp(), deleted_document_id="two"),
                ],
            )
        ),
        pb.WatchChangesResponse(
            vectors=pb.VectorBatch(
                range=covered, dimension=2, vectors=[pb.ChunkVector(chunk_id=f"c{row}", values=vectors[row].tobytes()) for row in range(2)]
            )
        ),
        pb.WatchChangesResponse(heartbeat=pb.Heartbeat(epoch="e1", head_sequence=7, vector_sequence=5, time=stamp())),
        pb.WatchChangesResponse(vectors=pb.VectorBatch(range=covered)),
    ]
    async with serving(sending(*messages, stay=True)) as (_, feed, _channel):
        reset, projects, documents, some_vectors, heartbeat, no_vectors = await collect(watch(feed), 6)
    here = Range("e1", SequenceNumber(2), SequenceNumber(4), SequenceNumber(9))
    assert reset == Reset(ResetReason.COMPACTED, FeedStream.VECTORS, "e1")
    assert heartbeat == Heartbeat("e1", SequenceNumber(7), VectorSequence(5), TIME)
    assert isinstance(projects, ProjectBatch)
    assert projects.range == here
    created, deleted = projects.changes
    assert (deleted.sequence, deleted.project_id, deleted.project) == (4, "q", None)
    assert created.project == Project(
        ProjectId("p"), "P", "d", {"a": "b"}, "m", ChunkingSettings(100, 0), 3, "e1", SequenceNumber(9), VectorSequence(8), 1, 2,
        ProjectState.REBUILDING, TIME, TIME, "t",
    )  # fmt: skip
    assert isinstance(documents, DocumentBatch)
    written, removed = documents.changes
    assert (removed.document_id, removed.document, removed.trace) == ("two", None, TraceContext())
    assert (written.sequence, written.commit_time, written.trace) == (3, TIME, TraceContext("00-a-b-01", "s=1"))
    assert written.document is not None
    assert written.document.chunks == (Chunk(ChunkId("one#1"), 0, "é" * 100_000, 0, 100_000),)
    expected = {"text": "x", "whole": 3, "fraction": 0.5, "yes": True, "list": ("a", "b"), "numbers": (1, 2)}
    assert written.document.metadata == expected
    assert {name: type(value) for name, value in expected.items()} == {name: type(value) for name, value in written.document.metadata.items()}
    assert isinstance(some_vectors, VectorBatch)
    assert (some_vectors.range, list(some_vectors.chunk_ids)) == (here, ["c0", "c1"])
    assert some_vectors.vectors.dtype == np.float32
    assert np.array_equal(some_vectors.vectors, vectors)
    assert isinstance(no_vectors, VectorBatch)
    assert not no_vectors.chunk_ids


async def test_cursors_are_sent() -> None:
    """The indexer is told where the copy stands, and what is wanted."""
    async with serving(sending(BEAT, stay=True)) as (servicer, feed, _):
        await collect(feed.watch_project(P, Cursor("e1", SequenceNumber(3)), Cursor("e1", SequenceNumber(2)), include_vectors=True), 1)
        await collect(feed.watch_project(P, None, None, include_vectors=False), 1)
        await collect(feed.watch_project_list(Cursor("l", SequenceNumber(4))), 1)
        await collect(feed.watch_project_list(None), 1)
    one, two, three, four = servicer.requests
    assert (one.project.documents.sequence, one.project.vectors.sequence, one.project.include_vectors, one.consumer) == (3, 2, True, "test")
    assert (two.project.HasField("documents"), two.project.HasField("vectors"), two.project.include_vectors) == (False, False, False)
    assert (three.WhichOneof("scope"), three.project_list.cursor.epoch, three.project_list.cursor.sequence) == ("project_list", "l", 4)
    assert four.WhichOneof("scope") == "project_list"
    assert not four.project_list.HasField("cursor")


@pytest.mark.parametrize(
    ("script", "kind"),
    [
        (sending(BEAT, code=grpc.StatusCode.NOT_FOUND), NotFoundError),
        (sending(BEAT, code=grpc.StatusCode.INTERNAL), UnavailableError),
        (sending(BEAT, code=grpc.StatusCode.UNAVAILABLE), UnavailableError),
        (sending(BEAT), UnavailableError),
        (sending(pb.WatchChangesResponse(reset=pb.Reset(epoch="e1"))), UnavailableError),
        (
            sending(pb.WatchChangesResponse(vectors=pb.VectorBatch(dimension=3, vectors=[pb.ChunkVector(chunk_id="c", values=b"12345")]))),
            UnavailableError,
        ),
    ],
    ids=["not found", "internal", "unavailable", "ended", "reset without a reason", "torn vector"],
)
async def test_every_end_is_an_error_of_ours(script: Script, kind: type[NotFoundError | UnavailableError]) -> None:
    """However a stream ends, it raises from the error tree, and nothing of the server's text is in the message."""
    async with serving(script) as (_, feed, _channel):
        with pytest.raises(kind) as raised:
            await collect(watch(feed), 100)
    assert "details" not in raised.value.message
    assert getattr(raised.value, "component", "change_feed") == "change_feed"


async def test_nobody_there_is_an_error_of_ours() -> None:
    """A refused connection is UnavailableError."""
    async with serving(sending()) as (_, _feed, _channel):
        pass
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        channel = create_channel(f"127.0.0.1:{unused.getsockname()[1]}", max_message_bytes=1_000)
        with pytest.raises(UnavailableError):
            await collect(watch(GrpcFeed(channel, "test")), 1)
        await channel.close()


async def test_silence_ends_the_stream_on_both_sides() -> None:
    """A server that says nothing for too long is given up, also after it has spoken, and sees the end of the call."""
    async with serving(sending(BEAT, stay=True), idle_timeout=0.2) as (servicer, feed, _):
        with pytest.raises(UnavailableError, match="silent"):
            await collect(watch(feed), 100)
        async with asyncio.timeout(30):
            await servicer.ended.wait()


async def test_what_is_of_another_kind_is_passed_over() -> None:
    """An event that only a newer version knows does not end the stream."""
    async with serving(sending(pb.WatchChangesResponse(), BEAT, stay=True)) as (_, feed, _channel):
        [event] = await collect(watch(feed), 1)
    assert isinstance(event, Heartbeat)


async def test_leaving_the_stream_ends_the_call() -> None:
    """Closing the generator is seen by the server."""
    async with serving(sending(BEAT, stay=True)) as (servicer, feed, _):
        await collect(watch(feed), 1)
        async with asyncio.timeout(30):
            await servicer.ended.wait()


async def test_cancelling_ends_the_call_and_is_not_swallowed() -> None:
    """A cancelled reader is cancelled, and the server sees the end."""
    async with serving(sending(stay=True)) as (servicer, feed, _):
        reader = asyncio.create_task(collect(watch(feed), 1))
        async with asyncio.timeout(30):
            await servicer.begun.wait()
            reader.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reader
            await servicer.ended.wait()


async def test_closing_the_channel_is_an_error_and_no_cancellation() -> None:
    """GRPC reports a closed channel as a cancellation; the task that reads was not cancelled and must not end as if it were."""
    async with serving(sending(stay=True)) as (servicer, feed, channel):
        reader = asyncio.create_task(collect(watch(feed), 1))
        async with asyncio.timeout(30):
            await servicer.begun.wait()
            await channel.close()
            with pytest.raises(UnavailableError):
                await reader

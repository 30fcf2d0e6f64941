"""What the shipped service config makes of UNAVAILABLE, on real servers."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio
import pytest

from shared.client import KnowledgeBeast, SearchQuery
from shared.errors import KnowledgeBeastError, ResourceExhaustedError, UnavailableError
from shared.gen.knowledgebeast.indexer.v1 import change_feed_pb2, change_feed_pb2_grpc
from shared.gen.knowledgebeast.query.v1 import query_pb2, query_pb2_grpc
from shared.resilience.admission import OVERLOADED
from shared.rpc import chain
from shared.rpc.channel import create_channel
from shared.rpc.server import bind, create_server

MESSAGE_BYTES = 1024 * 1024
MOST_ATTEMPTS = 4


def moment() -> KnowledgeBeastError:
    """Over in a moment."""
    return UnavailableError("not now", component="tests", retry_after=0.5)


def while_() -> KnowledgeBeastError:
    """Over in a while."""
    return UnavailableError("not for a while", component="tests", retry_after=30.0)


def overload() -> KnowledgeBeastError:
    """Too much to do for a moment."""
    return ResourceExhaustedError("too much", retry_after=0.1, reason=OVERLOADED)


def long_overload() -> KnowledgeBeastError:
    """Too much to do for a while."""
    return ResourceExhaustedError("too much", retry_after=30.0, reason=OVERLOADED)


def disk_full() -> KnowledgeBeastError:
    """A limit that time alone does not lift."""
    return ResourceExhaustedError("no room", retry_after=0.1, reason="DISK_FULL")


@dataclass
class Replica:
    """Fails the first `failures` calls."""

    error: Callable[[], KnowledgeBeastError]
    failures: int
    calls: int = 0

    async def search(self, _request: query_pb2.SearchRequest, _context: object) -> query_pb2.SearchResponse:
        """One call."""
        self.calls += 1
        if self.calls <= self.failures:
            raise self.error()
        return query_pb2.SearchResponse()


class Stopping(Replica):
    """Cancels the first call, as a server does with those that wait to be taken when it stops."""

    def __init__(self) -> None:
        super().__init__(moment, 0)

    async def search(self, request: query_pb2.SearchRequest, context: Any) -> query_pb2.SearchResponse:  # noqa: ANN401 - gRPC's context
        """One call."""
        if not self.calls:
            self.calls += 1
            await context.abort(grpc.StatusCode.CANCELLED, "going down")
        return await super().search(request, context)


class Feed:
    """Always fails."""

    def __init__(self) -> None:
        self.calls = 0

    async def watch(self, _request: change_feed_pb2.WatchChangesRequest, _context: object) -> None:
        """One call."""
        self.calls += 1
        raise moment()


@asynccontextmanager
async def listening(*replicas: Replica, feed: Feed | None = None) -> AsyncIterator[str]:
    """A server for each replica, and the name of all of them for a channel."""
    ports = []
    servers = []
    for replica in replicas:
        server = create_server(interceptors=chain.interceptors(), max_message_bytes=MESSAGE_BYTES)
        search = grpc.unary_unary_rpc_method_handler(
            replica.search,
            request_deserializer=query_pb2.SearchRequest.FromString,
            response_serializer=query_pb2.SearchResponse.SerializeToString,
        )
        server.add_registered_method_handlers("knowledgebeast.query.v1.QueryService", {"Search": search})
        if feed is not None:
            watch = grpc.unary_stream_rpc_method_handler(
                feed.watch,
                request_deserializer=change_feed_pb2.WatchChangesRequest.FromString,
                response_serializer=change_feed_pb2.WatchChangesResponse.SerializeToString,
            )
            server.add_registered_method_handlers("knowledgebeast.indexer.v1.ChangeFeedService", {"WatchChanges": watch})
        ports.append(bind(server, "127.0.0.1", 0))
        servers.append(server)
        await server.start()
    try:
        yield "ipv4:" + ",".join(f"127.0.0.1:{port}" for port in ports)
    finally:
        for server in servers:
            await server.stop(0)


@asynccontextmanager
async def serve(*replicas: Replica, feed: Feed | None = None) -> AsyncIterator[grpc.aio.Channel]:
    """A server for each replica, and one channel to all of them."""
    async with listening(*replicas, feed=feed) as target, create_channel(target, max_message_bytes=MESSAGE_BYTES) as channel:
        yield channel


async def search(channel: grpc.aio.Channel) -> None:
    """One search."""
    await query_pb2_grpc.QueryServiceStub(channel).Search(query_pb2.SearchRequest(), timeout=20)


async def test_a_search_that_meets_unavailable_is_made_again() -> None:
    """The caller does not hear of three failures in a row."""
    replica = Replica(moment, MOST_ATTEMPTS - 1)
    async with serve(replica) as channel:
        await search(channel)
    assert replica.calls == MOST_ATTEMPTS


async def test_a_search_is_made_a_few_times_at_most() -> None:
    """Then the caller hears what is wrong."""
    replica = Replica(moment, 100)
    async with serve(replica) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await search(channel)
    assert failed.value.code() is grpc.StatusCode.UNAVAILABLE
    assert replica.calls == MOST_ATTEMPTS


async def test_a_call_that_a_stopping_server_cancels_is_made_again() -> None:
    """It had not been taken yet; nobody but the server has cancelled it."""
    replica = Stopping()
    async with serve(replica) as channel:
        await search(channel)
    assert replica.calls == 2


async def test_a_retry_goes_to_another_replica() -> None:
    """One of two fails every call; no caller notices."""
    sick, well = Replica(moment, 1000), Replica(moment, 0)
    async with serve(sick, well) as channel:
        for _ in range(20):
            await search(channel)
    assert well.calls == 20
    assert sick.calls > 0


async def test_what_will_take_a_while_is_told_at_once() -> None:
    """A degraded answer that was not allowed, for example: trying again within a second would only make everything slower."""
    replica = Replica(while_, 100)
    async with serve(replica) as channel:
        with pytest.raises(grpc.aio.AioRpcError):
            await search(channel)
    assert replica.calls == 1


async def test_an_overloaded_service_is_not_asked_again_by_the_channel() -> None:
    """At once is the last thing that it needs: only who reads when to come back may do so."""
    replica = Replica(overload, 100)
    async with serve(replica) as channel:
        with pytest.raises(grpc.aio.AioRpcError):
            await search(channel)
    assert replica.calls == 1


async def test_a_feed_is_left_to_its_follower() -> None:
    """Who follows a feed goes on from its cursor; gRPC cannot know it."""
    feed = Feed()
    async with serve(Replica(moment, 0), feed=feed) as channel:
        with pytest.raises(grpc.aio.AioRpcError):
            async for _ in change_feed_pb2_grpc.ChangeFeedServiceStub(channel).WatchChanges(change_feed_pb2.WatchChangesRequest(), timeout=20):
                pass
    assert feed.calls == 1


async def ask(replica: Replica, *, timeout: float = 20.0) -> None:
    """A search with the client library."""
    async with listening(replica) as target, KnowledgeBeast(query=target) as client:
        await client.search("docs", SearchQuery("x"), timeout=timeout)


async def test_the_client_library_comes_back_when_an_overloaded_service_says() -> None:
    """After the time that it named, and not before."""
    replica = Replica(overload, 2)
    began = time.monotonic()
    await ask(replica)
    assert replica.calls == 3
    assert time.monotonic() - began >= 0.2


async def test_the_client_library_gives_up_after_a_few_attempts() -> None:
    """And says what is wrong."""
    replica = Replica(overload, 100)
    with pytest.raises(ResourceExhaustedError) as refused:
        await ask(replica)
    assert refused.value.reason == OVERLOADED
    assert replica.calls == MOST_ATTEMPTS


async def test_the_client_library_does_not_wait_beyond_its_deadline() -> None:
    """It is told at once, with the time to retry after."""
    replica = Replica(long_overload, 100)
    began = time.monotonic()
    with pytest.raises(ResourceExhaustedError):
        await ask(replica, timeout=5.0)
    assert replica.calls == 1
    assert time.monotonic() - began < 4.0


async def test_other_limits_are_told_at_once() -> None:
    """A full disk is not empty in a tenth of a second."""
    replica = Replica(disk_full, 100)
    with pytest.raises(ResourceExhaustedError):
        await ask(replica)
    assert replica.calls == 1

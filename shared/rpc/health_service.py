"""grpc.health.v1 over the states of the process: once for a server in the event loop, once for a server with threads.

Not grpcio-health-checking's own servicers, of whose messages these are made: there a watcher that does not read holds a lock that every change of
state waits for, so one stuck client would keep the service from saying NOT_SERVING.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Final

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from shared.rpc.call import Context
from shared.serving import ServingStates

_UNKNOWN: Final = "there is no service of this name here"
_TOO_MANY: Final = "too many watchers: use Check"


class Places:
    """Long calls that there may be at a time."""

    def __init__(self, count: int) -> None:
        self._free = threading.Semaphore(count)

    def take(self) -> bool:
        """Whether there was one more."""
        return self._free.acquire(blocking=False)

    def give_back(self) -> None:
        """Ends one."""
        self._free.release()


class HealthServicer(health_pb2_grpc.HealthServicer):
    """For a `grpc.aio` server.

    Args:
        states: what is told.
        max_watches: calls of Watch at a time; more are refused with RESOURCE_EXHAUSTED.
    """

    def __init__(self, states: ServingStates, *, max_watches: int = 1_000) -> None:
        self._states = states
        self._places = Places(max_watches)
        self._ending = False
        self._watching: set[asyncio.Event] = set()

    def end_watches(self) -> None:
        """Ends every call of Watch after it has told the last state: else each would hold the server's end up for the whole grace."""
        self._ending = True
        for changed in self._watching:
            changed.set()

    async def Check(self, request: health_pb2.HealthCheckRequest, context: Context) -> health_pb2.HealthCheckResponse:
        """See grpc.health.v1."""
        serving = self._states.get(request.service)
        if serving is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, _UNKNOWN)
        return health_pb2.HealthCheckResponse(status=_status(serving))

    async def Watch(self, request: health_pb2.HealthCheckRequest, context: Context) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        """See grpc.health.v1."""
        if not self._places.take():
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, _TOO_MANY)
        changed, loop, told = asyncio.Event(), asyncio.get_running_loop(), None
        self._watching.add(changed)
        try:
            with self._states.listening(lambda: _call_soon(loop, changed)):
                while True:
                    changed.clear()
                    status = _status(self._states.get(request.service))
                    if status != told:
                        told = status
                        yield health_pb2.HealthCheckResponse(status=status)
                    elif self._ending:
                        return
                    else:
                        await changed.wait()
        finally:
            self._watching.discard(changed)
            self._places.give_back()


class ThreadedHealthServicer(health_pb2_grpc.HealthServicer):
    """For a server whose handlers run in threads. A call of Watch holds one of them for as long as it lasts.

    Args:
        states: what is told.
        places: for calls of Watch; those that find none are refused with RESOURCE_EXHAUSTED, so that Check always has threads.
    """

    def __init__(self, states: ServingStates, places: Places) -> None:
        self._states = states
        self._places = places

    def Check(self, request: health_pb2.HealthCheckRequest, context: grpc.ServicerContext) -> health_pb2.HealthCheckResponse:
        """See grpc.health.v1."""
        serving = self._states.get(request.service)
        if serving is None:
            context.abort(grpc.StatusCode.NOT_FOUND, _UNKNOWN)
        return health_pb2.HealthCheckResponse(status=_status(serving))

    def Watch(self, request: health_pb2.HealthCheckRequest, context: grpc.ServicerContext) -> Iterator[health_pb2.HealthCheckResponse]:
        """See grpc.health.v1."""
        if not self._places.take():
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, _TOO_MANY)
        try:
            changed, told = threading.Event(), None
            context.add_callback(changed.set)  # the end of the call, too
            with self._states.listening(changed.set):
                while True:
                    changed.clear()
                    if not context.is_active():
                        return
                    status = _status(self._states.get(request.service))
                    if status != told:
                        told = status
                        yield health_pb2.HealthCheckResponse(status=status)
                    else:
                        changed.wait()
        finally:
            self._places.give_back()


def _status(serving: bool | None) -> int:
    if serving is None:
        return health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
    return health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING


def _call_soon(loop: asyncio.AbstractEventLoop, changed: asyncio.Event) -> None:
    """Sets an event of a loop from any thread. A loop that is closed has no watchers left to tell."""
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(changed.set)

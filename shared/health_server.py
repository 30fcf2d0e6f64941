"""grpc.health.v1 on a port and in threads of its own, so that probes are answered while the event loop is not.

It is the first server to start and the last to stop. A probe here says what a probe on the service's port cannot: that the event loop stands
still. Kubernetes then starts the process again; see ADR 0017.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any, Final

import grpc
from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2, reflection_pb2_grpc

from shared.rpc.health_service import Places, ThreadedHealthServicer
from shared.rpc.server import SERVER_OPTIONS, bind
from shared.serving import ServingStates
from shared.watchdog import LoopWatchdog

_LONG_CALLS: Final = 32  # each of Watch and reflection holds a thread; a pod has a kubelet and perhaps a mesh's sidecar
_CHECKS: Final = 4  # threads that are left for Check, which takes a tenth of a millisecond
_WAITING: Final = 64  # calls that wait for a thread, at most; more are refused


class _Reflection(reflection.ReflectionServicer):
    """Describes the service to grpcurl, in as many calls at a time as there are places."""

    def __init__(self, places: Places) -> None:
        super().__init__((health.SERVICE_NAME, reflection.SERVICE_NAME))
        self._places = places

    def ServerReflectionInfo(  # noqa: N802 - the RPC's name
        self,
        request_iterator: Iterable[reflection_pb2.ServerReflectionRequest],
        context: Any,  # noqa: ANN401 - the library's class serves servers of both kinds
    ) -> Iterator[reflection_pb2.ServerReflectionResponse]:
        """See grpc.reflection.v1alpha."""
        if not self._places.take():
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many calls")
        try:
            yield from super().ServerReflectionInfo(request_iterator, context)
        finally:
            self._places.give_back()


@asynccontextmanager
async def serving(states: ServingStates, host: str, port: int, *, stall: float, setting: str = "") -> AsyncIterator[int]:
    """Serves the states and yields the port (0 takes a free one); watches the running loop, whose stall makes `liveness` NOT_SERVING.

    Args:
        states: what is told.
        host: address to listen on.
        port: of this server.
        stall: seconds that the loop may stand still.
        setting: named when the port cannot be opened, for example `KB_QUERY_HEALTH_PORT`.

    Raises:
        ConfigurationError: when the port cannot be opened.
    """
    pool = ThreadPoolExecutor(_LONG_CALLS + _CHECKS, thread_name_prefix="health")
    server = grpc.server(pool, options=SERVER_OPTIONS, maximum_concurrent_rpcs=_LONG_CALLS + _CHECKS + _WAITING)
    places = Places(_LONG_CALLS)
    health_pb2_grpc.add_HealthServicer_to_server(ThreadedHealthServicer(states, places), server)
    reflection_pb2_grpc.add_ServerReflectionServicer_to_server(_Reflection(places), server)  # type: ignore[no-untyped-call] # has no annotations
    bound = bind(server, host, port, setting=setting)
    server.start()
    watchdog = LoopWatchdog(stall, states.set_alive)
    watchdog.start()
    try:
        yield bound
    finally:
        watchdog.stop()
        await asyncio.to_thread(server.stop(None).wait)
        pool.shutdown(wait=False)

"""A grpc.aio server that takes several calls of a method at a time.

grpc.aio asks its core for one call of each method, and needs about five turns of the event loop until it asks for the next. While searches are at
work a turn takes a millisecond, so no more than about two hundred calls a second come in, as many as are answered. The others wait in the core,
where nobody sees them: no limit can refuse them in time, and their answers come when nobody waits any more (docs/adr/0019-load-shedding.md has
the figures). Here each method has several requests for a call at the core, so that calls come in as fast as they arrive, and limits can work.

What the library offers for that is none of its public interface, so this leans on five names of its inside. `tests/integration/test_accepting.py`
says whether a new version still has them and does what is needed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, cast

import grpc
import grpc.aio
from grpc._cython import cygrpc
from grpc.aio import _server

from shared.observability.logging import get_logger
from shared.resilience.backoff import Backoff

# Five calls can come in while one request is renewed, and a few more for bursts.
_ACCEPTS_A_METHOD: Final = 8
# Between attempts to ask the core for a call when it fails: at once it would fail again, and the loop would do nothing else.
_BACKOFF: Final = Backoff()
_log = get_logger(__name__)


def accepting_server(interceptors: Sequence[grpc.aio.ServerInterceptor], options: Sequence[tuple[str, Any]]) -> grpc.aio.Server:
    """As `grpc.aio.server()` makes one, but for what the module says. Services must be added by their generated functions."""
    return cast("grpc.aio.Server", _Accepting(interceptors, options))


class _Accepting(_server.Server):
    def __init__(self, interceptors: Sequence[grpc.aio.ServerInterceptor], options: Sequence[tuple[str, Any]]) -> None:
        super().__init__(None, (), interceptors, tuple(options), None, None)
        self._layers = tuple(interceptors)
        self._handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}
        # The event loop alone does not keep a task from being collected. Bounded by the calls that are under way.
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping = asyncio.Event()

    def add_registered_method_handlers(self, service_name: str, method_handlers: Mapping[str, grpc.RpcMethodHandler[Any, Any]]) -> None:
        """What generated code calls."""
        super().add_registered_method_handlers(service_name, dict(method_handlers))
        self._handlers.update({f"/{service_name}/{name}": handler for name, handler in method_handlers.items()})

    async def start(self) -> None:
        """Starts to take calls."""
        await super().start()
        resolver = cygrpc._MethodResolver([], self._handlers)
        for path in self._handlers:
            for _ in range(_ACCEPTS_A_METHOD - 1):  # the library has one of its own
                self._keep(self._accept(path, resolver))

    async def stop(self, grace: float | None) -> None:
        """Takes no new calls, and ends those that are under way after `grace` seconds."""
        self._stopping.set()
        await super().stop(grace)

    async def _accept(self, path: str, resolver: object) -> None:
        """Takes one call after the other, as the library's own loop does, until the server stops."""
        loop = asyncio.get_running_loop()
        failures = 0
        while self._server.is_running():
            try:
                state = await self._server._request_registered_call(path.encode())
            except cygrpc._RequestCallError:
                return  # the core takes no more calls
            except Exception:  # noqa: BLE001 # whatever it is, without this lane the method would take fewer calls, and in silence
                failures += 1
                _log.exception("call_not_taken", path=path, failures=failures)
                with suppress(TimeoutError):
                    async with asyncio.timeout(_BACKOFF.seconds(failures)):
                        await self._stopping.wait()
                continue
            failures = 0
            call = cygrpc._handle_rpc(path, resolver, self._layers, state, loop, False)
            self._keep(cygrpc._schedule_rpc_coro(call, state, loop, path))

    def _keep(self, work: Any) -> None:  # noqa: ANN401 - the library's coroutines are those of Cython
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

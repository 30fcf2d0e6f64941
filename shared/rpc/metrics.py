"""Counts and times calls, those that are served and those that are made, under the names of go-grpc-middleware."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from typing import Any, Final, cast

import grpc
from google.protobuf import descriptor_pool

from shared.observability import exemplars
from shared.observability.metrics import (
    GRPC_CLIENT_HANDLED,
    GRPC_CLIENT_HANDLING_SECONDS,
    GRPC_CLIENT_STARTED,
    GRPC_HANDLED,
    GRPC_HANDLING_SECONDS,
    GRPC_RECEIVED,
    GRPC_SENT,
    GRPC_STARTED,
    REQUESTS_SHED,
)
from shared.rpc.call import Behaviour, Context, Method, status_code

Count = Callable[[], None]
Ended = Callable[[grpc.StatusCode], None]


class Metrics:
    """Measures every call, health checks too. The exemplar of a time is its trace, when that is recorded."""

    def wrap(self, method: Method, proceed: Behaviour) -> Behaviour:
        """See `Middleware`."""
        labels = (method.type, method.service, method.name)
        started_total, seconds = GRPC_STARTED.labels(*labels), GRPC_HANDLING_SECONDS.labels(*labels)
        received, sent = GRPC_RECEIVED.labels(*labels).inc, GRPC_SENT.labels(*labels).inc
        handled_total = {code: GRPC_HANDLED.labels(*labels, code_label(code)) for code in grpc.StatusCode}
        many_in, many_out = method.request_streaming, method.response_streaming

        async def call(request: Any, context: Context) -> Any:  # noqa: ANN401 - messages of any type
            started_total.inc()
            if many_in:
                request = _Received(request, received)
            else:
                received()
            failure: BaseException | None = None
            started = time.perf_counter()
            try:
                return await proceed(request, cast("Context", _Sending(context, sent)) if many_out else context)
            except BaseException as error:
                failure = error
                raise
            finally:
                elapsed = time.perf_counter() - started
                if failure is None and not many_out:
                    sent()
                handled_total[status_code(context, failure, elapsed)].inc()
                seconds.observe(elapsed, exemplars.current())

        return call


class _Received:
    """The requests of a stream, counted as they come."""

    __slots__ = ("_count", "_requests")

    def __init__(self, requests: AsyncIterator[Any], count: Count) -> None:
        self._requests = requests
        self._count = count

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:  # noqa: ANN401 - messages of any type
        request = await anext(self._requests)
        self._count()
        return request


class _Sending:
    """The context of a call that answers with a stream, whose messages are counted as they are written. gRPC's own takes no attributes."""

    __slots__ = ("_context", "_count")

    def __init__(self, context: Context, count: Count) -> None:
        self._context = context
        self._count = count

    def write(self, message: object) -> Awaitable[None]:
        """See gRPC's ServicerContext."""
        self._count()
        return self._context.write(message)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever gRPC's context has of that name
        return getattr(self._context, name)


class _Outgoing:
    """The series of one method that this process calls."""

    def __init__(self, method: Method) -> None:
        labels = (method.type, method.service, method.name)
        self._started, self._seconds = GRPC_CLIENT_STARTED.labels(*labels), GRPC_CLIENT_HANDLING_SECONDS.labels(*labels)
        self._handled = {code: GRPC_CLIENT_HANDLED.labels(*labels, code_label(code)) for code in grpc.StatusCode}

    def start(self) -> Ended:
        """Counts a call that begins; what is returned is to be called once with its outcome, when it has ended."""
        self._started.inc()
        exemplar, started = exemplars.current(), time.perf_counter()

        def ended(code: grpc.StatusCode) -> None:
            self._handled[code].inc()
            self._seconds.observe(time.perf_counter() - started, exemplar)

        return ended


# By path, like `/package.Service/Method`: those that `measure_calls_to` was told of, which is what bounds the labels.
_outgoing: Final[dict[str, _Outgoing]] = {}


def start_outgoing(path: str) -> Ended | None:
    """Counts a call of a method of another service that begins; None if calls of that service are not measured here. See `measure_calls_to`."""
    series = _outgoing.get(path)
    return None if series is None else series.start()


def measure_calls_to(services: Iterable[str]) -> None:
    """From now on calls of these services are measured, and their series are there. Processes that show no metrics, like `kb`, name none.

    Args:
        services: full names of services whose generated modules are imported.
    """
    for method in _methods(services):
        _outgoing[f"/{method.path}"] = _Outgoing(method)


def start_at_zero(services: Iterable[str]) -> None:
    """Makes the series of every method and code of these services, so that the first error of a kind is seen as an increase.

    Args:
        services: full names of services whose generated modules are imported.
    """
    for method in _methods(services):
        Metrics().wrap(method, _never)
        REQUESTS_SHED.labels(method.service, method.name)


def _methods(services: Iterable[str]) -> Iterator[Method]:
    pool = descriptor_pool.Default()
    for service in services:
        for method in pool.FindServiceByName(service).methods:
            yield Method(service, method.name, method.client_streaming, method.server_streaming)


def code_label(code: grpc.StatusCode) -> str:
    """`OK`, `NotFound`, `DeadlineExceeded`, …: the spelling of the Go names, which go-grpc-middleware uses."""
    return "OK" if code is grpc.StatusCode.OK else code.name.title().replace("_", "")


async def _never(_request: object, _context: Context) -> None:
    raise NotImplementedError  # `start_at_zero` wants the series and calls nothing

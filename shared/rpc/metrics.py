"""Counts and times calls, under the names of go-grpc-middleware."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

import grpc
from google.protobuf import descriptor_pool
from opentelemetry import trace

from shared.observability.metrics import GRPC_HANDLED, GRPC_HANDLING_SECONDS, GRPC_STARTED, REQUESTS_SHED
from shared.rpc.call import Behaviour, Context, Method, status_code


class Metrics:
    """Measures every call, health checks too. The exemplar of a time is its trace, when that is recorded."""

    def wrap(self, method: Method, proceed: Behaviour) -> Behaviour:
        """See `Middleware`."""
        labels = (method.type, method.service, method.name)
        started_total, seconds = GRPC_STARTED.labels(*labels), GRPC_HANDLING_SECONDS.labels(*labels)
        handled_total = {code: GRPC_HANDLED.labels(*labels, code_label(code)) for code in grpc.StatusCode}

        async def call(request: Any, context: Context) -> Any:  # noqa: ANN401 - messages of any type
            started_total.inc()
            failure: BaseException | None = None
            started = time.perf_counter()
            try:
                return await proceed(request, context)
            except BaseException as error:
                failure = error
                raise
            finally:
                elapsed = time.perf_counter() - started
                handled_total[status_code(context, failure, elapsed)].inc()
                seconds.observe(elapsed, _exemplar())

        return call


def start_at_zero(services: Iterable[str]) -> None:
    """Makes the series of every method and code of these services, so that the first error of a kind is seen as an increase.

    Args:
        services: full names of services whose generated modules are imported.
    """
    pool = descriptor_pool.Default()
    for service in services:
        for method in pool.FindServiceByName(service).methods:
            Metrics().wrap(Method(service, method.name, method.client_streaming, method.server_streaming), _never)
            REQUESTS_SHED.labels(service, method.name)


def code_label(code: grpc.StatusCode) -> str:
    """`OK`, `NotFound`, `DeadlineExceeded`, …: the spelling of the Go names, which go-grpc-middleware uses."""
    return "OK" if code is grpc.StatusCode.OK else code.name.title().replace("_", "")


def _exemplar() -> dict[str, str] | None:
    span = trace.get_current_span().get_span_context()
    return {"trace_id": format(span.trace_id, "032x")} if span.trace_flags.sampled else None


async def _never(_request: object, _context: Context) -> None:
    raise NotImplementedError  # `start_at_zero` wants the series and calls nothing

"""Turns what a servicer raises into a status, so that nothing internal reaches a client."""

from __future__ import annotations

import asyncio
from typing import Any, Final

import grpc
import grpc.aio
import structlog

from shared.errors import KnowledgeBeastError
from shared.observability import tracing
from shared.observability.logging import get_logger
from shared.rpc import request_id
from shared.rpc.call import Behaviour, Context, Method
from shared.rpc.status import RpcStatus, to_status

_log: Final = get_logger(__name__)

# Our own faults: their cause is logged with its stack. An unavailable component is not among them, because during an outage every call
# would log a stack; the access line has its reason.
_LOGGED: Final = frozenset({grpc.StatusCode.INTERNAL, grpc.StatusCode.DATA_LOSS, grpc.StatusCode.UNIMPLEMENTED})


class ErrorMapping:
    """Errors of our tree become their status, any other INTERNAL; cancellation and `context.abort` of the servicer pass through."""

    def wrap(self, method: Method, proceed: Behaviour) -> Behaviour:
        """See `Middleware`."""
        path = method.path

        async def call(request: Any, context: Context) -> Any:  # noqa: ANN401 - messages of any type
            try:
                return await proceed(request, context)
            except (asyncio.CancelledError, grpc.aio.BaseError):
                # Cancelled, aborted by the servicer, or the client went away while we wrote: gRPC itself ends all three.
                raise
            except NotImplementedError as error:
                await _abort(context, RpcStatus(grpc.StatusCode.UNIMPLEMENTED, "the method is not implemented", ()), error, path)
            except Exception as error:  # noqa: BLE001 - the boundary: whatever it is must not leave unmapped
                await _abort(context, to_status(error, request_id.current()), error, path)

        return call


async def _abort(context: Context, status: RpcStatus, error: Exception, path: str) -> None:
    tracing.note_error(error)
    if isinstance(error, KnowledgeBeastError):
        structlog.contextvars.bind_contextvars(reason=error.reason)
    if status.code in _LOGGED:
        _log.error("rpc failed", method=path, code=status.code.name, exc_info=error)
    elif error.__cause__ is not None:
        _log.debug("rpc refused", method=path, code=status.code.name, exc_info=error)
    # `abort` replaces the trailing metadata that was set before, so it is handed on.
    await context.abort(status.code, status.message, (*(context.trailing_metadata() or ()), *status.trailing_metadata))

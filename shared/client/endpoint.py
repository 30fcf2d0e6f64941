"""One service at one address: its channel, and what its failures mean to a caller."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from typing import Any, TypeVar

import grpc
import grpc.aio

from shared.errors import DeadlineExceededError, KnowledgeBeastError, ResourceExhaustedError, UnavailableError
from shared.resilience.admission import OVERLOADED
from shared.resilience.deadline import Deadline
from shared.rpc.channel import create_channel
from shared.rpc.status import from_rpc_error

_Request = TypeVar("_Request")
_Response = TypeVar("_Response")

# Both ways, as the services have it by default (`max_message_bytes`).
_MAX_MESSAGE_BYTES = 16 * 1024 * 1024

# The trailing metadata in which our services send google.rpc.Status: a failure without it was made on the way, not by the service.
_STATUS_DETAILS = "grpc-status-details-bin"

# Of a call that a busy service refuses (UNAVAILABLE is gRPC's own matter: channel.py).
_MOST_ATTEMPTS = 4


def _pause(error: KnowledgeBeastError) -> float | None:
    """Seconds after which to ask again; None if that makes no sense."""
    return error.retry_after if isinstance(error, ResourceExhaustedError) and error.reason == OVERLOADED else None


class Endpoint:
    """A channel to one service.

    Args:
        service: Name for messages: `indexer` or `query`.
        address: `host:port`.
        timeout: Seconds that a call may take unless the call says otherwise.
    """

    def __init__(self, service: str, address: str, timeout: float) -> None:
        self.service = service
        self.address = address
        self.timeout = timeout
        self.channel: grpc.aio.Channel = create_channel(address, max_message_bytes=_MAX_MESSAGE_BYTES)

    async def close(self) -> None:
        """Ends every call and closes the connection."""
        await self.channel.close()

    async def call(self, method: grpc.aio.UnaryUnaryMultiCallable[_Request, _Response], request: _Request, timeout: float | None = None) -> _Response:
        """Calls a unary method; a service that has too much to do is asked again when it says, as long as there is time.

        Raises the service's error, UnavailableError if nothing answers, DeadlineExceededError.
        """
        limit = self.timeout if timeout is None else timeout
        deadline = Deadline.after(limit)
        for attempt in itertools.count(1):
            try:
                return await method(request, timeout=deadline.remaining())
            except grpc.aio.AioRpcError as error:
                failure = self.translate(error, limit)
                pause = _pause(failure)
                if pause is None or attempt == _MOST_ATTEMPTS or pause >= deadline.remaining():
                    raise failure from error
            await asyncio.sleep(pause)
        raise AssertionError("unreachable: the last attempt returns or raises")

    async def stream(
        self, method: grpc.aio.UnaryStreamMultiCallable[_Request, _Response], request: _Request, timeout: float | None = None
    ) -> AsyncIterator[_Response]:
        """Calls a method that answers with a stream; `timeout` is for the whole of it. Raises what `call` does."""
        limit = self.timeout if timeout is None else timeout
        call = method(request, timeout=limit)
        try:
            async for response in call:
                yield response
        except grpc.aio.AioRpcError as error:
            raise self.translate(error, limit) from error
        finally:
            call.cancel()  # who stops reading half-way ends the call: gRPC itself would keep it until the time limit; after its end this does nothing

    def translate(self, error: grpc.aio.AioRpcError, limit: float) -> KnowledgeBeastError:
        """The error of `shared.errors` that a failed call stands for. `limit` is the time it had, in seconds."""
        trailing: Any = error.trailing_metadata() or ()
        if not any(key == _STATUS_DETAILS for key, _ in trailing):
            if error.code() is grpc.StatusCode.UNAVAILABLE:
                return UnavailableError(f"the {self.service} does not answer at {self.address}", component=self.service)
            if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                return DeadlineExceededError(f"the {self.service} at {self.address} did not answer within {limit:g} s")
        return from_rpc_error(error, self.service)

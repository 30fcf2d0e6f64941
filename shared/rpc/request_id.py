"""A name for each call, in its logs, its errors and its trailing metadata."""

from __future__ import annotations

import uuid
from typing import Any, Final

import structlog

from shared.rpc.call import Behaviour, Context, Method

HEADER: Final = "x-request-id"
_KEY: Final = "request_id"
_MAX_CHARACTERS: Final = 128


class RequestId:
    """Takes the caller's `x-request-id` if it is 1 to 128 printable ASCII characters, else makes one, and returns it to the caller.

    It is bound to structlog's context variables. gRPC runs each call in a task of its own, and a task's context ends with it, so nothing
    of one call is seen by another.
    """

    def wrap(self, method: Method, proceed: Behaviour) -> Behaviour:
        """See `Middleware`."""

        async def call(request: Any, context: Context) -> Any:  # noqa: ANN401 - messages of any type
            given = next((value for key, value in context.invocation_metadata() or () if key == HEADER), "")
            request_id = given if isinstance(given, str) and _is_sane(given) else uuid.uuid4().hex
            structlog.contextvars.bind_contextvars(request_id=request_id)
            context.set_trailing_metadata(((HEADER, request_id),))
            return await proceed(request, context)

        return call


def current() -> str:
    """The id of the call that runs now; empty outside of one."""
    return str(structlog.contextvars.get_contextvars().get(_KEY, ""))


def _is_sane(text: str) -> bool:
    return 1 <= len(text) <= _MAX_CHARACTERS and text.isascii() and text.isprintable()

"""One line a call: which method, how it ended, how long it took, who asked."""

from __future__ import annotations

import time
from typing import Any, Final

import structlog

from shared.domain import PROJECT_ID
from shared.observability.logging import get_logger
from shared.rpc.call import Behaviour, Context, Method, status_code
from shared.rpc.status import SERVER_FAULTS

_log: Final = get_logger(__name__)


class AccessLog:
    """Logs calls at info, the server's own faults at warning, health checks and reflection at debug.

    The line has the project when the servicer has bound it, and the reason of an error. A call that is shed is not decoded: it has no project.
    """

    def wrap(self, method: Method, proceed: Behaviour) -> Behaviour:
        """See `Middleware`."""
        path = method.path
        log = _log.debug if method.routine else _log.info

        async def call(request: Any, context: Context) -> Any:  # noqa: ANN401 - messages of any type
            deadline = context.time_remaining()
            failure: BaseException | None = None
            started = time.perf_counter()
            try:
                return await proceed(request, context)
            except BaseException as error:
                failure = error
                raise
            finally:
                elapsed = time.perf_counter() - started
                code = status_code(context, failure, elapsed)
                write = _log.warning if code in SERVER_FAULTS else log
                write(
                    "rpc",
                    method=path,
                    code=code.name,
                    duration_ms=round(elapsed * 1e3, 3),
                    peer=context.peer(),
                    deadline_ms=None if deadline is None else round(deadline * 1e3),
                )

        return call


def bind_project(project_id: str) -> None:
    """Adds the project to every later line of the call that runs now, if it can be one. A servicer's first line: what it refuses has it, too."""
    if PROJECT_ID.fullmatch(project_id):
        structlog.contextvars.bind_contextvars(project=project_id)

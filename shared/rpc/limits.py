"""Load shedding: each method has its own places and its own short queue (shared/resilience/admission.py)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Final

from shared.errors import ResourceExhaustedError
from shared.observability.guarded import read_at_scrape
from shared.observability.metrics import REQUESTS_IN_FLIGHT, REQUESTS_SHED, REQUESTS_WAITING
from shared.resilience.admission import Admission, Limit
from shared.rpc.call import Behaviour, Context, Method

# Whoever asks how the service is must get an answer, most of all when there is too much to do.
_NEVER_SHED: Final = ("grpc.", "knowledgebeast.ops.")
# Methods without a limit of their own: calls of some milliseconds.
_DEFAULT: Final = Limit(concurrency=64, queue=64, patience=1.0)


class Limits:
    """Lets calls in, or refuses them with RESOURCE_EXHAUSTED and the time to retry after. The request of a refused call is not even decoded.

    Args:
        limits: by `service/method`; other methods may have 64 calls at work and 64 waiting.
    """

    def __init__(self, limits: Mapping[str, Limit] | None = None) -> None:
        self._limits = dict(limits or {})
        # Keyed by what is wrapped, so by the methods that are registered.
        self._admissions: dict[str, Admission] = {}

    @property
    def waiting(self) -> int:
        """Calls of all methods that wait to be let in."""
        return sum(admission.waiting for admission in self._admissions.values())

    def wrap(self, method: Method, proceed: Behaviour) -> Behaviour:
        """See `Middleware`."""
        if method.service.startswith(_NEVER_SHED):
            return proceed
        admission = self._admissions.setdefault(method.path, Admission(self._limits.get(method.path, _DEFAULT)))
        read_at_scrape(REQUESTS_IN_FLIGHT.labels(method.service, method.name), lambda: admission.admitted)
        read_at_scrape(REQUESTS_WAITING.labels(method.service, method.name), lambda: admission.waiting)
        shed_total = REQUESTS_SHED.labels(method.service, method.name)

        async def call(request: Any, context: Context) -> Any:  # noqa: ANN401 - messages of any type
            try:
                ticket = await admission.enter()
            except ResourceExhaustedError:
                shed_total.inc()
                raise
            with ticket.held():
                return await proceed(request, context)

        return call


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))

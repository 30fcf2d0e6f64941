"""The query service without traces, metrics and logs, to see what they cost: `python -m services.cli.bench.uninstrumented`.

Not a way to run the service. What counts, times and logs is taken out before the service's own main function runs; the rest is untouched.
OpenTelemetry is switched off by OTEL_SDK_DISABLED, which the caller sets, and log lines by KB_LOG_LEVEL.
"""

from __future__ import annotations

import contextlib
import runpy
from typing import Any

import prometheus_client

from shared.rpc import chain
from shared.rpc.call import Middleware
from shared.rpc.error_mapping import ErrorMapping
from shared.rpc.limits import Limits


def _nothing(*_: object, **__: object) -> None:
    """Takes the place of an observation."""


def _itself(metric: Any, *_: object, **__: object) -> Any:  # noqa: ANN401 - any metric
    """Takes the place of a look-up by labels."""
    return metric


def _no_timer(*_: object) -> contextlib.AbstractContextManager[None]:
    return contextlib.nullcontext()


def _bare(limits: Limits | None = None) -> tuple[Middleware, ...]:
    return ErrorMapping(), limits or Limits()


def take_out() -> None:
    """Makes every observation a call that does nothing, and leaves of the layers before a servicer only those that answers depend on."""
    for metric in (prometheus_client.Counter, prometheus_client.Gauge, prometheus_client.Histogram):
        for method in ("inc", "dec", "set", "observe", "set_function", "remove"):
            if hasattr(metric, method):
                setattr(metric, method, _nothing)
        if hasattr(metric, "time"):
            setattr(metric, "time", _no_timer)  # noqa: B010 - mypy allows no plain assignment to a method
        setattr(metric, "labels", _itself)  # noqa: B010 - same
    chain.middlewares = _bare


if __name__ == "__main__":
    take_out()
    runpy.run_module("services.query", run_name="__main__")

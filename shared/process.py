"""What the main functions of both services share: settings, logs, traces, then the lifecycle."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from shared import config, lifecycle
from shared.config import CommonSettings
from shared.errors import ConfigurationError
from shared.lifecycle import Lifecycle
from shared.observability import logging, metrics, tracing

SettingsT = TypeVar("SettingsT", bound=CommonSettings)


def run_service(name: str, settings_class: type[SettingsT], start: Callable[[Lifecycle, SettingsT], Awaitable[None]]) -> int:
    """Runs a service until it is told to stop; returns the exit status: 0 after a signal, 1 after a failure or a wrong setting."""
    try:
        settings = config.load(settings_class)
    except ConfigurationError as error:
        logging.configure(name)
        logging.get_logger(__name__).error("cannot start", reason=error.message)
        return 1
    logging.configure(name, settings.log_level, settings.log_format, levels=config.parse_log_levels(settings.log_levels))
    logging.capture_uncaught()
    tracing.configure(name, settings.trace_endpoint, settings.trace_sample_ratio)
    metrics.describe_service(name)
    return lifecycle.run(lambda life: start(life, settings), grace=settings.shutdown_grace)

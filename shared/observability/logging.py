"""Structured logs: one JSON object a line on stdout (or coloured lines on a terminal), the same for our own and for third parties' loggers.

Every line has `timestamp` (UTC, milliseconds), `level`, `event`, `logger`, `service` and `version`; inside a request also `request_id`,
`project`, `trace_id` and `span_id`. Texts of documents and queries, and secrets, do not belong in logs: pass ids, sizes and durations.
The keys in `REDACTED` are blanked, as a second line of defence.

A logger may be made before `configure`: what it logs until then goes to stderr, warnings and worse only.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final, Literal, TextIO, cast

import orjson
import structlog
from opentelemetry import trace
from structlog.typing import EventDict, FilteringBoundLogger, WrappedLogger

from shared.version import VERSION

REDACTED: Final = frozenset({"text", "query", "document", "documents", "password", "token", "api_key", "authorization", "secret"})

_LEVELS: Final = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR, "critical": logging.CRITICAL}


class _Output:
    """Where lines go and how they look; replaced as a whole by `configure`."""

    def __init__(self, stream: TextIO | None, service: str, *, json: bool) -> None:
        self._stream = stream
        self._lock = threading.Lock()
        self._render = _render_json if json else structlog.dev.ConsoleRenderer(colors=stream is not None and stream.isatty())
        self._service = {"service": service, "version": VERSION} if json else {}

    def line(self, name: str, level: str, fields: EventDict) -> str:
        """The line for one event."""
        line: dict[str, Any] = {
            "timestamp": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": level,
            "event": fields.pop("event", ""),
            "logger": name,
            **self._service,
        }
        line.update(structlog.contextvars.get_contextvars())
        span = trace.get_current_span().get_span_context()
        if span.is_valid:
            line["trace_id"] = format(span.trace_id, "032x")
            line["span_id"] = format(span.span_id, "016x")
        line.update(fields)
        for key in REDACTED & line.keys():
            line[key] = "[redacted]"
        structlog.processors.format_exc_info(None, level, line)
        return str(self._render(None, level, line))

    def write(self, line: str) -> None:
        """Writes one line in one call. A log that cannot be written (closed pipe, full disk) must not fail the request that logs."""
        stream = self._stream or sys.stderr
        with self._lock, contextlib.suppress(OSError, ValueError):
            stream.write(line + "\n")
            stream.flush()


def _render_json(_logger: WrappedLogger, _level: str, line: EventDict) -> str:
    return orjson.dumps(line, default=str, option=orjson.OPT_NON_STR_KEYS).decode()


_output = _Output(None, "", json=False)


class _Logger:
    """What structlog hands finished lines to; knows its name and asks the standard library for its level, so levels are set in one place."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.enabled = logging.getLogger(name).isEnabledFor

    def __getattr__(self, _method: str) -> Any:  # noqa: ANN401 - the level's method that structlog looks up
        return _write


def _write(line: str) -> None:
    _output.write(line)


def _process(logger: WrappedLogger, method: str, fields: EventDict) -> str:
    """The whole pipeline of an event: dropped below the logger's level, else made a line."""
    level = "error" if method == "exception" else method
    if not logger.enabled(_LEVELS[level]):
        raise structlog.DropEvent
    return _output.line(logger.name, level, fields)


class _StandardLibraryHandler(logging.Handler):
    """Gives records of the standard library's logging the same form."""

    def emit(self, record: logging.LogRecord) -> None:
        """Writes one record."""
        try:
            fields: EventDict = {"event": record.getMessage()}
            if record.exc_info and record.exc_info[0] is not None:
                fields["exc_info"] = record.exc_info
            _output.write(_output.line(record.name, record.levelname.lower(), fields))
        except Exception:  # noqa: BLE001 - the contract of logging.Handler: a bad record is reported, never raised to the caller
            self.handleError(record)


def get_logger(name: str) -> FilteringBoundLogger:
    """A logger: `log.info("document written", document_id=…, duration_ms=…)`. `name` is usually `__name__`."""
    logger = structlog.wrap_logger(
        _Logger(name),
        processors=[_process],
        wrapper_class=structlog.make_filtering_bound_logger(logging.NOTSET),
        context_class=dict,
        cache_logger_on_first_use=True,
    )
    return cast("FilteringBoundLogger", logger)


def configure(
    service: str,
    level: str = "info",
    format: Literal["auto", "json", "console"] = "auto",  # noqa: A002 - the name of the setting
    *,
    levels: Mapping[str, str] | None = None,
    stream: TextIO | None = None,
) -> None:
    """Sends all logs of the process to `stream` (stdout unless given). May be called again; the last call counts.

    Args:
        service: name in every JSON line.
        level: least severe level that is logged: debug, info, warning or error.
        format: auto is console when the stream is a terminal, else JSON.
        levels: levels of single loggers, which hold for the loggers below them too.
        stream: where lines go.
    """
    global _output  # noqa: PLW0603 - logging is global to the process, as the standard library's root logger is
    target = stream if stream is not None else sys.stdout
    _output = _Output(target, service, json=format == "json" or (format == "auto" and not target.isatty()))
    root = logging.getLogger()
    root.handlers = [handler for handler in root.handlers if not isinstance(handler, _StandardLibraryHandler)]
    root.addHandler(_StandardLibraryHandler())
    root.setLevel(_LEVELS[level])
    for name, value in (levels or {}).items():
        logging.getLogger(name).setLevel(_LEVELS[value])
    logging.captureWarnings(capture=True)

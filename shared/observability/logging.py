"""Structured logs: one JSON object a line on stdout (or coloured lines on a terminal), the same for our own and for third parties' loggers.

Every line has `timestamp` (UTC, milliseconds), `level`, `event`, `logger`, `service` and `version`; inside a request also `request_id`,
`project`, `trace_id` and `span_id`. Texts of documents and queries, and secrets, do not belong in logs: pass ids, sizes and durations.
The keys in `REDACTED` are blanked, as a second line of defence. Exceptions are written by `log_exceptions.py`, levels kept by `log_levels.py`.

A logger may be made before `configure`: what it logs until then goes to stderr, warnings and worse only.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Final, Literal, TextIO, cast

import orjson
import structlog
from opentelemetry import trace
from structlog.typing import EventDict, FilteringBoundLogger, WrappedLogger

from shared.observability.log_console import console_renderer
from shared.observability.log_exceptions import exception_text
from shared.observability.log_levels import LEVELS, LogLevels
from shared.observability.metrics import LOG_LINES, LOG_LINES_LOST
from shared.version import VERSION

REDACTED: Final = frozenset({"text", "query", "document", "documents", "password", "token", "api_key", "authorization", "secret"})

# Of the whole process, as the standard library's loggers are. OpenTelemetry's exporter says of each batch that it failed; our span_export.py says
# it when that begins and when it ends.
levels_of_process: Final = LogLevels({"opentelemetry.exporter.otlp": "critical"})

_counted: Final = {level: LOG_LINES.labels(level) for level in LEVELS}

# Held while a line is written. Re-entrant, because the garbage collector may run meanwhile, and what it clears away logs: a task's exception that
# nobody has looked at. One for structlog's and the standard library's lines: two would wait for each other then.
_lock: Final = threading.RLock()


class _Output:
    """Where lines go and how they look; replaced as a whole by `configure`."""

    def __init__(self, stream: TextIO | None, service: str, *, json: bool) -> None:
        self._stream = stream
        self._render = _render_json if json else console_renderer(colours=stream is not None and stream.isatty())
        self._service = {"service": service, "version": VERSION} if json else {}

    def put(self, name: str, level: str, fields: EventDict) -> None:
        """Writes the line for one event, in one call. Never fails the request that logs: a line that cannot be written is counted."""
        _counted[level].inc()
        try:
            line = self._line(name, level, fields)
            stream = self._stream or sys.stderr
            with _lock:
                stream.write(line + "\n")
                stream.flush()
        except Exception:  # noqa: BLE001 - a closed pipe, a full disk, a stream that is in the middle of another line of this thread
            LOG_LINES_LOST.inc()

    def _line(self, name: str, level: str, fields: EventDict) -> str:
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
        if (failure := line.pop("exc_info", None)) is not None and (text := exception_text(failure)):
            line["exception"] = text
        try:
            return str(self._render(None, level, line))
        except Exception:  # noqa: BLE001 - a value's form is anybody's code, and JSON does not have every number and character
            return str(self._render(None, level, {key: _plain(value) for key, value in line.items()}))


def _plain(value: object) -> str | float | None:
    """What can be written of any value."""
    if value is None or isinstance(value, float) or (isinstance(value, int) and -(2**63) <= value < 2**64):
        return value
    try:
        return str(value).encode(errors="backslashreplace").decode()
    except Exception:  # noqa: BLE001 - as above
        return f"<{type(value).__name__}>"


def _render_json(_logger: WrappedLogger, _level: str, line: EventDict) -> str:
    return orjson.dumps(line, default=str, option=orjson.OPT_NON_STR_KEYS).decode()


_output = _Output(None, "", json=False)


class _Logger:
    """What structlog hands finished lines to; knows its name and asks the standard library for its level, so levels are set in one place."""

    def __init__(self, name: str, *, always: bool) -> None:
        self.name = name
        self.enabled: Callable[[int], bool] = _always if always else logging.getLogger(name).isEnabledFor

    def __getattr__(self, _method: str) -> Any:  # noqa: ANN401 - the level's method that structlog looks up
        return _put


def _always(_level: int) -> bool:
    return True


def _put(name: str, level: str, fields: EventDict) -> None:
    _output.put(name, level, fields)


def _process(logger: WrappedLogger, method: str, fields: EventDict) -> tuple[tuple[str, str, EventDict], dict[str, Any]]:
    """The whole pipeline of an event: dropped below the logger's level, else what `_put` takes."""
    level = "error" if method == "exception" else method
    if not logger.enabled(LEVELS[level]):
        raise structlog.DropEvent
    return (logger.name, level, fields), {}


class _StandardLibraryHandler(logging.Handler):
    """Gives records of the standard library's logging the same form."""

    def createLock(self) -> None:  # noqa: N802 - the library's name
        """See logging.Handler."""
        self.lock = _lock

    def emit(self, record: logging.LogRecord) -> None:
        """Writes one record."""
        try:
            fields: EventDict = {"event": record.getMessage()}
        except Exception:  # noqa: BLE001 - a message that does not fit its arguments must not fail the caller
            # The library's own report of it shows the arguments, which may be a text, on stderr.
            fields = {"event": "a record could not be written", "code": f"{record.module}:{record.lineno}"}
        if record.exc_info and record.exc_info[0] is not None:
            fields["exc_info"] = record.exc_info
        _output.put(record.name, _level_of(record.levelno), fields)


def _level_of(number: int) -> str:
    """The name of a level, or of the next one below; libraries make levels of their own."""
    return next((name for name in reversed(tuple(LEVELS)) if number >= LEVELS[name]), "debug")


def get_logger(name: str, *, always: bool = False) -> FilteringBoundLogger:
    """A logger: `log.info("document written", document_id=…, duration_ms=…)`. `name` is usually `__name__`; `always`: no level keeps it quiet."""
    logger = structlog.wrap_logger(
        _Logger(name, always=always),
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
    levels_of_process.configure(level, levels or {})
    logging.captureWarnings(capture=True)


def capture_uncaught() -> None:
    """What nobody catches, in this thread or another or where Python cannot raise it, becomes a line like any other. Once a process, by its main."""

    def main_thread(kind: type[BaseException], error: BaseException, trace_: TracebackType | None) -> None:
        if not issubclass(kind, KeyboardInterrupt):
            _uncaught.critical("uncaught exception", exc_info=(kind, error, trace_))

    def other_thread(arguments: threading.ExceptHookArgs) -> None:
        if arguments.exc_value is not None and not issubclass(arguments.exc_type, SystemExit):
            thread = arguments.thread.name if arguments.thread else None
            _uncaught.error("uncaught exception", thread=thread, exc_info=arguments.exc_value)

    def unraisable(arguments: Any) -> None:  # noqa: ANN401 - sys.UnraisableHookArgs exists for type checkers alone
        # Not the object: its form may hold anything.
        _uncaught.error("exception that could not be raised", exc_info=arguments.exc_value or True)

    sys.excepthook, threading.excepthook, sys.unraisablehook = main_thread, other_thread, unraisable


_uncaught: Final = get_logger(__name__)

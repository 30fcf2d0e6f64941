"""Log lines as a collector reads them."""

from __future__ import annotations

import io
import json
import logging as standard
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import structlog
from opentelemetry.sdk.trace import TracerProvider

from shared.observability import logging
from shared.version import VERSION

Lines = Callable[[], list[dict[str, Any]]]

log = logging.get_logger("tests.logging")


@pytest.fixture
def lines() -> Iterator[Lines]:
    """A function that returns the lines so far, as JSON."""
    stream = io.StringIO()
    logging.configure("query", "info", "json", stream=stream)
    structlog.contextvars.clear_contextvars()
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    structlog.contextvars.clear_contextvars()


def test_a_line_has_the_common_fields(lines: Lines) -> None:
    """Time in UTC with milliseconds, level, event, logger, service and version, and the event's own fields."""
    log.info("document written", size=12)
    (line,) = lines()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line.pop("timestamp"))
    assert line == {
        "level": "info",
        "event": "document written",
        "logger": "tests.logging",
        "service": "query",
        "version": VERSION,
        "size": 12,
    }


def test_a_line_has_the_request_and_the_trace_it_belongs_to(lines: Lines) -> None:
    """What is bound to the context and the current span are on every line, also of third parties."""
    with (
        structlog.contextvars.bound_contextvars(request_id="r", project="p"),
        TracerProvider().get_tracer("tests").start_as_current_span("s") as span,
    ):
        log.info("ours")
        standard.getLogger("theirs").warning("hello %s", "world")
    ours, theirs = lines()
    assert (ours["request_id"], ours["project"]) == ("r", "p")
    assert ours["trace_id"] == format(span.get_span_context().trace_id, "032x")
    assert ours["span_id"] == format(span.get_span_context().span_id, "016x")
    assert (theirs["event"], theirs["level"], theirs["logger"]) == ("hello world", "warning", "theirs")
    assert theirs["trace_id"] == ours["trace_id"]


def test_an_exception_is_text_without_local_variables(lines: Lines) -> None:
    """The stack is in one field, and what the frames held is not."""

    def fail() -> None:
        text = "the text of " + "a document"
        raise ValueError(len(text))

    try:
        fail()
    except ValueError:
        log.exception("it failed")
        standard.getLogger("theirs").exception("theirs failed")
    for line in lines():
        assert line["level"] == "error"
        assert line["exception"].startswith("Traceback (most recent call last):")
        assert line["exception"].endswith("ValueError: 22")
        assert "the text of a document" not in line["exception"]


def test_texts_and_secrets_are_blanked(lines: Lines) -> None:
    """A key that names a text or a secret does not show its value."""
    log.info("search", query="what I am looking for", authorization="abc", size=3)
    (line,) = lines()
    assert (line["query"], line["authorization"], line["size"]) == ("[redacted]", "[redacted]", 3)


def test_levels_hold_for_a_logger_and_those_below_it() -> None:
    """A level of a logger overrides the general one, for structlog's and the standard library's loggers alike."""
    stream = io.StringIO()
    logging.configure("query", "warning", "json", levels={"tests.loud": "debug"}, stream=stream)
    logging.get_logger("tests.quiet").info("no")
    standard.getLogger("tests.quiet").info("no")
    logging.get_logger("tests.loud.child").debug("yes")
    standard.getLogger("tests.loud.child").debug("yes")
    assert [json.loads(line)["event"] for line in stream.getvalue().splitlines()] == ["yes", "yes"]


def test_a_value_that_json_does_not_have_is_written_as_text(lines: Lines) -> None:
    """A line is never lost for the type of a value."""
    log.info(
        "odd",
        value={
            1,
        },
        path=object,
    )
    (line,) = lines()
    assert line["value"] == "{1}"


def test_a_closed_stream_does_not_fail_the_caller() -> None:
    """When nobody can read the log any more, requests go on."""
    stream = io.StringIO()
    logging.configure("query", "info", "json", stream=stream)
    stream.close()
    log.info("into the void")


def test_console_lines_are_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    """The console form has event and fields as text, not JSON."""
    logging.configure("query", "info", "console")
    log.info("hello", size=1)
    out = capsys.readouterr().out
    assert "hello" in out
    assert "size=1" in out
    assert not out.startswith("{")


def test_standard_output_that_is_no_terminal_gets_json(capsys: pytest.CaptureFixture[str]) -> None:
    """`auto` is JSON in a container and console on a terminal."""
    logging.configure("query", "info", "auto")
    log.info("hello")
    assert json.loads(capsys.readouterr().out)["event"] == "hello"

"""Log lines as a collector reads them."""

from __future__ import annotations

import io
import json
import logging as standard
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from opentelemetry.sdk.trace import TracerProvider

from shared.errors import InvalidArgumentError, NotFoundError, ResourceExhaustedError
from shared.observability import logging, metrics
from shared.observability.log_exceptions import exception_text
from shared.observability.log_levels import MAX_LOGGERS, LoggerLevel, LogLevels
from shared.version import VERSION

ROOT = Path(__file__).parents[2]

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


class Formless:
    """A value that has no form."""

    def __str__(self) -> str:
        raise RuntimeError("not yet made")

    __repr__ = __str__


@pytest.mark.parametrize(
    ("value", "written"),
    [("half a pair: \ud800", "half a pair: \\ud800"), (2**64, str(2**64)), (-(2**63) - 1, str(-(2**63) - 1)), (Formless(), "<Formless>")],
    ids=["lone surrogate", "large", "small", "formless"],
)
def test_a_value_that_cannot_be_written_fails_nobody(lines: Lines, value: object, written: str) -> None:
    """The line has what can be written of it, and the other values as they are; the message of an exception is such a value, too."""
    log.info("odd", value=value, size=3, share=0.5, none=None)
    log.info("odd", exc_info=ValueError(value))
    odd, error = lines()
    assert (odd["value"], odd["size"], odd["share"], odd["none"]) == (written, 3, 0.5, None)
    assert "ValueError" in error["exception"]
    logging.configure("query", "info", "console", stream=io.StringIO())
    before = lost()
    log.info("odd", value=value)
    assert lost() == before


def test_a_librarys_message_that_json_does_not_have_is_written(lines: Lines) -> None:
    """With what stands for the characters that JSON has not."""
    standard.getLogger("theirs").warning("half a pair: %s", "\ud800")
    assert lines()[0]["event"] == "half a pair: \\ud800"


def test_a_line_that_cannot_be_made_is_lost_and_fails_nobody(lines: Lines) -> None:
    """It is counted, as one that nobody can read."""
    before = lost()
    log.info("odd", exc_info=())
    assert (lines(), lost()) == ([], before + 1)


COLLECTED = """
import asyncio, gc
from shared.observability import logging
logging.configure("query", "info", "json")
log = logging.get_logger("tests")
async def fail():
    raise RuntimeError("nobody looks")
async def main():
    for number in range(2_000):
        task = asyncio.create_task(fail())
        kept = [task]
        kept.append(kept)  # a cycle, which the collector finds
        task.add_done_callback(lambda _, kept=kept: None)
        del task, kept
        await asyncio.sleep(0)
        log.info("ours", number=number)
gc.set_threshold(20, 2, 2)
asyncio.run(main())
"""


def test_what_the_collector_clears_away_may_log_while_a_line_is_written() -> None:
    """The collector runs in the middle of anything, in the thread that writes: neither line waits for the other, or is within it."""
    run = subprocess.run([sys.executable, "-c", COLLECTED], cwd=ROOT, capture_output=True, text=True, check=True, timeout=30)
    events = Counter(json.loads(line)["event"].splitlines()[0] for line in run.stdout.splitlines())
    assert events == {"ours": 2_000, "Task exception was never retrieved": 2_000}


CROSSED = """
import io, logging as standard, sys, threading
from shared.observability import logging
begun = threading.Event()
class Message:
    def __str__(self):
        begun.set()
        return "another thread's"
class Stream(io.StringIO):
    def write(self, text):
        if "ours" in text:
            threading.Thread(target=standard.getLogger("theirs").warning, args=(Message(),)).start()
            begun.wait(0.2)  # in vain: it has to wait for this line
            standard.getLogger("theirs").warning("collected")
        return sys.stdout.write(text)
logging.configure("query", "info", "json", stream=Stream())
logging.get_logger("tests").info("ours")
"""


def test_two_threads_that_log_in_both_ways_do_not_wait_for_each_other() -> None:
    """One writes a line of ours, in which something of a library's logs; the other is about to write a line of a library's."""
    run = subprocess.run([sys.executable, "-c", CROSSED], cwd=ROOT, capture_output=True, text=True, check=True, timeout=30)
    assert [json.loads(line)["event"] for line in run.stdout.splitlines()] == ["collected", "ours", "another thread's"]


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


def test_a_request_is_one_short_line_on_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """Its ids are cut to what tells them apart, and come last; nulls, the date and the package's name are left out."""
    logging.configure("query", "info", "console")
    structlog.contextvars.clear_contextvars()
    with structlog.contextvars.bound_contextvars(request_id="0123456789abcdef0123456789abcdef"):
        log.info("rpc", method="knowledgebeast.query.v1.QueryService/Search", code="OK", duration_ms=1.5, deadline_ms=None)
    line = capsys.readouterr().out
    assert re.match(r"\d\d:\d\d:\d\d\.\d{3} \[info", line)
    assert line.endswith("method=query.v1.QueryService/Search code=OK duration_ms=1.5 request_id=01234567\n")
    assert len(line) < 150


def test_a_stack_on_a_terminal_is_whole_and_shows_no_values(capsys: pytest.CaptureFixture[str]) -> None:
    """As in JSON: types, messages and places, not what the frames held."""
    logging.configure("query", "info", "console")

    def fail() -> None:
        text = "the text of " + "a document"
        raise ValueError(len(text))

    try:
        fail()
    except ValueError:
        log.exception("it failed")
    out = capsys.readouterr().out
    assert "ValueError: 22" in out
    assert "the text of a document" not in out


def test_standard_output_that_is_no_terminal_gets_json(capsys: pytest.CaptureFixture[str]) -> None:
    """`auto` is JSON in a container and console on a terminal."""
    logging.configure("query", "info", "auto")
    log.info("hello")
    assert json.loads(capsys.readouterr().out)["event"] == "hello"


def test_lines_are_counted_by_level_and_lost_ones_too(lines: Lines) -> None:
    """What is logged is a metric; what is below the level is not logged, and a line that nobody could read is counted as lost."""
    before = [counted("info"), counted("warning"), lost()]
    log.info("one")
    standard.getLogger("theirs").warning("two")
    log.debug("none")
    assert [counted("info"), counted("warning"), lost()] == [before[0] + 1, before[1] + 1, before[2]]
    stream = io.StringIO()
    logging.configure("query", "info", "json", stream=stream)
    stream.close()
    log.info("into the void")
    assert lost() == before[2] + 1
    assert lines() != []


def counted(level: str) -> float:
    """Lines of this level so far."""
    return metrics.REGISTRY.get_sample_value("kb_log_lines_total", {"level": level}) or 0.0


def lost() -> float:
    """Lines so far that could not be written."""
    return metrics.REGISTRY.get_sample_value("kb_log_lines_lost_total") or 0.0


MISFIT = """
import logging as standard
from shared.observability import logging
logging.configure("query", "info", "json")
standard.getLogger("theirs").warning("%d documents", "the text of a document")
"""


def test_a_message_that_does_not_fit_its_arguments_shows_none_of_them() -> None:
    """The library would print them on stderr, a text among them; the line says where the mistake is instead."""
    run = subprocess.run([sys.executable, "-c", MISFIT], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    line = json.loads(run.stdout)
    assert (line["event"], line["logger"], line["code"]) == ("a record could not be written", "theirs", "<string>:5")
    assert "the text" not in run.stdout + run.stderr


def test_a_level_of_a_librarys_own_is_the_next_one_below(lines: Lines) -> None:
    """Levels outside the five have no name of their own in a line, so that counters and filters know them all."""
    standard.getLogger("theirs").log(35, "between warning and error")
    assert lines()[0]["level"] == "warning"


def test_what_a_library_puts_into_its_message_is_cut() -> None:
    """A foreign exception may quote a whole document; our own, which are written for people, stay whole, in a chain, too."""
    text = "the text of a document " * 50
    error = NotFoundError("there is no such document: " + "x" * 300)
    error.__cause__ = ValueError(text)
    written = exception_text(error)
    assert "x" * 300 in written
    assert "the text of a document" in written
    assert text[:210] not in written
    assert "ValueError" in written


def test_a_chain_without_end_is_a_bounded_line() -> None:
    """Somebody who retries for an hour may hang each failure onto the one before it."""
    error = ValueError("0")
    for number in range(3_000):
        following = ValueError(str(number))
        following.__cause__ = error
        error = following
    assert len(exception_text(error)) < 17_000


def test_a_level_is_changed_and_given_back(lines: Lines) -> None:
    """A change holds for the logger and those below it until it is reset to what the settings say."""
    levels = logging.levels_of_process
    logging.configure("query", "info", "json", levels={"tests.logging.a": "error"}, stream=io.StringIO())
    assert levels.current() == [LoggerLevel("root", "info", changed=False), LoggerLevel("tests.logging.a", "error", changed=False)]
    levels.change("tests.logging", "debug")
    levels.change("tests.logging.a", "debug")
    assert standard.getLogger("tests.logging.b").isEnabledFor(standard.DEBUG)
    assert [(each.logger, each.changed) for each in levels.current()] == [("root", False), ("tests.logging", True), ("tests.logging.a", True)]
    levels.change("tests.logging", None)
    levels.change("tests.logging.a", None)
    assert not standard.getLogger("tests.logging.b").isEnabledFor(standard.DEBUG)
    assert not standard.getLogger("tests.logging.a").isEnabledFor(standard.WARNING)
    assert levels.current() == [LoggerLevel("root", "info", changed=False), LoggerLevel("tests.logging.a", "error", changed=False)]
    assert lines() == []


@pytest.mark.parametrize(("settings", "before"), [({}, standard.CRITICAL), ({"opentelemetry.exporter.otlp": "info"}, standard.INFO)])
def test_a_librarys_level_that_we_set_ourselves_is_given_back(settings: dict[str, str], before: int) -> None:
    """The exporter of traces complains of each batch that fails: it is quiet, unless the settings say otherwise, and again after a reset."""
    name = "opentelemetry.exporter.otlp"
    logging.configure("query", "info", "json", levels=settings, stream=io.StringIO())
    assert standard.getLogger(name).level == before
    logging.levels_of_process.change(name, "debug")
    assert standard.getLogger(name).level == standard.DEBUG
    logging.levels_of_process.change(name, None)
    assert standard.getLogger(name).level == before
    assert [each.logger for each in logging.levels_of_process.current()] == ["root", *settings]


@pytest.mark.parametrize("name", ["", " ", "a b", ".a", "a.", "a..b", "x" * 201, "a\nb", "ä"])
def test_a_name_that_no_logger_can_have_is_refused(lines: Lines, name: str) -> None:
    """And nothing is made of it."""
    with pytest.raises(InvalidArgumentError):
        logging.levels_of_process.change(name, "debug")
    assert name not in standard.Logger.manager.loggerDict
    assert lines() == []


def test_loggers_cannot_be_made_without_end(lines: Lines) -> None:
    """The standard library never forgets a logger: setting and resetting ever new names stops at the bound, too."""
    levels = LogLevels()
    for number in range(MAX_LOGGERS - 1):
        levels.change(f"tests.made.up-{number}", "debug")
        levels.change(f"tests.made.up-{number}", None)
    with pytest.raises(ResourceExhaustedError):
        levels.change("tests.made.up-one-more", "debug")
    levels.change("tests.made.up-3", "info")
    assert levels.of("tests.made.up-3") == "info"
    assert "tests.made.up-one-more" not in standard.Logger.manager.loggerDict
    assert lines() == []


def test_a_logger_that_must_be_heard_knows_no_level() -> None:
    """Whoever makes a service quiet is told of by it."""
    stream = io.StringIO()
    logging.configure("query", "error", "json", stream=stream)
    logging.get_logger("tests.quiet", always=True).warning("heard")
    assert json.loads(stream.getvalue())["event"] == "heard"


UNCAUGHT = """
import sys, threading
from shared.observability import logging
logging.configure("query", "info", "json")
logging.capture_uncaught()
class Broken:
    def __del__(self):
        raise ValueError("in a destructor")
def fail():
    raise ValueError("in a thread")
del_me = Broken()
del del_me
thread = threading.Thread(target=fail, name="worker")
thread.start()
thread.join()
raise ValueError("in the main thread")
"""


def test_what_nobody_catches_is_a_line_like_any_other() -> None:
    """In the main thread, in another, and where Python cannot raise it: nothing is on stderr, and the exit status is a failure's."""
    run = subprocess.run([sys.executable, "-c", UNCAUGHT], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    found = [(line["event"], line["exception"].splitlines()[-1]) for line in map(json.loads, run.stdout.splitlines())]
    assert found == [
        ("exception that could not be raised", "ValueError: in a destructor"),
        ("uncaught exception", "ValueError: in a thread"),
        ("uncaught exception", "ValueError: in the main thread"),
    ]
    assert (run.returncode, run.stderr) == (1, "")

"""Logs of children as people read them."""

import json

from services.cli.stack.log_lines import causes

CHROMA = """

==========
persist_path: "/data/chroma"
port: 8000
==========

                \x1b[38;5;069m(((((((((    \x1b[38;5;203m((((([38;5;220m####
                \x1b[38;5;069m(((((\x1b[38;5;203m((((    \x1b[38;5;220m#########\x1b[0m

Saving data to: /data/chroma
Connect to Chroma at: http://localhost:8000
Getting started guide: https://docs.trychroma.com/docs/overview/getting-started

☁️ To deploy your DB - try Chroma Cloud!
- Sign up: https://trychroma.com/signup
- Copy your data to Cloud: chroma copy --to-cloud --all

No telemetry is configured.
"""


def _json(level: str, event: str, **fields: object) -> str:
    return json.dumps({"timestamp": "t", "level": level, "event": event, "logger": "l", "service": "indexer", "version": "1", **fields})


def test_the_last_error_is_the_cause_and_stands_in_plain_words() -> None:
    """Earlier errors and what was logged on the way down are left out."""
    lines = [_json("error", "old"), _json("error", "cannot start", reason="the disk is full", stage="catalog"), _json("info", "stopped")]

    assert causes(lines) == ["cannot start: the disk is full (stage=catalog)"]


def test_an_exception_is_told_by_its_last_line() -> None:
    """The traceback stays in the log."""
    assert causes([_json("error", "cannot start", exception="Traceback (most …)\n  File x\na.b.FullError: no space")]) == [
        "cannot start: FullError: no space"
    ]


def test_what_native_code_says_after_the_last_error_is_shown_too() -> None:
    """It may be what ended the process."""
    assert causes([_json("error", "ping failed"), "Segmentation fault"]) == ["ping failed", "Segmentation fault"]


def test_without_an_error_the_last_five_lines_that_say_something_are_shown() -> None:
    """Plain lines as they are, events by what they say."""
    lines = [*(f"line {number}" for number in range(9)), "", _json("info", "ready", port=1), "{no json"]

    assert causes(lines) == ["line 6", "line 7", "line 8", "ready (port=1)", "{no json"]


def test_an_error_that_it_had_lived_with_is_not_the_cause_of_a_kill() -> None:
    """Only what native code printed last may be."""
    lines = [_json("error", "the model cannot be loaded; trying again")]

    assert causes(lines, killed=True) == []
    assert causes([*lines, "Fatal Python error: Segmentation fault"], killed=True) == ["Fatal Python error: Segmentation fault"]


def test_chromadbs_logo_settings_and_advertisements_are_left_out() -> None:
    """What it says of its end stays."""
    assert causes(CHROMA.splitlines()) == []
    assert causes([*CHROMA.splitlines(), "Error: Address 127.0.0.1:8000 is not available"]) == ["Error: Address 127.0.0.1:8000 is not available"]

"""`kb log-level` against both services in memory."""

from __future__ import annotations

import json

from tests.unit.conftest import Kb


def test_it_shows_what_both_services_log(kb: Kb) -> None:
    """A line a logger; nothing is changed."""
    status, out, _ = kb("log-level")
    assert status == 0
    assert [line.split() for line in out.splitlines()] == [
        ["service", "logger", "level"],
        ["indexer", "root", "info"],
        ["indexer", "quiet", "error"],
        ["query", "root", "info"],
        ["query", "quiet", "error"],
    ]


def test_a_change_holds_for_the_service_that_is_named(kb: Kb) -> None:
    """It is shown as changed, for that service alone, and reset gives back what the settings say."""
    status, out, _ = kb("log-level", "--service", "query", "services.query", "debug", "--json")
    assert (status, json.loads(out)["query"][-1]) == (0, {"logger": "services.query", "level": "debug", "changed": True})
    assert list(json.loads(out)) == ["query"]
    assert "services.query" not in kb("log-level", "--service", "indexer")[1]
    assert "changed" in kb("log-level")[1]
    assert "services.query" not in kb("log-level", "services.query", "reset")[1]


def test_without_a_service_both_are_changed(kb: Kb) -> None:
    """One command for an incident in which nobody knows yet whose it is."""
    _, out, _ = kb("log-level", "root", "warning", "--json")
    assert {name: levels[0]["level"] for name, levels in json.loads(out).items()} == {"indexer": "warning", "query": "warning"}


def test_wrong_usage_is_told_before_anything_is_asked(kb: Kb) -> None:
    """A level that there is not, and a logger without one."""
    assert kb("log-level", "root", "loud")[0] == 2
    status, _, err = kb("log-level", "root")
    assert (status, "give a LEVEL" in err) == (2, True)


def test_what_the_service_refuses_is_one_line(kb: Kb) -> None:
    """With the field and what it must be."""
    status, _, err = kb("log-level", "no logger", "debug")
    assert status == 1
    assert "must be the name of a logger" in err
    assert len(err.splitlines()) == 1


def test_help_has_examples(kb: Kb) -> None:
    """As every command's."""
    status, out, _ = kb("log-level", "--help")
    assert status == 0
    assert "Examples:" in out
    assert "kb log-level root warning" in out

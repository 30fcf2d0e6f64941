"""`kb chaos` as a user runs it, on a single row; what the rows find is for test_fault_matrix.py."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from services.cli.chaos import report
from services.cli.chaos.matrix import ROWS
from services.cli.chaos.outcome import Check, Outcome
from services.cli.main import main

DOCUMENT = """# Reliability
<!-- chaos: table -->
old
<!-- /chaos -->
between
<!-- chaos: conditions -->
<!-- /chaos -->
"""


def run(*arguments: str) -> int | str | None:
    """Exit status of the command."""
    with pytest.raises(SystemExit) as ended:
        main(("chaos", *arguments))
    return ended.value.code


def test_a_row_is_run_judged_and_written_down(tmp_path: Path, model_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On a stack of its own: figures as JSON, the table in the document, and what is not as by default is said."""
    output = tmp_path / "docs"
    output.mkdir()
    (output / "reliability.md").write_text(DOCUMENT)

    rows = ("--only", "16", "--only", "22", "--seconds", "2", "--recovery", "3")
    status = run(*rows, "--json", "--output", str(output), "--model-dir", str(model_dir))

    shown = capsys.readouterr()
    found = json.loads(shown.out)
    assert status == 0
    assert found["kept"] is True
    ran, skipped = found["rows"]
    assert (ran["row"], ran["requests"], ran["answered"], ran["acknowledged"], ran["found"]) == ("16", 40, 40, 8, 8)
    assert skipped["skipped"].startswith("not yet")
    assert "KB_BREAKER_RECOVERY=3" in shown.err
    assert json.loads((output / "chaos.json").read_text()) == found
    written = (output / "reliability.md").read_text()
    assert "| 16. a second indexer on one catalog | 40 | 40 | 0 | 0 |" in written
    assert "- Each fault lasts 2 s" in written
    assert "old" not in written
    assert "between" in written


def test_the_list_shows_every_row_and_starts_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """With what is promised of searches and writes."""
    assert run("--list") == 0

    out = capsys.readouterr().out
    assert all(f"{row.name}. " in out for row in ROWS)


def test_a_row_that_there_is_not_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    """Exit status 2, and where to look."""
    assert run("--only", "99") == 2

    assert "kb chaos --list" in " ".join(capsys.readouterr().err.split())


def test_a_broken_promise_stands_out() -> None:
    """In the table its row says how many, in the list of promises it says what was seen, and the whole is not kept."""
    kept, broken = Check("searches are answered", True, "10 of 10"), Check("writes are kept", False, "1 lost")
    outcome = Outcome("1", "ChromaDB is killed", requests=10, answered=10, sent=5, acknowledged=5, found=4, checks=[kept, broken])

    assert "**1 broken**" in report.table([outcome]).markdown()
    assert "| 1: writes are kept | 1 lost | **no** |" in report.promises([outcome]).markdown()
    assert outcome.broken == [broken]

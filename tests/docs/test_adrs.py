"""The decisions in docs/adr have one form and stand in their index."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "adr"
DECISIONS = sorted(path for path in FOLDER.glob("*.md") if path.name not in {"README.md", "template.md"})
SECTIONS = ["Status", "Context", "Decision", "Consequences"]


def test_decisions_are_numbered_from_one_without_gaps() -> None:
    """Each file begins with its number, and no number is left out or used twice."""
    numbers = [int(path.name[:4]) for path in DECISIONS]

    assert list(range(1, len(DECISIONS) + 1)) == numbers


@pytest.mark.parametrize("path", [*DECISIONS, FOLDER / "template.md"], ids=lambda path: path.stem)
def test_a_decision_has_the_four_sections_and_says_what_would_undo_it(path: Path) -> None:
    """Title, status, context, decision, consequences, in this order; the last names an observation that would undo the decision."""
    text = path.read_text(encoding="utf-8")

    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == SECTIONS
    assert all(section.strip() for section in re.split(r"^## .+$", text, flags=re.MULTILINE)[1:])
    assert "\nWhat would make us undo it: " in text.split("## Consequences")[1]


@pytest.mark.parametrize("path", DECISIONS, ids=lambda path: path.stem)
def test_a_decision_is_titled_with_its_number_and_has_a_known_status(path: Path) -> None:
    """`# NNNN. Title` agrees with the file's name, and the status is one of three."""
    text = path.read_text(encoding="utf-8")
    status = text.split("## Status")[1].split("##")[0].strip()

    assert text.startswith(f"# {path.name[:4]}. ")
    assert re.fullmatch(r"proposed|accepted|replaced by \[\d{4}\]\(\d{4}-[a-z0-9-]+\.md\)", status)


def test_the_index_lists_every_decision_with_its_title_and_status() -> None:
    """docs/adr/README.md has one row a file, in order."""
    expected = []
    for path in DECISIONS:
        text = path.read_text(encoding="utf-8")
        title = text.splitlines()[0].removeprefix(f"# {path.name[:4]}. ")
        status = text.split("## Status")[1].split("##")[0].strip()
        expected.append((path.name[:4], path.name, title, status))

    index = (FOLDER / "README.md").read_text(encoding="utf-8")

    assert re.findall(r"^\| \[(\d{4})\]\(([^)]+)\) \| (.+?) \| (.+?) \|$", index, re.MULTILINE) == expected

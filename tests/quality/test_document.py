"""docs/quality.md says what was measured."""

from __future__ import annotations

import json
from pathlib import Path

from services.cli.quality.markdown import tables
from services.cli.quality.systems import SYSTEMS
from shared.golden.collection import golden

DOCS = Path(__file__).resolve().parents[2] / "docs"
RESULTS = sorted((DOCS / "quality").glob("**/quality.json"))
MAIN = {DOCS / "quality" / "quality.json"}


def test_every_table_of_the_document_is_that_of_its_result_file() -> None:
    """No figure was typed in or has been left behind by a newer run."""
    text = (DOCS / "quality.md").read_text(encoding="utf-8")

    assert RESULTS
    for path in RESULTS:
        # The runs with the original model, and without ChromaDB, have the others' tables once more, from answers of another moment.
        wanted = {
            name: table
            for name, table in tables(json.loads(path.read_text(encoding="utf-8"))).items()
            if path in MAIN or name.endswith(("fp32", "outage"))
        }
        assert wanted, path
        for name, table in wanted.items():
            assert table in text, f"{path.relative_to(DOCS)}: {name}"


def test_the_results_are_of_the_golden_set_and_the_systems_as_they_are_now() -> None:
    """A change of the passages or of what is compared asks for a new run."""
    for path in RESULTS:
        for collection in json.loads(path.read_text(encoding="utf-8"))["collections"]:
            assert [system["name"] for system in collection["systems"]] == [system.name for system in SYSTEMS]
            if collection["name"] == "golden":
                assert collection["fingerprint"] == golden().fingerprint
                assert collection["queries"] == len(golden().topics)

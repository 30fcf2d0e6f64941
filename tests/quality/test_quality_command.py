"""`kb quality`: what it refuses before it starts anything, and what it writes."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from services.cli.main import main
from services.cli.quality import chart, markdown, report
from services.cli.quality.measure import Measures
from services.cli.quality.run import Outcome, Scores
from services.cli.quality.systems import DEAD_KEYWORD, DEAD_VECTORS, SYSTEMS
from services.cli.quality.targets import Check
from shared.golden.collection import golden

pytest.importorskip("ir_measures", reason="of the extra `bench`")


def outcome(ndcg: float) -> Outcome:
    """What a run over the golden set could have measured."""
    collection = golden()
    each = Measures(ndcg, 0.9, 0.8, 10)
    scores = tuple(Scores(system, each, dict.fromkeys(collection.kinds, each)) for system in SYSTEMS)
    return Outcome(collection, 300, scores, checks=(Check("is at least 0.5", ndcg >= 0.5),))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--only", "nothing"), "no collection nothing; there are: golden"),
        (("--no-golden",), "nothing to measure"),
        (("--datasets", "."), "no collection in"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_anything_starts(
    arguments: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """One line, exit status 1."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(["quality", *arguments])

    assert ended.value.code == 1
    assert said in capsys.readouterr().err


def test_without_the_extra_it_says_what_to_install(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Not a stack trace of an import."""
    monkeypatch.setitem(sys.modules, "ir_measures", None)
    with pytest.raises(SystemExit) as ended:
        main(["quality"])

    assert ended.value.code == 1
    assert "needs the extra `bench`" in capsys.readouterr().err


def test_the_json_has_every_figure_and_whether_the_targets_are_met() -> None:
    """By collection, system and kind; one missed target is enough."""
    form = json.loads(json.dumps(report.as_json([outcome(0.6), outcome(0.4)], {"cpu": "x"})))

    assert form["met"] is False
    assert [found["targets"][0]["met"] for found in form["collections"]] == [True, False]
    systems = form["collections"][0]["systems"]
    assert [system["name"] for system in systems] == [system.name for system in SYSTEMS]
    assert systems[0]["ndcg"] == 0.6
    assert systems[0]["kinds"].keys() == {"identifier", "paraphrase", "mixed"}


def test_the_table_says_which_target_is_missed(capsys: pytest.CaptureFixture[str]) -> None:
    """In words, beside the figures."""
    report.show([outcome(0.4)])

    printed = capsys.readouterr().out
    assert "hybrid by default" in printed
    assert "0.4000" in printed
    assert "MISSED  is at least 0.5" in printed


def test_the_chart_is_a_picture(tmp_path: Path) -> None:
    """A PNG of some size."""
    chart.draw([outcome(0.6)], tmp_path / "quality.png")

    assert (tmp_path / "quality.png").read_bytes().startswith(b"\x89PNG")


def test_tables_for_documents_have_a_row_for_each_system() -> None:
    """Rounded to four places; the default stands out."""
    table = markdown.tables(report.as_json([outcome(0.6)], {}))["golden"]

    lines = table.splitlines()
    assert lines[0] == "|  | NDCG@10 | Recall@100 | MRR@10 | NDCG@10 identifier | NDCG@10 paraphrase | NDCG@10 mixed |"
    assert lines[2] == "| keyword alone | 0.6000 | 0.9000 | 0.8000 | 0.6000 | 0.6000 | 0.6000 |"
    assert lines[-1].startswith("| **hybrid by default** | **0.6000** |")
    assert len(lines) == 2 + len(SYSTEMS)


def test_what_was_measured_without_chromadb_stands_beside_the_rest(capsys: pytest.CaptureFixture[str]) -> None:
    """In the terminal, in JSON and as a table of its own; absent when it was not asked for."""
    whole = outcome(0.6)
    outage = tuple(replace(whole.scores[0], system=system) for system in (DEAD_VECTORS, DEAD_KEYWORD))
    measured = replace(whole, outage=outage)
    form = report.as_json([measured], {})
    report.show([measured])

    assert [system["name"] for system in form["collections"][0]["outage"]] == ["dead-vectors", "dead-keyword"]
    assert "| ChromaDB dead, no vectors | 0.6000 |" in markdown.tables(form)["golden outage"]
    assert "without ChromaDB" in capsys.readouterr().out
    assert "outage" not in report.as_json([outcome(0.6)], {})["collections"][0]

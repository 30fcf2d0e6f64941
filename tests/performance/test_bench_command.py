"""`kb bench` as a user runs it, on the smallest corpus: that it measures, not what it finds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from services.cli.main import main

_DOCUMENTS = 100


def _corpus(path: Path) -> None:
    """Documents as the corpus keeps them, so that no installed text has to be collected."""
    topics = ("sockets", "decimal numbers", "text encodings", "worker threads", "regular expressions")
    path.parent.mkdir(parents=True)
    with path.open("w") as file:
        for i in range(_DOCUMENTS):
            text = f"Explains how {topics[i % 5]} are opened, used and closed again in part {i} of the manual, with an example."
            document = {"id": f"d{i}", "title": f"manual.part_{i}", "text": text}
            file.write(json.dumps({**document, "metadata": {"package": "manual", "kind": "text", "line": i, "bucket": i * 100, "year": 2000}}) + "\n")


def test_a_small_run_measures_saves_and_draws(tmp_path: Path, model_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two sections on 100 documents: every part of the floor and recall is measured, nothing fails, the file and a chart are there."""
    _corpus(tmp_path / "data" / "bench" / "corpus.jsonl")
    output = tmp_path / "out"
    sections = ("--only", "floor", "--only", "recall", "--duration", "0.1", "--slice", "0.1", "--size", str(_DOCUMENTS))
    with pytest.raises(SystemExit) as ended:
        main(("bench", *sections, "--data-dir", str(tmp_path / "data"), "--model-dir", str(model_dir), "--output", str(output), "--json"))
    assert ended.value.code == 0
    found = json.loads(capsys.readouterr().out)
    assert found["failures"] == []
    assert found["corpora"][str(_DOCUMENTS)]["documents"] == _DOCUMENTS
    floor = {record["name"]: record["values"] for record in found["records"] if record["section"] == "floor"}
    assert floor["hybrid search, 1 at a time"]["to_floor_ratio"] > 0
    assert all(values["p50_ms"] > 0 and values["failed"] == 0 for values in floor.values() if "per_second" in values)
    assert floor["hybrid search, cached, 1 at a time"]["cached_share"] > floor["hybrid search, 1 at a time"]["cached_share"] == 0
    recalls = [record["values"]["recall_at_10_share"] for record in found["records"] if record["section"] == "recall"]
    assert len(recalls) == 2
    assert min(recalls) > 0.9  # an index of 100 vectors misses next to nothing
    saved = json.loads(next(output.glob("*.json")).read_text())
    assert saved["records"][0]["name"] == found["records"][0]["name"]
    assert (output / "bench-latency.png").read_bytes().startswith(b"\x89PNG")

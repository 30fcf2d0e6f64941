"""What the benchmark makes of its figures: files, verdicts, tables, documents, charts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from services.cli.bench import charts, records
from services.cli.bench.compare import compare, warnings
from services.cli.bench.document import fill, replaced
from services.cli.bench.records import Labels, Record, Report
from services.cli.bench.tables import tables
from services.cli.bench.verdicts import judge
from shared.errors import InvalidArgumentError


def _search(size: str, mode: str, cache: str, concurrency: int, p50: float, p99: float, rate: float) -> Record:
    labels: Labels = {"mode": mode, "cache": cache, "selectivity": 1.0, "concurrency": concurrency}
    return Record("search", size, f"{mode}, {cache}, {concurrency}", labels, 100, {"p50_ms": p50, "p95_ms": p99, "p99_ms": p99, "per_second": rate})


def _filtered(mode: str, share: float, p50: float, ratio: float | None = None) -> Record:
    values = {"p50_ms": p50, "p99_ms": 2 * p50}
    if ratio is not None:
        values |= {"to_unfiltered_ratio": ratio, "to_unfiltered_low_ratio": ratio, "to_unfiltered_high_ratio": ratio}
    return Record("filters", "100k", f"{mode} {share}", {"mode": mode, "selectivity": share}, 50, values)


_REPORT = Report(
    machine={
        "cpu": "A",
        "cores": 2,
        "memory_gb": 8,
        "kernel": "6",
        "python": "3.11",
        "commit": "abc",
        "dirty": False,
        "time": "2026-01-01T00:00:00+00:00",
    },
    corpora={
        "10k": {"documents": 10_000, "chunks": 10_000, "median_characters": 200, "fingerprint": "f1"},
        "100k": {"documents": 100_000, "chunks": 100_001, "median_characters": 200, "fingerprint": "f2"},
    },
    options={},
    records=[
        _search("10k", "hybrid", "uncached", 1, 3.0, 9.0, 300),
        _search("100k", "hybrid", "uncached", 1, 5.0, 30.0, 180),
        _search("100k", "hybrid", "uncached", 8, 20.0, 90.0, 400),
        _filtered("hybrid", 1.0, 5.0),
        _filtered("hybrid", 0.0001, 6.0, 1.2),
        _filtered("hybrid", 0.5, 11.0, 2.2),
        Record("floor", "100k", "embedding alone", {"part": "embedding alone", "concurrency": 1}, 10, {"p50_ms": 1.0, "p95_ms": 2.0, "p99_ms": 2.0}),
        Record("outage", "100k", "ChromaDB hangs", {"chromadb": "hung"}, 60, {"failed": 0.0, "slowest_ms": 990.0, "waited_after_open": 0.0}),
    ],
)


def _verdict(report: Report, beginning: str) -> tuple[str, bool | None]:
    verdict = next(verdict for verdict in judge(report) if verdict.what.startswith(beginning))
    return verdict.found, verdict.met


def test_a_verdict_is_of_the_largest_corpus() -> None:
    """p50 is met and p99 is not on 100k, whatever 10k says."""
    assert _verdict(_REPORT, "search, uncached, hybrid, one at a time: p50") == ("5 ms (100k)", True)
    assert _verdict(_REPORT, "search, uncached, hybrid, one at a time: p99") == ("30 ms (100k)", False)
    assert _verdict(_REPORT, "search, uncached, hybrid, 8 at a time: searches/s") == ("400/s (100k)", True)


def test_of_several_records_the_worst_counts() -> None:
    """One selectivity above the bound is enough to miss it."""
    assert _verdict(_REPORT, "filtered hybrid search") == ("2.2 × (100k)", False)


def test_what_was_not_measured_is_neither_met_nor_missed() -> None:
    """No record, no verdict."""
    assert _verdict(_REPORT, "ingest acknowledged") == ("not measured", None)
    assert all(verdict.met is None for verdict in judge(replace(_REPORT, records=[])))


def test_a_result_file_reads_back_as_it_was_written(tmp_path: Path) -> None:
    """Figures keep six digits; verdicts stand beside them."""
    path = tmp_path / "new" / "result.json"
    records.save(_REPORT, path, [{"met": True}])
    assert records.load(path) == _REPORT
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(InvalidArgumentError, match="not a result file"):
        records.load(tmp_path / "other.json")


def test_tables_have_a_column_for_each_concurrency_and_selectivity() -> None:
    """Searches are rows, concurrencies columns; what is missing is a dash."""
    made = {table.name: table for table in tables(_REPORT)}
    assert made["search-100k"].rows == [
        ["hybrid, uncached, no filter", "5.00 / 30.0 / 30.0", "180", "20.0 / 90.0 / 90.0", "400"],
    ]
    assert [row[0] for row in made["filters-100k"].rows] == ["no filter", "50.00%", "0.01%"]
    assert made["growth"].rows == [["hybrid, uncached, 1", "3.00", "5.00", "1.67"]]
    assert "rebuild" not in made
    lines = made["growth"].markdown().splitlines()
    assert lines == ["| search | 10k: p50 ms | 100k: p50 ms | ratio |", "|---|--:|--:|--:|", "| hybrid, uncached, 1 | 3.00 | 5.00 | 1.67 |"]


def test_a_document_gets_its_tables_and_keeps_its_words(tmp_path: Path) -> None:
    """Only what stands between the comments is replaced; a place without a table stays as it was and is told."""
    path = tmp_path / "performance.md"
    path.write_text("Words.\n<!-- bench: growth -->\nold\n<!-- /bench -->\nMore.\n<!-- bench: rebuild -->\nkept\n<!-- /bench -->\n")
    assert fill(path, _REPORT) == ["rebuild"]
    text = path.read_text()
    assert text.startswith("Words.\n<!-- bench: growth -->\n| search |")
    assert "old" not in text
    assert "kept\n<!-- /bench -->" in text
    assert replaced(text, {}) == (text, ["growth", "rebuild"])


def test_two_results_are_compared_by_name() -> None:
    """New over old for each figure that both have; another machine or corpus is warned of."""
    newer = replace(
        _REPORT,
        machine={**_REPORT.machine, "cpu": "B"},
        corpora={**_REPORT.corpora, "10k": {**_REPORT.corpora["10k"], "fingerprint": "f9"}},
        records=[_search("10k", "hybrid", "uncached", 1, 1.5, 9.0, 600)],
    )
    rows = {row[3]: row[-1] for row in compare(_REPORT, newer).rows}
    assert rows == {"p50_ms": "0.50", "p99_ms": "1.00", "per_second": "2.00"}
    assert compare(_REPORT, newer, ["floor"]).rows == []
    assert warnings(_REPORT, newer) == ["cpu: A before, B now", "the corpus 10k is another one: f1 before, f9 now"]


def test_charts_are_drawn_of_what_was_measured(tmp_path: Path) -> None:
    """Each chart with figures becomes a PNG file; one without is left out."""
    drawn = charts.draw(_REPORT, tmp_path)
    assert [path.name for path in drawn] == ["bench-latency.png", "bench-selectivity.png", "bench-throughput.png", "bench-growth.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in drawn)


def test_several_runs_are_read_as_one_and_of_a_section_measured_twice_the_last_counts() -> None:
    """By section and size: nothing of the older section stays beside the newer one, and what one run alone has is kept."""

    def run(*figures: tuple[str, str, str, float]) -> Report:
        return replace(_REPORT, records=[Record(section, size, name, {}, 1, {"p50_ms": p50}) for section, size, name, p50 in figures])

    older = run(("search", "10k", "a", 1.0), ("search", "10k", "b", 2.0), ("floor", "10k", "c", 3.0))
    newer = run(("search", "10k", "a", 9.0), ("search", "100k", "a", 8.0))
    merged = records.merge([older, newer])

    assert {found.key: found.values["p50_ms"] for found in merged.records} == {
        ("search", "10k", "a"): 9.0,
        ("search", "100k", "a"): 8.0,
        ("floor", "10k", "c"): 3.0,
    }

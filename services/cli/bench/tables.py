"""The tables of a report: made once, shown on a terminal by rich or written as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.table import Table as RichTable

from services.cli.bench import cells
from services.cli.bench.records import Record, Report
from services.cli.bench.verdicts import judge

_MET = {True: "yes", False: "**no**", None: cells.NONE}


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of text under a title; `name` is what documents refer to it by."""

    name: str
    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]

    def rich(self) -> RichTable:
        """For a terminal."""
        table = RichTable(title=self.title, title_justify="left", title_style="bold")
        for number, column in enumerate(self.columns):
            table.add_column(column, justify="left" if number == 0 else "right", overflow="fold")
        for row in self.rows:
            table.add_row(*(cell.replace("**", "") for cell in row))
        return table

    def markdown(self) -> str:
        """For a document."""
        head = f"| {' | '.join(self.columns)} |\n|{'|'.join(['---'] + ['--:'] * (len(self.columns) - 1))}|"
        return "\n".join((head, *(f"| {' | '.join(row)} |" for row in self.rows)))


def tables(report: Report) -> list[Table]:
    """All tables that the report has something for."""
    made = [_verdicts(report), *(_search(report, size) for size in report.corpora)]
    made += [_filters(report, size) for size in report.corpora]
    made += [_floor(report), _growth(report), _memory(report), _outage(report)]
    made += [_plain(report, section, title, values) for section, title, values in _PLAIN]
    made += [_competitors(report, size) for size in report.corpora]
    made.append(_competitors_else(report))
    return [table for table in made if table.rows]


def machine_line(report: Report) -> str:
    """Where and when, in one line."""
    here = report.machine
    commit = f"commit {here['commit'] or 'unknown'}{' with changes' if here['dirty'] else ''}"
    return f"{here['cpu']}, {here['cores']} cores, {here['memory_gb']} GB, Linux {here['kernel']}, Python {here['python']}, {commit}, {here['time']}"


def _verdicts(report: Report) -> Table:
    rows = [(verdict.what, verdict.wanted, verdict.found, _MET[verdict.met]) for verdict in judge(report)]
    return Table("verdicts", "Figures to build for", ("what", "wanted", "found (corpus)", "met"), rows)


def _search(report: Report, size: str) -> Table:
    """A row for each mode, cache and filter; p50 / p95 / p99 and searches a second for each concurrency."""
    records = list(report.find("search", size))
    concurrencies = sorted({int(record.labels["concurrency"]) for record in records})
    rows: dict[tuple[str, ...], dict[int, Record]] = {}
    for record in records:
        labels = record.labels
        key = (str(labels["mode"]), str(labels["cache"]), cells.filter_name(float(labels["selectivity"])))
        rows.setdefault(key, {})[int(labels["concurrency"])] = record
    columns = ["search", *(text for c in concurrencies for text in (f"{c} at a time: p50 / p95 / p99 ms", "per second"))]
    body = [
        [", ".join(key), *(cell for c in concurrencies for cell in (cells.latency(found.get(c)), cells.cell(found.get(c), "per_second")))]
        for key, found in rows.items()
    ]
    return Table(f"search-{size}", f"Searches, {size} chunks", columns, body)


def _filters(report: Report, size: str) -> Table:
    records = list(report.find("filters", size))
    modes = list(dict.fromkeys(str(record.labels["mode"]) for record in records))
    shares = sorted({float(record.labels["selectivity"]) for record in records}, reverse=True)
    by = {(str(record.labels["mode"]), float(record.labels["selectivity"])): record for record in records}
    columns = ["documents that match", *(text for mode in modes for text in (f"{mode}: p50 ms", "p99 ms", "× unfiltered"))]
    rows = [
        [
            "no filter" if share == 1 else f"{share:.2%}",
            *(
                cell
                for mode in modes
                for cell in (
                    cells.cell(by.get((mode, share)), "p50_ms"),
                    cells.cell(by.get((mode, share)), "p99_ms"),
                    cells.ratio(by.get((mode, share)), "to_unfiltered"),
                )
            ),
        ]
        for share in shares
    ]
    return Table(f"filters-{size}", f"Filtered searches, one at a time, {size} chunks", columns, rows)


_RATIOS = {"to_floor": "embedding and query", "to_echo": "echo", "to_stub": "bare stub"}


def _floor(report: Report) -> Table:
    rows = []
    for record in report.find("floor"):
        ratio = next((name for name in _RATIOS if f"{name}_ratio" in record.values), "")
        rows.append(
            [
                f"{record.size}: {record.name}",
                cells.latency(record),
                cells.cell(record, "per_second"),
                f"{cells.ratio(record, ratio)} × {_RATIOS[ratio]}" if ratio else cells.NONE,
                " / ".join(cells.cell(record, f"{process}_cpu_ms") for process in ("query", "chromadb", "client", "all")),
                " / ".join(cells.cell(record, f"service_{stage}_ms") for stage in ("total", "embed", "vector", "keyword", "assemble"))
                if "service_total_ms" in record.values
                else cells.NONE,
            ]
        )
    columns = (
        "what",
        "p50 / p95 / p99 ms",
        "per second",
        "ratio",
        "CPU ms: service / ChromaDB / client / all",
        "in the service: total / embed / vector / keyword / assemble ms",
    )
    return Table("floor", "Against the floor", columns, rows)


def _growth(report: Report) -> Table:
    """Uncached, unfiltered searches on each corpus, and the last over the first."""
    sizes = list(report.corpora)
    if len(sizes) < 2:
        return Table("growth", "", (), ())
    rows = []
    for record in report.find("search", sizes[0], labels={"cache": "uncached", "selectivity": 1.0}):
        found = [next(report.find("search", size, record.name), None) for size in sizes]
        if all(found):
            ends = [item.values.get("p50_ms", 0.0) for item in (found[0], found[-1]) if item is not None]
            rows.append([record.name, *(cells.cell(item, "p50_ms") for item in found), f"{ends[1] / ends[0]:.2f}" if ends[0] else cells.NONE])
    return Table("growth", f"Growth from {sizes[0]} to {sizes[-1]}", ("search", *(f"{size}: p50 ms" for size in sizes), "ratio"), rows)


def _memory(report: Report) -> Table:
    rows = [
        [f"{record.size}: {record.name}", *(cells.cell(record, value) for value in ("rss_mb", "anonymous_mb", "unique_mb"))]
        for record in report.find("memory")
    ]
    return Table("memory", "Memory", ("process", "resident MB", "of it anonymous MB", "unique MB"), rows)


def _outage(report: Report) -> Table:
    rows = []
    for record in report.find("outage"):
        values = {name: value for name, value in record.values.items() if not name.endswith(("cpu_ms", "mean_ms", "max_ms"))}
        if "p50_ms" in values and "per_second" in values:
            text = (
                f"p50 / p95 / p99 {cells.latency(record)} ms, {cells.cell(record, 'per_second')} per second, degraded {values['degraded_share']:.0%}"
            )
        else:
            text = ", ".join(f"{cells.words(name)} {cells.number(name, value)}" for name, value in values.items())
        rows.append([f"{record.size}: {record.name}", f"{record.n:,}", text])
    return Table("outage", "Without ChromaDB", ("what", "n", "found"), rows)


# Sections whose records are a line each.
_PLAIN: Sequence[tuple[str, str, Sequence[str]]] = (
    ("recall", "Recall@10 of the vector leg against exact search", ("recall_at_10_share", "degraded_share")),
    ("ingest", "Writing", ("per_second", "to_embedder_ratio", "client_cpu_ms")),
    (
        "rebuild",
        "Rebuild from the catalog",
        ("seconds", "chunks_per_second", "chunks_embedded_again", "searches", "failed", "search_p50_ms", "search_p99_ms"),
    ),
    ("overhead", "Cost of traces, metrics and logs", ("p50_ms", "p99_ms", "cpu_ms", "to_off_ratio", "cost_ms", "cpu_cost_ms")),
)


def _plain(report: Report, section: str, title: str, names: Sequence[str]) -> Table:
    records = list(report.find(section))
    present = [name for name in names if any(name in record.values for record in records)]
    rows = [[f"{record.size}: {record.name}", f"{record.n:,}", *(cells.cell(record, name) for name in present)] for record in records]
    return Table(section, title, ("what", "n", *map(cells.words, present)), rows)


def _competitors(report: Report, size: str) -> Table:
    """A row for each tool and filter; latency, throughput and the ratio to our own search of the same kind for each concurrency."""
    records = [record for record in report.find("competitors", size) if "concurrency" in record.labels]
    concurrencies = sorted({int(record.labels["concurrency"]) for record in records})
    rows: dict[tuple[float, str], dict[int, Record]] = {}
    for record in records:
        rows.setdefault((float(record.labels["selectivity"]), str(record.labels["what"])), {})[int(record.labels["concurrency"])] = record
    columns = ["search", *(text for c in concurrencies for text in (f"{c} at a time: p50 / p95 / p99 ms", "per second", "× KnowledgeBeast"))]
    body = [
        [
            f"{name}, {cells.filter_name(share)}",
            *(
                cell
                for c in concurrencies
                for cell in (cells.latency(found.get(c)), cells.cell(found.get(c), "per_second"), cells.ratio(found.get(c), "to_knowledgebeast"))
            ),
        ]
        for (share, name), found in rows.items()
    ]
    return Table(f"competitors-{size}", f"Side by side, {size} chunks", columns, body)


def _competitors_else(report: Report) -> Table:
    names = ("recall_at_10_share", "seconds", "chunks_per_second", "rss_mb")
    records = [record for record in report.find("competitors") if "concurrency" not in record.labels]
    rows = [[f"{record.size}: {record.name}", *(cells.cell(record, name) for name in names)] for record in records]
    return Table("competitors-else", "Side by side: recall, build, memory", ("what", *map(cells.words, names)), rows)


def as_rich(made: Iterable[Table]) -> list[RichTable]:
    """For a terminal."""
    return [table.rich() for table in made]

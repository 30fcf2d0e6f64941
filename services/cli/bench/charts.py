"""Charts of a report as PNG files. Needs matplotlib (the `bench` extra)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from services.cli.bench.records import Labels, Record, Report
from shared.errors import ConfigurationError

_DPI = 120
_WIDTH, _HEIGHT = 9.0, 4.5  # inches


def draw(report: Report, folder: Path) -> list[Path]:
    """Draws every chart that the report has figures for; the files. Raises ConfigurationError without matplotlib."""
    try:
        import matplotlib as mpl  # noqa: PLC0415 - a development extra, slow to import
    except ImportError as error:
        raise ConfigurationError("charts need matplotlib: pip install -e '.[bench]'") from error
    mpl.use("Agg")
    folder.mkdir(parents=True, exist_ok=True)
    charts: dict[str, Callable[[Any, Report], bool]] = {
        "bench-latency": _latency,
        "bench-selectivity": _selectivity,
        "bench-throughput": _throughput,
        "bench-growth": _growth,
        "bench-competitors": _competitors,
    }
    return [path for name, chart in charts.items() if (path := _draw(chart, report, folder / f"{name}.png")) is not None]


def _draw(chart: Callable[[Any, Report], bool], report: Report, path: Path) -> Path | None:
    from matplotlib import pyplot as plt  # noqa: PLC0415 - same

    figure, axes = plt.subplots(figsize=(_WIDTH, _HEIGHT), layout="constrained")
    try:
        if not chart(axes, report):
            return None
        figure.savefig(path, dpi=_DPI, metadata={"Software": None})
        return path
    finally:
        plt.close(figure)


def _largest(report: Report) -> str:
    return max(report.corpora, key=lambda size: int(report.corpora[size]["documents"]), default="")


def _latency(axes: Any, report: Report) -> bool:  # noqa: ANN401 - matplotlib's Axes
    """p50 and p99 of the floor's parts and of searches, one at a time."""
    size = _largest(report)
    records = [record for record in report.find("floor", size, labels={"concurrency": 1}) if "p50_ms" in record.values]
    if not records:
        return False
    names = [str(record.labels["part"]) for record in records]
    places = range(len(names))
    axes.barh([place + 0.2 for place in places], [record.values["p50_ms"] for record in records], height=0.4, label="p50")
    axes.barh([place - 0.2 for place in places], [record.values["p99_ms"] for record in records], height=0.4, label="p99")
    axes.set_yticks(list(places), names)
    axes.invert_yaxis()
    axes.set_xlabel("milliseconds")
    axes.set_title(f"Searches and what they are made of, one at a time, {size} chunks")
    axes.legend()
    return True


def _selectivity(axes: Any, report: Report) -> bool:  # noqa: ANN401 - same
    """p50 against the share of documents that match; the unfiltered search is a dashed line."""
    size = _largest(report)
    records = list(report.find("filters", size))
    for number, mode in enumerate(dict.fromkeys(str(record.labels["mode"]) for record in records)):
        points = sorted(
            (float(record.labels["selectivity"]), record.values["p50_ms"])
            for record in records
            if record.labels["mode"] == mode and "p50_ms" in record.values
        )
        filtered = [point for point in points if point[0] < 1]
        axes.plot([share * 100 for share, _ in filtered], [value for _, value in filtered], marker="o", color=f"C{number}", label=mode)
        for share, value in points:
            if share == 1:
                axes.axhline(value, linestyle="--", linewidth=1, color=f"C{number}")
    if not records:
        return False
    axes.set_xscale("log")
    axes.set_ylim(bottom=0)
    axes.set_xlabel("documents that match, %")
    axes.set_ylabel("p50, milliseconds")
    axes.set_title(f"Filtered searches, one at a time, {size} chunks (dashed: no filter)")
    axes.legend()
    return True


def _throughput(axes: Any, report: Report) -> bool:  # noqa: ANN401 - same
    """Searches a second against concurrency."""
    size = _largest(report)
    records = [record for record in report.find("search", size, labels={"selectivity": 1.0}) if "per_second" in record.values]
    lines: dict[str, list[Record]] = {}
    for record in records:
        lines.setdefault(f"{record.labels['mode']}, {record.labels['cache']}", []).append(record)
    for name, found in lines.items():
        axes.plot([record.labels["concurrency"] for record in found], [record.values["per_second"] for record in found], marker="o", label=name)
    if not records:
        return False
    axes.set_xscale("log", base=2)
    ticks = sorted({int(record.labels["concurrency"]) for record in records})
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.set_ylim(bottom=0)
    axes.set_xlabel("searches at a time")
    axes.set_ylabel("searches a second")
    axes.set_title(f"Throughput, {size} chunks")
    axes.legend()
    return True


def _growth(axes: Any, report: Report) -> bool:  # noqa: ANN401 - same
    """p50 on each corpus."""
    sizes = list(report.corpora)
    modes = list(dict.fromkeys(str(record.labels["mode"]) for record in report.find("search")))
    if len(sizes) < 2 or not modes:
        return False
    groups = [
        (
            f"{mode}, {concurrency} at a time",
            [_uncached(report, size, mode, concurrency) for size in sizes],
        )
        for mode in modes
        for concurrency in (1, 8)
    ]
    _grouped(axes, [name for name, _ in groups], sizes, [[_p50(found[place]) for _, found in groups] for place in range(len(sizes))])
    axes.set_ylabel("p50, milliseconds")
    axes.set_title("Growth of the corpus, uncached searches")
    return True


def _uncached(report: Report, size: str, mode: str, concurrency: int) -> Record | None:
    labels: Labels = {"mode": mode, "cache": "uncached", "selectivity": 1.0, "concurrency": concurrency}
    return next(report.find("search", size, labels=labels), None)


def _competitors(axes: Any, report: Report) -> bool:  # noqa: ANN401 - same
    """p50 side by side, without and with filters."""
    size = _largest(report)
    records = [record for record in report.find("competitors", size, labels={"concurrency": 1}) if "what" in record.labels]
    if not records:
        return False
    names = list(dict.fromkeys(str(record.labels["what"]) for record in records))
    shares = sorted({float(record.labels["selectivity"]) for record in records}, reverse=True)
    by = {(record.labels["what"], record.labels["selectivity"]): record for record in records}
    labels = ["no filter" if share == 1 else f"filter {share:.0%}" for share in shares]
    _grouped(axes, labels, names, [[_p50(by.get((name, share))) for share in shares] for name in names])
    axes.set_yscale("log")
    axes.set_ylim(bottom=0.5)
    axes.set_ylabel("p50, milliseconds (logarithmic)")
    axes.set_title(f"Side by side, one at a time, {size} chunks")
    return True


def _grouped(axes: Any, groups: Sequence[str], names: Sequence[str], values: Sequence[Sequence[float]]) -> None:  # noqa: ANN401 - same
    """Bars in groups: `values[name][group]`."""
    width = 0.8 / len(names)
    for number, name in enumerate(names):
        places = [place + (number - (len(names) - 1) / 2) * width for place in range(len(groups))]
        axes.bar(places, values[number], width=width, label=name)
    axes.set_xticks(range(len(groups)), groups, fontsize="small")
    axes.legend(fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -0.08), ncols=3)


def _p50(record: Record | None) -> float:
    return 0.0 if record is None else record.values.get("p50_ms", 0.0)

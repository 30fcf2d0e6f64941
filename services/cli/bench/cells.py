"""The cells of tables: figures as text, each in the form that the end of its name asks for. Pure."""

from __future__ import annotations

from services.cli.bench.records import Record

NONE = "–"
_WITHOUT_UNIT = ("_share", "_ratio")
_UNITS = {"_ms": " ms", "_mb": " MB"}


def filter_name(share: float) -> str:
    """`no filter`, or `filter 20%` when a fifth of the documents match."""
    return "no filter" if share == 1 else f"filter {share:.0%}"


def latency(record: Record | None) -> str:
    """p50 / p95 / p99 in milliseconds."""
    if record is None or "p50_ms" not in record.values:
        return NONE
    return " / ".join(number(name, record.values[name]) for name in ("p50_ms", "p95_ms", "p99_ms"))


def cell(record: Record | None, name: str) -> str:
    """One figure of a record."""
    return NONE if record is None or name not in record.values else number(name, record.values[name])


def ratio(record: Record | None, prefix: str) -> str:
    """A ratio with the middle half of its pairs."""
    if record is None or f"{prefix}_ratio" not in record.values:
        return NONE
    values = record.values
    return f"{values[f'{prefix}_ratio']:.2f} ({values[f'{prefix}_low_ratio']:.2f}–{values[f'{prefix}_high_ratio']:.2f})"


def number(name: str, value: float) -> str:
    """A figure as its name asks for: milliseconds with three digits, shares in per cent, ratios with two decimals, others as they are."""
    if name.endswith("_share"):
        return f"{value:.1%}"
    if name.endswith("_ratio"):
        return f"{value:.2f}"
    if name.endswith("_ms") and abs(value) < 100:
        return f"{value:.2f}" if abs(value) < 10 else f"{value:.1f}"
    return f"{value:,.0f}" if abs(value) >= 10 or value == int(value) else f"{value:.2f}"


def words(name: str) -> str:
    """The name of a figure for people."""
    for ending in _WITHOUT_UNIT:
        name = name.removesuffix(ending)
    for ending, unit in _UNITS.items():
        if name.endswith(ending):
            return name.removesuffix(ending).replace("_", " ") + unit
    return name.replace("_", " ")

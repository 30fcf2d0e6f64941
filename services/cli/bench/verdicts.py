"""The figures that the project is built for, and whether a run met them. Pure. Bounds are those of the project's design."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from services.cli.bench.records import Record, Report


@dataclass(frozen=True, slots=True)
class Verdict:
    """One figure: what was wanted, what was found (`found` as text, `value` as a number), and whether that is met; None: not measured."""

    what: str
    wanted: str
    found: str
    value: float | None
    met: bool | None


@dataclass(frozen=True, slots=True)
class _Bound:
    """`value` of a record against a limit, of which it may be at most, or at least, so much."""

    what: str
    section: str
    value: str
    limit: float
    unit: str
    name: str | None = None
    labels: tuple[tuple[str, str | float], ...] = ()
    least: bool = False
    strict: bool = True  # "less than", or "at most"

    @property
    def wanted(self) -> str:
        """In words: `< 6 ms`, `none`."""
        if self.limit == 0:
            return "none"
        sign = "≥" if self.least else "<" if self.strict else "≤"
        return f"{sign} {_number(self.limit)}{self.unit}"


_HYBRID = (("mode", "hybrid"), ("cache", "uncached"), ("selectivity", 1.0))
_HUNG = (("chromadb", "hung"),)
_MS = " ms"

BOUNDS: Sequence[_Bound] = (
    _Bound("search, uncached, hybrid, one at a time: p50", "search", "p50_ms", 6, _MS, labels=(*_HYBRID, ("concurrency", 1))),
    _Bound("search, uncached, hybrid, one at a time: p99", "search", "p99_ms", 25, _MS, labels=(*_HYBRID, ("concurrency", 1))),
    _Bound(
        "the same against embedding + ChromaDB query in the same run",
        "floor",
        "to_floor_ratio",
        1.5,
        " ×",
        labels=(("part", "hybrid search"), ("concurrency", 1)),
        strict=False,
    ),
    _Bound("search, uncached, hybrid, 8 at a time: searches/s", "search", "per_second", 350, "/s", labels=(*_HYBRID, ("concurrency", 8)), least=True),
    _Bound("search, uncached, hybrid, 8 at a time: p99", "search", "p99_ms", 100, _MS, labels=(*_HYBRID, ("concurrency", 8))),
    _Bound(
        "cached search: p50",
        "search",
        "p50_ms",
        1.5,
        _MS,
        labels=(("mode", "hybrid"), ("cache", "cached"), ("selectivity", 1.0), ("concurrency", 1)),
    ),
    _Bound(
        "filtered hybrid search, worst selectivity, against unfiltered: p50",
        "filters",
        "to_unfiltered_ratio",
        2,
        " ×",
        labels=(("mode", "hybrid"),),
        strict=False,
    ),
    _Bound("ChromaDB down, breaker open, keyword: p50", "outage", "p50_ms", 3, _MS, labels=(("mode", "keyword"), ("chromadb", "dead"))),
    _Bound("ChromaDB down, breaker open, exact vectors: p50", "outage", "p50_ms", 12, _MS, labels=(("mode", "vector"), ("chromadb", "dead"))),
    # A stand-in for "NDCG unchanged": `kb quality` measures the quality of the order itself.
    _Bound("ChromaDB down: of the first ten hits stay the same", "outage", "same_hits_share", 0.95, "", labels=(("chromadb", "dead"),), least=True),
    _Bound("ChromaDB hung: searches that failed", "outage", "failed", 0, "", labels=_HUNG, strict=False),
    _Bound("ChromaDB hung: slowest search within its budget of 2 s", "outage", "slowest_ms", 2000, _MS, labels=_HUNG, strict=False),
    _Bound("ChromaDB hung: failures until the breaker is open", "outage", "opened_after_searches", 5, "", labels=_HUNG, strict=False),
    _Bound("ChromaDB hung: searches that waited for it after that", "outage", "waited_after_open", 0, "", labels=_HUNG, strict=False),
    _Bound("ingest acknowledged", "ingest", "per_second", 2000, "/s", name="documents acknowledged", least=True),
    _Bound("ingest to searchable, against the embedder", "ingest", "to_embedder_ratio", 0.9, " ×", name="documents searchable", least=True),
    _Bound("rebuild of ChromaDB from the catalog", "rebuild", "chunks_per_second", 1000, " chunks/s", least=True),
    _Bound("chunks embedded again by it", "rebuild", "chunks_embedded_again", 0, "", strict=False),
    _Bound(
        "traces, metrics and logs: cost of a search",
        "overhead",
        "cost_ms",
        1,
        _MS,
        labels=(("instrumentation", "on, 1 % of traces recorded"), ("cache", "uncached")),
    ),
    _Bound(
        "traces, metrics and logs: share of p50 (an aim)",
        "overhead",
        "to_off_ratio",
        1.01,
        " ×",
        labels=(("instrumentation", "on, 1 % of traces recorded"), ("cache", "uncached")),
    ),
    _Bound("memory of the idle query service", "memory", "rss_mb", 250, " MB", labels=(("process", "query"), ("state", "idle"))),
    _Bound("memory of the query service with the corpus", "memory", "rss_mb", 500, " MB", labels=(("process", "query"), ("state", "loaded"))),
    _Bound(
        "libraries of torch in the query service", "memory", "torch_loaded", 0, "", labels=(("process", "query"), ("state", "loaded")), strict=False
    ),
)


def judge(report: Report) -> list[Verdict]:
    """One verdict a figure, on the largest corpus that has it; where several records fit, the worst counts."""
    return [_judge(report, bound) for bound in BOUNDS]


def _judge(report: Report, bound: _Bound) -> Verdict:
    found = [record for record in report.find(bound.section, name=bound.name, labels=dict(bound.labels)) if bound.value in record.values]
    if not found:
        return Verdict(bound.what, bound.wanted, "not measured", None, None)
    largest = max(_size(record, report) for record in found)
    values = [record.values[bound.value] for record in found if _size(record, report) == largest]
    value = min(values) if bound.least else max(values)
    met = value >= bound.limit if bound.least else value < bound.limit if bound.strict else value <= bound.limit
    size = next(record.size for record in found if _size(record, report) == largest)
    return Verdict(bound.what, bound.wanted, f"{_number(value)}{bound.unit} ({size})", value, met)


def _size(record: Record, report: Report) -> int:
    return int(report.corpora.get(record.size, {}).get("documents", 0))


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"

"""Latency and throughput of searches: every mode, with and without the cache, with and without a filter, at several concurrencies."""

from __future__ import annotations

from services.cli.bench.ask import selectivity
from services.cli.bench.context import Bench
from services.cli.bench.interleave import Variant
from services.cli.bench.records import Labels
from shared.search import SearchMode

CONCURRENCIES = (1, 8, 32)
MODES = tuple(mode.value for mode in SearchMode)
_CACHED_AT_LEAST, _CACHED_AT_MOST = 0.9, 0.0
_FILTERS = (None, 100, 2000)  # none, 1 % and 20 % of the documents match


async def run(bench: Bench) -> None:
    """Measures all variants of one concurrency in turns."""
    for concurrency in CONCURRENCIES:
        variants = [
            _variant(bench, mode, below, cached=cached, concurrency=concurrency) for mode in MODES for below in _FILTERS for cached in (False, True)
        ]
        await bench.measure(f"searches, {concurrency} at a time", variants)
        for variant in variants:
            bench.record_variant("search", variant)
            _remark(bench, variant)


def _remark(bench: Bench, variant: Variant) -> None:
    """Says what would make the figures mean something else than their names."""
    figures, cached = variant.figures(), variant.labels["cache"] == "cached"
    share = figures.get("cached_share", 0.0)
    if share < _CACHED_AT_LEAST if cached else share > _CACHED_AT_MOST:
        bench.note(f"{variant.name}: {share:.1%} of the answers came from the cache")
    if figures.get("degraded_share", 0.0) > 0:
        bench.note(f"{variant.name}: {figures['degraded_share']:.1%} of the answers were degraded")


def _variant(bench: Bench, mode: str, below: int | None, *, cached: bool, concurrency: int) -> Variant:
    share = selectivity(below)
    cache = "cached" if cached else "uncached"
    name = f"{mode}, {cache}, {'no filter' if below is None else f'filter {share:.2%}'}, {concurrency} at a time"
    source = bench.repeated(mode, below) if cached else bench.fresh(mode, below)
    labels: Labels = {"mode": mode, "cache": cache, "selectivity": share, "concurrency": concurrency}
    return Variant(name, bench.stub, source, concurrency, labels)

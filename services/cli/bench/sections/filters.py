"""Filtered searches from 0.01 % to 50 % of the documents, in turns with the unfiltered one."""

from __future__ import annotations

from services.cli.bench.ask import selectivity
from services.cli.bench.context import Bench
from services.cli.bench.interleave import Variant
from services.cli.bench.records import ratio_values
from shared.search import SearchMode

BELOW = (1, 10, 100, 500, 1000, 2000, 5000)  # of 10,000


async def run(bench: Bench) -> None:
    """Measures each mode at every selectivity; the ratio is to the unfiltered search of the same mode in the same rounds."""
    for mode in (mode.value for mode in SearchMode):
        unfiltered = _variant(bench, mode, None)
        filtered = [_variant(bench, mode, below) for below in BELOW]
        await bench.measure(f"filtered {mode} searches", [unfiltered, *filtered])
        bench.record_variant("filters", unfiltered)
        for variant in filtered:
            bench.record_variant("filters", variant, **ratio_values("to_unfiltered", variant.ratio_to(unfiltered)))


def _variant(bench: Bench, mode: str, below: int | None) -> Variant:
    share = selectivity(below)
    name = f"{mode}, {'no filter' if below is None else f'filter {share:.2%}'}"
    return Variant(name, bench.stub, bench.fresh(mode, below), labels={"mode": mode, "selectivity": share})

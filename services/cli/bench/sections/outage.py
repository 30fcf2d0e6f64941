"""Searches while ChromaDB is dead, and while it hangs."""

from __future__ import annotations

import asyncio
import time

from services.cli.bench.ask import Ask
from services.cli.bench.context import Bench, scrape
from services.cli.bench.dataset import PROJECT
from services.cli.bench.interleave import Variant
from services.cli.bench.load import TargetSpec
from services.cli.bench.stats import median, percentiles
from shared.errors import DeadlineExceededError

_COMPARED = 200  # searches whose answers with and without ChromaDB are compared
_OPEN, _CLOSED = 2.0, 0.0  # values of kb_breaker_state
_BREAKER_TIMEOUT = 120.0  # seconds; it looks at ChromaDB again after 30
_BUDGET = 2.0  # seconds: the deadline of a search while ChromaDB hangs
_HUNG_SEARCHES = 60
_WAITED = 0.1  # seconds above which a search has waited for ChromaDB


async def run(bench: Bench) -> None:
    """Kills ChromaDB, measures, brings it back; then suspends it, measures, and lets it go on."""
    stack = bench.stack
    queries = bench.queries.take(_COMPARED)
    alive = await bench.generator.run(bench.stub, [Ask(query) for query in queries], collect=True)
    stack.kill_chroma()
    try:
        await _until_breaker(bench, _OPEN)
        await _dead(bench, queries, alive.ids if not alive.failed else [])
    finally:
        await stack.start_chroma()
    await _until_breaker(bench, _CLOSED)
    stack.chroma.suspend()
    try:
        await _hung(bench)
    finally:
        stack.chroma.resume()
    await _until_breaker(bench, _CLOSED)


async def _dead(bench: Bench, queries: list[str], alive: list[list[str]]) -> None:
    variants = [
        Variant(f"{mode} search, ChromaDB dead, breaker open", bench.stub, bench.fresh(mode), labels={"mode": mode, "chromadb": "dead"})
        for mode in ("keyword", "vector", "hybrid")
    ]
    await bench.measure("searches without ChromaDB", variants)
    for variant in variants:
        bench.record_variant("outage", variant)
    # One more hit than before, so that no cache answers; the first ten are compared.
    answers = await bench.generator.run(bench.stub, [Ask(query, top_k=11) for query in queries], collect=True)
    if answers.failed or not alive:
        bench.fail("the answers with and without ChromaDB were not compared, because some searches failed")
        return
    same = [len(set(before) & set(after[:10])) / max(1, len(before)) for before, after in zip(alive, answers.ids, strict=True)]
    values = {"same_hits_share": sum(same) / len(same), "degraded_share": answers.degraded / len(same)}
    bench.record("outage", "first ten hits that stay the same when ChromaDB dies", values, n=len(same), labels={"chromadb": "dead"})


async def _hung(bench: Bench) -> None:
    """One search after the other, from the moment in which ChromaDB stops."""
    target = TargetSpec("stub", {"query": bench.stack.query_address, "project": PROJECT, "timeout": _BUDGET})
    latencies: list[float] = []
    failed = waited_after_open = 0
    opened_at: int | None = None
    for number, query in enumerate(bench.queries.take(_HUNG_SEARCHES)):
        burst = await bench.generator.run(target, [Ask(query)])
        failed += burst.failed
        latencies += burst.latencies
        if opened_at is not None:
            waited_after_open += sum(value > _WAITED for value in burst.latencies)
        elif (await scrape(bench.stack.ports.query_http)).get("kb_breaker_state") == _OPEN:
            opened_at = number + 1
    waited = [value for value in latencies if value > _WAITED]
    after = latencies[opened_at:] if opened_at is not None else []
    values = {
        "failed": float(failed),
        "budget_ms": _BUDGET * 1e3,
        "slowest_ms": max(latencies, default=0.0) * 1e3,
        "searches_that_waited": float(len(waited)),
        "waited_p50_ms": median(waited) * 1e3 if waited else 0.0,
        "waited_after_open": float(waited_after_open),
        "opened_after_searches": float(opened_at or 0),
        **{f"after_open_{name}": value for name, value in percentiles(after).items()},
    }
    bench.record("outage", "hybrid search, ChromaDB hangs", values, n=_HUNG_SEARCHES, labels={"mode": "hybrid", "chromadb": "hung"})


async def _until_breaker(bench: Bench, state: float) -> None:
    """Searches until the breaker around ChromaDB is in a state. Raises DeadlineExceededError if that takes too long."""
    until = time.monotonic() + _BREAKER_TIMEOUT
    while time.monotonic() < until:
        await bench.generator.run(bench.stub, [Ask(query, "vector") for query in bench.queries.take(3)])
        if (await scrape(bench.stack.ports.query_http)).get("kb_breaker_state") == state:
            return
        await asyncio.sleep(0.2)
    raise DeadlineExceededError(f"the circuit breaker did not come to state {state:g} within {_BREAKER_TIMEOUT:g} s")

"""A stack of its own under load, watched by a real Prometheus, with an outage of ChromaDB behind it: everything that is measured has moved."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from services.cli.bench.echo import EchoServer
from services.cli.chaos.plan import Plan
from services.cli.chaos.rig import Rig, running
from services.cli.chaos.scrape import breaker_is_open
from services.cli.chaos.until import until
from services.cli.observe.monitoring import Monitoring, MonitoringPorts, Targets
from services.cli.observe.traffic import Traffic

SCRAPE_SECONDS = 1.0
_WAIT_FACTOR = 0.01  # of the alerts' `for`: five minutes become three seconds
_PLAN = Plan(recovery=4.0, searches_per_second=15.0, writes_per_second=4.0)
_PATIENCE = 40.0  # seconds for a condition; what does not come true in that time is what the check is there to find

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Pace:
    """How long each part lasts, in seconds.

    Attributes:
        calm: Load before the outage.
        outage: ChromaDB is away, from when the breaker has opened.
        settled: Load after everything is whole again.
        canary: Between two runs of the search canary.
    """

    calm: float = 20.0
    outage: float = 8.0
    settled: float = 20.0
    canary: float = 5.0


@dataclass(frozen=True, slots=True)
class Watched:
    """What runs; the load goes on. `began` is when it began, in seconds since 1970."""

    rig: Rig
    monitoring: Monitoring
    began: float


@asynccontextmanager
async def watched(folder: Path, models: Path, pace: Pace, say: Say) -> AsyncIterator[Watched]:
    """Goes through calm, outage and recovery, then yields with the load still on, and stops everything at the end.

    Args:
        folder: Where everything is kept.
        models: Folder of exported models.
        pace: How long each part lasts.
        say: Is told what goes on.

    Raises:
        FailedPreconditionError: Prometheus or Alertmanager is not installed.
        UnavailableError: a process does not start.
    """
    ports = MonitoringPorts.free()
    async with EchoServer(b"") as collector:  # takes spans and answers with an empty message, as a trace collector does
        settings = {"KB_TRACE_ENDPOINT": f"http://{collector.address}", "KB_TRACE_SAMPLE_RATIO": "1"}
        query = {"KB_CANARY_INTERVAL": f"{pace.canary:g}"}
        async with running(folder / "stack", models, _PLAN, settings=settings, query=query, direct=True) as rig:
            monitoring = Monitoring(folder / "monitoring", Targets.of(rig.stack), ports, scrape_seconds=SCRAPE_SECONDS, wait_factor=_WAIT_FACTOR)
            began = time.time()
            try:
                await monitoring.start()
                async with _under_load(rig, say):
                    await _go_through(rig, monitoring, pace, say)
                    yield Watched(rig, monitoring, began)
            finally:
                await monitoring.stop()


@asynccontextmanager
async def _under_load(rig: Rig, say: Say) -> AsyncIterator[None]:
    traffic = Traffic(rig.kb, _PLAN)
    say("writing documents into four projects")
    await traffic.prepare()
    load = asyncio.create_task(traffic.run())
    try:
        yield
    finally:
        load.cancel()
        with suppress(asyncio.CancelledError):
            await load  # raises what ended it before its time


async def _go_through(rig: Rig, monitoring: Monitoring, pace: Pace, say: Say) -> None:
    say(f"searches and writes, {pace.calm:g} s")
    await asyncio.sleep(pace.calm)
    say("ChromaDB is killed")
    rig.stack.kill_chroma()
    await _looked_for(lambda: breaker_is_open(rig.stack.ports.query_http), "the breaker has not opened", say)
    await _looked_for(lambda: _has_value(monitoring, 'ALERTS{alertstate="firing"}'), "no alert fires", say)
    await asyncio.sleep(pace.outage)
    say("ChromaDB is started again")
    await rig.stack.start_chroma()
    await _looked_for(lambda: _is_zero(monitoring, "max(kb_breaker_state) + max(kb_projector_lag_sequences)"), "not everything is whole again", say)
    await _looked_for(lambda: _has_value(monitoring, "kb_search_ndcg"), "the canary has not finished a run", say)
    say(f"searches and writes again, {pace.settled:g} s")
    await asyncio.sleep(pace.settled)


async def _looked_for(holds: Callable[[], Awaitable[bool]], otherwise: str, say: Say) -> None:
    """Waits for it. If it does not come, that is said, and what follows will show it: the check is there to find such things."""
    try:
        await until(holds, _PATIENCE)
    except TimeoutError:
        say(f"after {_PATIENCE:g} s: {otherwise}")


async def _has_value(monitoring: Monitoring, expression: str) -> bool:
    return any(math.isfinite(one.value) for one in await monitoring.prometheus.query(expression))


async def _is_zero(monitoring: Monitoring, expression: str) -> bool:
    found = await monitoring.prometheus.query(expression)
    return bool(found) and all(one.value == 0 for one in found)

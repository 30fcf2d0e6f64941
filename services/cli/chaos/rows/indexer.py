"""The indexer killed, stopped, doubled, and its wire to the query service cut."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psutil

from services.cli.chaos.rig import Rig
from services.cli.chaos.rows.chromadb import wire
from services.cli.chaos.trial import Trial
from services.cli.chaos.wire_faults import BlackHole, Pass, Refuse, Trickle, WireFault
from services.cli.stack.process import free_port
from shared.client import DegradationReason
from shared.errors import UnavailableError

_STALE = DegradationReason.REPLICA_STALE.value
_AWAY = DegradationReason.VECTOR_STORE_UNAVAILABLE.value
_KILLS_PER_SECOND = 0.4  # a start takes about a second, and there is to be something to kill in the middle of
_SECOND_START = 20.0  # seconds that a second indexer gets to find out that it is one
_FEED_BYTES_PER_SECOND = 2_000  # of a consumer that reads slowly; a note with its vector is about 2 KB
_MEMORY = 64 * 1024 * 1024  # bytes by which the indexer may grow while a consumer is slow


async def killed(trial: Trial) -> None:
    """Row 10: `kill -9` again and again, in the middle of writes, and started again each time."""
    stack = trial.rig.stack

    @asynccontextmanager
    async def fault() -> AsyncIterator[None]:
        kills = asyncio.create_task(again_and_again())
        try:
            yield
        finally:
            kills.cancel()
            await asyncio.gather(kills, return_exceptions=True)
            if not stack.indexer.running:
                await stack.start_indexer()

    count = 0

    async def again_and_again() -> None:
        nonlocal count
        while True:
            await asyncio.sleep(1 / _KILLS_PER_SECOND / 2)
            stack.kill_indexer()
            count += 1
            await asyncio.sleep(1 / _KILLS_PER_SECOND / 2)
            await stack.start_indexer()

    await trial.during(fault())
    trial.notes.append(f"killed {count} times")
    trial.none_failed()
    trial.none_late()
    trial.promise("some writes are acknowledged between the kills", kept=bool(trial.tally.acknowledged), seen=f"{len(trial.tally.acknowledged)}")
    trial.stays_ready("query")
    await trial.recover()
    await trial.account()


async def suspended(trial: Trial) -> None:
    """Row 11: `SIGSTOP`: it hangs, and so does whoever writes, until the deadline."""

    @asynccontextmanager
    async def fault() -> AsyncIterator[None]:
        trial.rig.stack.indexer.suspend()
        try:
            yield
        finally:
            trial.rig.stack.indexer.resume()

    await trial.during(fault())
    trial.none_failed()
    trial.none_late()
    refusals = set(trial.tally.refusals)
    trial.promise("writes end with DEADLINE_EXCEEDED", kept=refusals == {"DEADLINE_EXCEEDED"}, seen=", ".join(refusals) or "acknowledged")
    indexer = trial.health.get("indexer")
    seen = "nothing" if indexer is None else f"live: {indexer.live}, ready: {indexer.ready}"
    trial.promise("the indexer's probes fail", kept=indexer is not None and not indexer.live and not indexer.ready, seen=seen)
    trial.stays_ready("query")
    await trial.recover()
    await trial.account()


async def second_writer(trial: Trial) -> None:
    """Row 16: a second indexer on the same catalog. It ends by itself, and the first does not notice."""
    stack = trial.rig.stack
    ports = {f"KB_INDEXER_{kind}PORT": str(free_port()) for kind in ("", "HTTP_", "HEALTH_")}
    second = stack.another("indexer", "indexer-second", f"127.0.0.1:{ports['KB_INDEXER_PORT']}", ports)

    @asynccontextmanager
    async def fault() -> AsyncIterator[None]:
        try:
            await second.start(_SECOND_START)
        except UnavailableError:
            yield
        else:
            second.kill()
            yield

    await trial.during(fault())
    said = "another indexer uses the catalog" in second.log_tail()
    seen = f"ended with {second.returncode}" + (", and says that another indexer uses the catalog" if said else "")
    trial.promise("the second one ends with status 1 and says why", kept=second.returncode == 1 and said, seen=seen)
    trial.none_failed()
    trial.none_late()
    trial.all_acknowledged()
    trial.promise("no answer is degraded", kept=not trial.tally.degraded, seen=f"{trial.tally.degraded} degraded")
    await trial.recover()
    await trial.account()


async def partition(trial: Trial) -> None:
    """Row 17: the feed's packets are swallowed. The query service goes on with what it has, and says so."""
    await trial.during(_feed(trial.rig, BlackHole()))
    trial.none_failed()
    trial.none_late()
    trial.some_degraded(_STALE)
    trial.all_acknowledged()
    trial.stays_ready("query", "indexer")
    await trial.recover()
    await trial.account()


async def both_away(trial: Trial) -> None:
    """Row 20: neither ChromaDB nor the feed answers."""

    @asynccontextmanager
    async def fault() -> AsyncIterator[None]:
        async with wire(trial.rig, Refuse()), _feed(trial.rig, Refuse()):
            yield

    await trial.during(fault())
    trial.none_failed()
    trial.none_late()
    trial.some_degraded(_STALE, _AWAY, DegradationReason.VECTOR_LEG_MISSING.value)
    trial.all_acknowledged()
    trial.stays_ready("query", "indexer")
    await trial.recover()
    await trial.account()


async def slow_consumer(trial: Trial) -> None:
    """Row 26: the query service hears the feed at 2 KB a second. The indexer does not keep for it what it has not read."""
    process = psutil.Process(trial.rig.stack.indexer.pid)
    before = process.memory_info().rss
    await trial.during(_feed(trial.rig, Trickle(_FEED_BYTES_PER_SECOND)))
    grown = process.memory_info().rss - before
    trial.promise("the indexer's memory stays bounded", kept=grown < _MEMORY, seen=f"{grown / 1e6:+.1f} MB")
    trial.none_failed()
    trial.none_late()
    trial.all_acknowledged()
    trial.stays_ready("query", "indexer")
    await trial.recover()
    await trial.account()


@asynccontextmanager
async def _feed(rig: Rig, fault: WireFault) -> AsyncIterator[None]:
    """A fault of the connection to the indexer's feed."""
    await rig.feed.set(fault)
    try:
        yield
    finally:
        await rig.feed.set(Pass())

"""ChromaDB away, slow, wrong or emptied."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import aiohttp
import psutil

from services.cli.chaos import notes
from services.cli.chaos.rig import Rig
from services.cli.chaos.scrape import breaker_is_open, samples
from services.cli.chaos.tally import Asked, percentile
from services.cli.chaos.trial import Trial
from services.cli.chaos.until import until
from services.cli.chaos.wire_faults import Answer, BlackHole, Delay, Pass, Refuse, Reset, WireFault
from shared.client import DegradationReason
from shared.errors import KnowledgeBeastError, UnavailableError

_AWAY = (DegradationReason.VECTOR_STORE_UNAVAILABLE.value, DegradationReason.VECTOR_LEG_MISSING.value)
_P99 = 0.050  # seconds, of searches after the breaker has opened
_LATENCY = 0.5  # seconds, each way
_CUT_AFTER = 120  # bytes: in the middle of an answer's head
_SHARE_5XX = 0.3
_PROBES = 'kb_breaker_transitions_total{to="half_open"}'
_CALLERS = 50
_WAVE_NUMBERS = 900_000_000  # beyond what the load counts up to
_SLOW_PROBE = 0.3  # seconds each way, so that all callers come while it is under way
_HTTP_TIMEOUT = aiohttp.ClientTimeout(total=10.0)
_SPARE_DESCRIPTORS = 8  # what may be open more than before: connections that are kept for the next search


async def killed(trial: Trial) -> None:
    """Row 1: `kill -9`."""

    @asynccontextmanager
    async def fault() -> AsyncIterator[None]:
        rig = trial.rig
        rig.stack.kill_chroma()
        await rig.to_chroma(Refuse())  # as the kernel does for a port that nobody holds
        try:
            yield
            await trial.noticed("chromadb")
        finally:
            await rig.stack.start_chroma()
            await rig.to_chroma(Pass())

    await trial.during(fault())
    _kept_going(trial)
    await _back(trial)


async def suspended(trial: Trial) -> None:
    """Row 2: `SIGSTOP`: connections are accepted and never answered."""

    @asynccontextmanager
    async def fault() -> AsyncIterator[None]:
        trial.rig.stack.chroma.suspend()
        try:
            yield
        finally:
            trial.rig.stack.chroma.resume()

    await _hung(trial, fault)


async def black_hole(trial: Trial) -> None:
    """Row 3: the network swallows everything. Nothing may pile up in the query service."""
    process = psutil.Process(trial.rig.stack.query.pid)
    before = await asyncio.to_thread(process.num_fds), process.num_threads()
    await _hung(trial, lambda: wire(trial.rig, BlackHole()))
    after = await asyncio.to_thread(process.num_fds), process.num_threads()
    trial.promise(
        "no socket and no thread is left behind in the query service",
        kept=after[0] <= before[0] + _SPARE_DESCRIPTORS and after[1] <= before[1] + _SPARE_DESCRIPTORS,
        seen=f"descriptors {before[0]} before, {after[0]} after; threads {before[1]} before, {after[1]} after",
    )


async def slow(trial: Trial) -> None:
    """Row 4: half a second more, each way. A search has one second for ChromaDB, so the answer comes too late."""
    await trial.during(wire(trial.rig, Delay(_LATENCY)))
    _kept_going(trial)
    await _back(trial)


async def cut_off(trial: Trial) -> None:
    """Row 5: each answer is reset in the middle."""
    await trial.during(wire(trial.rig, Reset(_CUT_AFTER)))
    _kept_going(trial)
    await _back(trial)


async def failing(trial: Trial) -> None:
    """Row 6: three of ten requests are answered with 503. Until the breaker opens, the others are answered by ChromaDB."""
    await trial.during(wire(trial.rig, Answer(503, share=_SHARE_5XX)))
    trial.none_failed()
    trial.none_late()
    trial.all_acknowledged()
    trial.some_degraded(*_AWAY)
    trial.stays_ready("query", "indexer")
    await _back(trial)


async def fifty_waiting(trial: Trial) -> None:
    """Row 7: the breaker is open, ChromaDB is back, and fifty callers are there when it may be tried again: exactly one tries it."""
    rig = trial.rig
    async with wire(rig, Refuse()):
        await _until_open(trial)
        # Their embeddings are in the cache from here on, so that all fifty get as far as the breaker while the probe is under way.
        await _wave(trial)
    await rig.to_chroma(Delay(_SLOW_PROBE))
    known, answers = len(rig.chroma.exchanges), [True]
    async with asyncio.timeout(trial.plan.patience):
        while all(answers):
            answers = await _wave(trial)
    queries = [exchange for exchange in rig.chroma.exchanges[known:] if exchange.line.split(" ")[1].endswith("/query")]
    first = queries[0].answered if queries else None
    probes = sum(1 for query in queries if first is None or query.began <= first)
    trial.promise(
        f"with {_CALLERS} callers waiting exactly one call probes ChromaDB",
        kept=probes == 1,
        seen=f"{probes} before the first answer; {answers.count(False)} of {_CALLERS} searches were answered by ChromaDB, the rest from the copy",
    )
    await rig.calm()
    trial.none_failed()
    await _back(trial)


async def wiped(trial: Trial) -> None:
    """Row 8: ChromaDB comes back without its data, which are written again from the catalog."""

    @asynccontextmanager
    async def fault() -> AsyncIterator[None]:
        rig = trial.rig
        rig.stack.kill_chroma()
        await asyncio.to_thread(shutil.rmtree, rig.stack.data_dir / "chroma")
        await rig.stack.start_chroma()
        yield

    await trial.during(fault())
    trial.none_failed()
    trial.none_late()
    trial.all_acknowledged()
    trial.stays_ready("query", "indexer")
    await _back(trial)


async def collection_deleted(trial: Trial) -> None:
    """Row 29: somebody deletes the project's collection behind our back."""

    @asynccontextmanager
    async def fault() -> AsyncIterator[None]:
        project = await trial.rig.kb.get_project(trial.project)
        collections = f"{trial.rig.stack.chroma_url}/api/v2/tenants/default_tenant/databases/default_database/collections"
        async with aiohttp.ClientSession(timeout=_HTTP_TIMEOUT) as session, session.delete(f"{collections}/{project.collection}") as response:
            if not response.ok:
                raise UnavailableError(f"ChromaDB did not delete the collection: {response.status}", component="chromadb")
        yield

    before = await trial.rig.kb.get_project(trial.project)
    await trial.during(fault())
    trial.none_failed()
    trial.none_late()
    trial.all_acknowledged()
    trial.stays_ready("query", "indexer")
    await _back(trial)
    after = await trial.rig.kb.get_project(trial.project)
    trial.promise("a new collection was filled from the catalog", kept=after.generation > before.generation, seen=f"generation {after.generation}")


@asynccontextmanager
async def wire(rig: Rig, fault: WireFault) -> AsyncIterator[None]:
    """A fault of the connections to ChromaDB, of both services."""
    await rig.to_chroma(fault)
    try:
        yield
    finally:
        await rig.to_chroma(Pass())


def _kept_going(trial: Trial) -> None:
    """What is promised while ChromaDB cannot be used."""
    trial.none_failed()
    trial.none_late()
    trial.some_degraded(*_AWAY)
    trial.all_acknowledged()
    trial.stays_ready("query", "indexer")


async def _back(trial: Trial) -> None:
    await trial.recover()
    await trial.account()


async def _hung(trial: Trial, fault: Callable[[], AbstractAsyncContextManager[None]]) -> None:
    """ChromaDB accepts connections and does not answer: what is promised until the breaker opens, and after."""
    port = trial.rig.stack.ports.query_http
    opened: list[float] = []

    async def watch() -> None:
        await until(lambda: breaker_is_open(port), trial.plan.patience)
        opened.append(asyncio.get_running_loop().time())

    @asynccontextmanager
    async def watched() -> AsyncIterator[None]:
        async with fault():
            watching = asyncio.create_task(watch())
            try:
                yield
            finally:
                watching.cancel()
                await asyncio.gather(watching, return_exceptions=True)

    before = await samples(port)
    await trial.during(watched())
    probes = round((await samples(port))[_PROBES] - before[_PROBES])
    _kept_going(trial)
    if opened:
        _quick_when_open(trial, [one for one in trial.tally.asked if one.at >= opened[0]], probes)
    else:
        trial.promise("the breaker opens", kept=False, seen="it did not")
    await _back(trial)


def _quick_when_open(trial: Trial, asked: Sequence[Asked], probes: int) -> None:
    """Promises the speed of searches after the breaker has opened. A search that probes ChromaDB waits for it, and is left out."""
    seconds = sorted(one.seconds for one in asked)
    rest = seconds[: len(seconds) - probes] if probes else seconds
    p99 = percentile(rest, 0.99)
    seen = f"p50 {percentile(rest, 0.5) * 1e3:.1f} ms, p99 {p99 * 1e3:.1f} ms of {len(rest)}" + (f", {probes} probes left out" if probes else "")
    trial.promise(f"after the breaker has opened, p99 < {_P99 * 1e3:.0f} ms", kept=p99 < _P99, seen=seen)


async def _until_open(trial: Trial) -> None:
    """Searches until the breaker is open. Raises TimeoutError."""
    async with asyncio.timeout(trial.plan.patience):
        while not await breaker_is_open(trial.rig.stack.ports.query_http):
            await trial.load().ask()


async def _wave(trial: Trial) -> list[bool]:
    """Fifty searches at the same time, the same fifty each time; which of them were answered by the copy."""

    async def ask(number: int) -> bool:
        clock = asyncio.get_running_loop().time
        began = clock()
        try:
            answer = await trial.rig.kb.search(trial.project, notes.question(number), timeout=trial.plan.deadline)
        except KnowledgeBeastError as error:
            trial.tally.asked.append(Asked(began, clock() - began, error=error.reason))
            return True
        trial.tally.asked.append(Asked(began, clock() - began, tuple(degradation.reason.value for degradation in answer.degradations)))
        return answer.degraded

    return await asyncio.gather(*(ask(_WAVE_NUMBERS + caller) for caller in range(_CALLERS)))

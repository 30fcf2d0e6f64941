"""Keyword searches do not pay for a ChromaDB that is away."""

from __future__ import annotations

import asyncio

from services.cli.chaos import notes
from services.cli.chaos.scrape import breaker_is_open
from services.cli.chaos.second import second_query
from services.cli.chaos.tally import Asked, percentile
from services.cli.chaos.trial import Trial
from services.cli.chaos.until import until
from services.cli.chaos.wire_faults import Pass, Refuse
from shared.client import KnowledgeBeast
from shared.errors import KnowledgeBeastError

_TOLERANCE = 1.25  # two processes that do the same differ by up to a tenth
_PAIRS = 300  # searches of each kind in each half, about two seconds
_WARM = 30  # of them that are not counted


async def keyword_while_open(trial: Trial) -> None:
    """Row 1b: two query services side by side, one with ChromaDB, one whose breaker is open; keyword searches go to them in turns.

    After half of the searches they change places, so that what else is different about the two processes cancels out.
    """
    rig = trial.rig
    async with second_query(rig) as second, KnowledgeBeast(rig.stack.indexer_address, second.address) as other:
        services = ((rig.kb, rig.chroma, rig.stack.ports.query_http), (other, second.chroma, second.http_port))
        healthy: list[float] = []
        broken: list[float] = []
        for (kb, proxy, port), (well, _, _) in (services, services[::-1]):
            await proxy.set(Refuse())
            await _until_open(trial, kb, port)
            # The breaker closes again after its recovery time only if ChromaDB answers, so it stays as it is for the whole half.
            await _in_turns(trial, (well, healthy), (kb, broken))
            await proxy.set(Pass())
            await _until_closed(trial, kb)
    usual, without = percentile(healthy, 0.5), percentile(broken, 0.5)
    ratio = without / usual if usual else 0.0
    seen = f"{without * 1e3:.2f} ms against {usual * 1e3:.2f} ms: {ratio:.2f} times; {len(broken)} searches each"
    trial.promise(f"breaker open: p50 of keyword searches at most {_TOLERANCE} times that with ChromaDB", kept=0 < ratio <= _TOLERANCE, seen=seen)
    trial.none_failed()


async def _in_turns(trial: Trial, *services: tuple[KnowledgeBeast, list[float]]) -> None:
    """Keyword searches, one at a time, now to the one and now to the other; the first of each are not counted."""
    clock = asyncio.get_running_loop().time
    for turn in range(_PAIRS):
        for kb, seconds in services:
            began = clock()
            try:
                # Several words, so that no answer is in the cache: each number is asked for once a service and half.
                await kb.search(trial.project, notes.by_words(turn, trial.next_number()), timeout=trial.plan.deadline)
            except KnowledgeBeastError as error:
                trial.tally.asked.append(Asked(began, clock() - began, error=error.reason))
                continue
            took = clock() - began
            trial.tally.asked.append(Asked(began, took))
            if turn >= _WARM:
                seconds.append(took)


async def _until_open(trial: Trial, kb: KnowledgeBeast, port: int) -> None:
    """Searches until the breaker is open. Raises TimeoutError."""
    async with asyncio.timeout(trial.plan.patience):
        while not await breaker_is_open(port):
            await trial.load(kb).ask()


async def _until_closed(trial: Trial, kb: KnowledgeBeast) -> None:
    """Searches until an answer is whole. Raises TimeoutError."""

    async def whole() -> bool:
        return not (await kb.search(trial.project, notes.question(trial.next_number()), timeout=trial.plan.deadline)).degraded

    await until(whole, trial.plan.patience)

"""Clocks that jump, services that are asked to stop, a model that is damaged, a replica that is lost."""

from __future__ import annotations

import asyncio
import shutil
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from services.cli.chaos.machine_needs import compiled
from services.cli.chaos.plan import Plan
from services.cli.chaos.rig import Rig, running
from services.cli.chaos.second import second_query
from services.cli.chaos.serving import Serving, watching
from services.cli.chaos.trial import Trial
from services.cli.stack.process import ManagedProcess
from shared.client import DegradationReason, KnowledgeBeast

_CLOCK = "clock"
_OFFSET = struct.Struct("=q")  # what wall_clock.c reads
_HOUR = 3600  # seconds
_GRACE = 25.0
_START = 60.0
_NO_MODEL = DegradationReason.EMBEDDING_UNAVAILABLE.value
_STALE = DegradationReason.REPLICA_STALE.value


@asynccontextmanager
async def rig_with_a_clock(folder: Path, models: Path, plan: Plan) -> AsyncIterator[Rig]:
    """A rig whose services have a wall clock that can be set while they run; the monotonic clock stays as it is."""
    library = await asyncio.to_thread(compiled, "wall_clock.c", folder)
    clock = folder / _CLOCK
    await asyncio.to_thread(clock.write_bytes, bytes(_OFFSET.size))
    variables = {"LD_PRELOAD": str(library), "KB_CHAOS_CLOCK": str(clock)}
    async with running(folder, models, plan, indexer=variables, query=variables) as rig:
        yield rig


@asynccontextmanager
async def rig_with_models(folder: Path, models: Path, plan: Plan) -> AsyncIterator[Rig]:
    """A rig with copies of the exported models, which may be damaged."""
    await asyncio.to_thread(shutil.copytree, models, folder / "models", ignore=shutil.ignore_patterns(".*"))
    async with running(folder, folder / "models", plan) as rig:
        yield rig


async def clock_jumps(trial: Trial) -> None:
    """Row 21: the wall clock jumps an hour ahead, then two hours back."""
    clock = trial.rig.stack.data_dir / _CLOCK

    @asynccontextmanager
    async def fault() -> AsyncIterator[None]:
        jumps = asyncio.create_task(jump())
        try:
            yield
        finally:
            jumps.cancel()
            await asyncio.gather(jumps, return_exceptions=True)
            _set(clock, 0)

    async def jump() -> None:
        for offset in (_HOUR, -_HOUR):
            _set(clock, offset)
            await asyncio.sleep(trial.plan.seconds / 2)

    await trial.during(fault())
    trial.none_failed()
    trial.none_late()
    trial.promise("no answer is degraded", kept=not trial.tally.degraded, seen=", ".join(trial.tally.reasons) or "none")
    trial.all_acknowledged()
    trial.stays_ready("query", "indexer")
    await trial.recover()
    await trial.account()


async def replica_lost(trial: Trial) -> None:
    """Row 19: the query service comes back without its files, then with every file cut in half. It is ready when it has everything again."""
    stack = trial.rig.stack
    files = stack.data_dir / "query"
    for how, damage in (("removed", shutil.rmtree), ("cut in half", _cut)):
        await stack.query.stop(_GRACE)
        await asyncio.to_thread(damage, files)
        # What is written meanwhile is in the copy, too.
        async with asyncio.TaskGroup() as group:
            group.create_task(trial.load().run(1.0, searches=False))
            group.create_task(stack.start_query())
        trial.notes.append(f"files {how}")
        whole, seen = await trial.whole()
        trial.promise(f"files {how}: ready means that everything is there", kept=whole, seen=seen)
        await trial.account()
    trial.all_acknowledged()
    await trial.load().run(trial.plan.seconds, writes=False)
    trial.none_failed()
    trial.none_late()
    await trial.recover()


async def stopped(trial: Trial) -> None:
    """Row 27: each query service and then the indexer is asked to stop (SIGTERM) and started again, under load.

    The client knows of both query services, as it would of a headless Kubernetes service, and retries as our service config tells it to.
    """
    stack = trial.rig.stack
    async with second_query(trial.rig) as second:
        both = f"ipv4:{stack.query_address},{second.address}"
        ended: dict[str, int | None] = {}

        async def roll(process: ManagedProcess, address: str) -> None:
            async with watching(address) as seen:
                await process.stop(_GRACE)
                ended[process.name] = process.returncode
                first[process.name] = seen
            await process.start(_START)

        first: dict[str, list[Serving]] = {}

        @asynccontextmanager
        async def fault() -> AsyncIterator[None]:
            rolling = asyncio.create_task(one_after_another())
            try:
                yield
            finally:
                await rolling

        async def one_after_another() -> None:
            await roll(second.process, second.address)
            await roll(stack.query, stack.query_address)
            await roll(stack.indexer, stack.indexer_address)

        async with KnowledgeBeast(stack.indexer_address, both) as kb, fault():
            await trial.load(kb).run(trial.plan.seconds)
    trial.none_failed()
    trial.none_late()
    trial.promise("each ends with status 0", kept=set(ended.values()) == {0}, seen=", ".join(f"{name} {code}" for name, code in ended.items()))
    early = {name: Serving.NOT_SERVING in seen for name, seen in first.items()}
    trial.promise("each says NOT_SERVING before it is gone", kept=all(early.values()), seen=", ".join(name for name, said in early.items() if said))
    refusals = set(trial.tally.refusals)
    trial.promise(
        "writes are acknowledged or end with UNAVAILABLE", kept=refusals <= {"UNAVAILABLE", "SHUTTING_DOWN"}, seen=f"{refusals or 'acknowledged'}"
    )
    await trial.recover()
    await trial.account()


async def model_damaged(trial: Trial) -> None:
    """Row 28: the model's file is not what it should be when the services start. Put back, it is taken up without another start."""
    stack = trial.rig.stack
    model = next((stack.data_dir / "models").glob("*/model.onnx"))
    kept = model.with_suffix(".kept")

    @asynccontextmanager
    async def fault() -> AsyncIterator[None]:
        await asyncio.to_thread(shutil.copyfile, model, kept)
        await asyncio.to_thread(_cut, model.parent, "*.onnx")
        await stack.restart_indexer()
        await stack.restart_query()
        try:
            yield
            await trial.noticed("embedding_model")
        finally:
            # In one step, as an export is put in place: a half-copied file would be another damaged one.
            kept.replace(model)

    await trial.during(fault())
    trial.none_failed()
    trial.none_late()
    trial.some_degraded(_NO_MODEL)
    trial.promise("every answer is by keyword alone", kept=trial.tally.degraded == trial.tally.requests, seen=f"{trial.tally.degraded} degraded")
    trial.all_acknowledged()
    trial.stays_ready("query", "indexer")
    await trial.recover()
    await trial.account()


def _set(clock: Path, offset: int) -> None:
    """Sets the services' wall clock to so many seconds from the real one. In place, because they have the file mapped."""
    with clock.open("r+b") as file:
        file.write(_OFFSET.pack(offset))


def _cut(folder: Path, pattern: str = "*") -> None:
    """Cuts every file below a folder in half."""
    for path in folder.rglob(pattern):
        if path.is_file():
            with path.open("r+b") as file:
                file.truncate(path.stat().st_size // 2)

"""The catalog's disk full, failing, damaged, or put back as it was."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path

from services.cli.chaos.load import Load
from services.cli.chaos.machine_needs import compiled, small_disk
from services.cli.chaos.plan import Plan
from services.cli.chaos.rig import Rig, running
from services.cli.chaos.tally import Tally
from services.cli.chaos.trial import Trial
from services.cli.stack.stack import Stack
from shared.client import SearchMode, SearchQuery
from shared.errors import UnavailableError

_DISK = 96 * 1024 * 1024  # bytes
_RESERVE = 32 * 1024 * 1024  # bytes that the indexer wants free on it, in the row that looks at that
_HEADROOM = 8 * 1024 * 1024  # bytes that are left of the reserve
_CHUNK = 1024 * 1024
_BALLOON = "balloon"
_FLAG = "fsync-fails"
_END = 20.0  # seconds that a process gets to end by itself
_SQLITE_PAGE_SIZE = slice(16, 18)  # of the file's head
_RESTORED_MARKER = "catalog.restored"


@asynccontextmanager
async def rig_on_small_disk(folder: Path, models: Path, plan: Plan, *, reserve: int) -> AsyncIterator[Rig]:
    """A rig whose indexer writes to a disk of its own of 96 MB, and refuses documents below `reserve` bytes."""
    disk = folder / "disk"
    with small_disk(disk, _DISK):
        async with running(folder, models, plan, indexer={"KB_DATA_DIR": str(disk), "KB_DISK_RESERVE_BYTES": str(reserve)}) as rig:
            yield rig


rig_with_reserve = partial(rig_on_small_disk, reserve=_RESERVE)
rig_without_reserve = partial(rig_on_small_disk, reserve=0)


@asynccontextmanager
async def rig_with_failing_fsync(folder: Path, models: Path, plan: Plan) -> AsyncIterator[Rig]:
    """A rig whose indexer's fsync fails while a file is there."""
    library = await asyncio.to_thread(compiled, "failing_fsync.c", folder)
    variables = {"LD_PRELOAD": str(library), "KB_CHAOS_FAIL_FSYNC": str(folder / _FLAG)}
    async with running(folder, models, plan, indexer=variables) as rig:
        yield rig


async def low(trial: Trial) -> None:
    """Row 12: less is free than the reserve. Documents are refused before SQLite has to."""
    await _full(trial, _HEADROOM, "DISK_LOW")


async def full(trial: Trial) -> None:
    """Row 12b: there is no reserve, and the last byte is taken: SQLite cannot write. Nothing of a write may stay."""
    await _full(trial, 0, "DISK_FULL")


async def fsync_fails(trial: Trial) -> None:
    """Row 13: after an fsync that failed nobody knows what is on the disk, so the indexer ends rather than acknowledge anything more."""
    stack = trial.rig.stack
    flag = stack.data_dir / _FLAG

    @asynccontextmanager
    async def fault() -> AsyncIterator[None]:
        flag.touch()
        try:
            yield
        finally:
            with suppress(TimeoutError):
                await asyncio.wait_for(stack.indexer.wait(), _END)
            ended.append(stack.indexer.returncode)
            stack.kill_indexer()
            flag.unlink()
            await stack.start_indexer()

    ended: list[int | None] = []
    await trial.during(fault())
    refusals = set(trial.tally.refusals)
    trial.promise("no write is acknowledged", kept=not trial.tally.acknowledged, seen=f"{len(trial.tally.acknowledged)} acknowledged")
    trial.promise("writes end with UNAVAILABLE", kept=refusals <= {"UNAVAILABLE", "DISK_FAILED"}, seen=", ".join(sorted(refusals)) or "none ended so")
    trial.promise("the indexer ends with status 1", kept=ended == [1], seen=f"status {ended[0]}")
    trial.none_failed()
    trial.none_late()
    trial.stays_ready("query")
    await trial.recover()
    await trial.account()


async def damaged(trial: Trial) -> None:
    """Row 14: one bit of the catalog is another. The indexer does not start, and says how to restore; with the file put back it does."""
    stack = trial.rig.stack
    catalog, copy = _catalog(stack), stack.data_dir / "catalog.copy"

    @asynccontextmanager
    async def fault() -> AsyncIterator[None]:
        await stack.indexer.stop(_END)
        await asyncio.to_thread(shutil.copyfile, catalog, copy)
        await asyncio.to_thread(_flip, catalog)
        try:
            await stack.start_indexer()
        except UnavailableError:
            said.append(stack.indexer.log_tail())
        try:
            yield
        finally:
            stack.kill_indexer()
            await asyncio.to_thread(shutil.copyfile, copy, catalog)
            await stack.start_indexer()

    said: list[str] = []
    await trial.during(fault(), writes=False)
    told = bool(said) and "is damaged" in said[0] and _RESTORED_MARKER in said[0]
    trial.promise(
        "the indexer does not start and says how to restore",
        kept=told,
        seen="it says so" if told else "it started" if not said else said[0][-200:],
    )
    trial.none_failed()
    trial.none_late()
    trial.stays_ready("query")
    await trial.recover()
    await trial.account()


async def restored(trial: Trial) -> None:
    """Row 15: an older copy of the catalog is put in its place. What was written after it is gone everywhere, and nothing before it is."""
    stack = trial.rig.stack
    catalog, copy = _catalog(stack), stack.data_dir / "catalog.backup"
    await stack.indexer.stop(_END)
    await asyncio.to_thread(shutil.copyfile, catalog, copy)
    await stack.start_indexer()
    later = Tally()
    await Load(trial.rig.kb, trial.project, trial.plan, trial.numbers, later).run(2.0, searches=False)
    await trial.recover()

    @asynccontextmanager
    async def fault() -> AsyncIterator[None]:
        await stack.indexer.stop(_END)
        await asyncio.to_thread(shutil.copyfile, copy, catalog)
        catalog.with_name(_RESTORED_MARKER).touch()
        await stack.start_indexer()
        yield

    await trial.during(fault())
    failed = [one for one in trial.tally.asked if one.error is not None]
    seen = ", ".join(f"{count} {reason}" for reason, count in trial.tally.errors.items()) or "all are answered"
    honest = all(one.error == "EMPTY" and one.reasons for one in failed)
    trial.promise("a search finds nothing only while the project is copied anew, and says so", kept=honest, seen=seen)
    trial.none_late()
    trial.all_acknowledged()
    trial.stays_ready("query", "indexer")
    await trial.recover()
    await trial.account()
    query = SearchQuery("everything about rivers", SearchMode.HYBRID, top_k=1000)
    shown = {hit.document_id for hit in (await trial.rig.kb.search(trial.project, query, timeout=trial.plan.deadline)).hits}
    left = shown.intersection(f"note-{number}" for number in later.acknowledged)
    trial.promise(
        "what was written after the copy is shown by no search",
        kept=bool(later.acknowledged) and not left,
        seen=f"{len(left)} of {len(later.acknowledged)} are shown, of {len(shown)} hits",
    )


async def _full(trial: Trial, left: int, reason: str) -> None:
    """Fills the disk up to `left` free bytes; writes are refused for `reason`."""
    disk = trial.rig.stack.data_dir / "disk"

    @asynccontextmanager
    async def fault() -> AsyncIterator[None]:
        await asyncio.to_thread(_fill, disk, left)
        try:
            yield
        finally:
            (disk / _BALLOON).unlink()

    await trial.during(fault())
    refusals = set(trial.tally.refusals)
    trial.promise(f"writes are refused with RESOURCE_EXHAUSTED ({reason})", kept=refusals == {reason}, seen=", ".join(refusals) or "none was refused")
    trial.none_failed()
    trial.none_late()
    trial.promise("no answer is degraded", kept=not trial.tally.degraded, seen=f"{trial.tally.degraded} degraded")
    trial.stays_ready("query")
    await trial.recover()
    await trial.load().run(1.0, searches=False)
    await trial.recover()
    trial.promise("with space again writes are acknowledged", kept=bool(trial.tally.acknowledged), seen=f"{len(trial.tally.acknowledged)}")
    await trial.account()


def _catalog(stack: Stack) -> Path:
    return stack.data_dir / "indexer" / "catalog.db"


def _fill(disk: Path, left: int) -> None:
    """Writes a file until so many bytes are free."""
    with (disk / _BALLOON).open("wb", buffering=0) as balloon, suppress(OSError):
        while (free := _free(disk)) > left:
            balloon.write(bytes(min(_CHUNK, free - left)))


def _free(disk: Path) -> int:
    counted = os.statvfs(disk)
    return counted.f_bavail * counted.f_frsize


def _flip(catalog: Path) -> None:
    """Flips a bit of the byte that says what kind of page the second one is: SQLite's own check finds that, and not what is wrong with a text."""
    with catalog.open("r+b") as file:
        head = file.read(100)
        size = int.from_bytes(head[_SQLITE_PAGE_SIZE], "big")
        page = 65536 if size == 1 else size
        file.seek(page)
        kind = file.read(1)[0]
        file.seek(page)
        file.write(bytes([kind ^ 0x20]))
        file.flush()
        os.fsync(file.fileno())

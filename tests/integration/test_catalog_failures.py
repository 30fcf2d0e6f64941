"""What the catalog does when its process or its disk fails: nothing that was acknowledged is lost, and nothing that is not sure is acknowledged."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest

from services.cli.stack.process import free_port
from services.indexer.catalog.sqlite import SqliteCatalog
from services.indexer.disk import DiskSpace
from services.indexer.records import ProjectKey
from shared.client import KnowledgeBeast
from shared.domain import DocumentId, DocumentInput, TraceContext
from shared.errors import ConfigurationError, CorruptionError, KnowledgeBeastError, ResourceExhaustedError, UnavailableError
from tests.fakes.failing_disk import FailingDisk
from tests.integration.test_catalog import PROJECT, create, prepared, write
from tests.waiting import eventually

ROOT = Path(__file__).resolve().parents[2]

# Writes documents until it kills itself at a step of a commit.
_VICTIM = """
import asyncio, os, signal, sys
from pathlib import Path
from services.indexer.catalog import writer
from services.indexer.catalog.sqlite import SqliteCatalog
from tests.integration.test_catalog import create, prepared, write

folder, wanted = Path(sys.argv[1]), sys.argv[2]
writer._CHECKPOINT_PAGES = 20
seen = 0

def step(name):
    global seen
    if name == wanted:
        seen += 1
        if seen > (2 if name == "checkpointed" else 8):
            os.kill(os.getpid(), signal.SIGKILL)

async def main():
    catalog = SqliteCatalog.open(folder, step=step)
    key = await create(catalog)
    for number in range(1000):
        print("sent", number, flush=True)
        await write(catalog, key, prepared(f"d{number}", f"text {number} " * 50), prepared(f"e{number}", "other"))
        print("acknowledged", number, flush=True)

asyncio.run(main())
"""

# An indexer whose disk fails when the file says so.
_INDEXER = """
import sys
from pathlib import Path
from services.indexer.__main__ import main
from tests.fakes.failing_disk import FailingDisk

with FailingDisk(Path(sys.argv[1])):
    sys.exit(main())
"""


def _command(script: str, *arguments: object) -> list[str]:
    return [sys.executable, "-c", script, *map(str, arguments)]


@pytest.mark.parametrize("step", ["written", "committed", "acknowledged", "checkpointed"])
async def test_a_kill_at_any_step_of_a_commit_loses_nothing_that_was_acknowledged(tmp_path: Path, step: str) -> None:
    """What was acknowledged is there; what was not is there as a whole or not at all; sequences have no gaps; the catalog takes writes again."""
    done = await asyncio.to_thread(
        subprocess.run, _command(_VICTIM, tmp_path, step), cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    lines = [line.split() for line in done.stdout.splitlines()]
    sent = {int(number) for what, number in lines if what == "sent"}
    acknowledged = {int(number) for what, number in lines if what == "acknowledged"}
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert acknowledged

    catalog = SqliteCatalog.open(tmp_path)
    key, project = await catalog.find_project(PROJECT)
    found = await catalog.list_documents(key, "", 10_000)
    names = {document.id for document in found}
    assert {f"{kind}{number}" for number in acknowledged for kind in "de"} <= names <= {f"{kind}{number}" for number in sent for kind in "de"}
    assert len(names) % 2 == 0, "half a batch"
    assert sorted(document.sequence for document in found) == list(range(1, len(found) + 1))
    assert project.head == len(found)
    (written,) = await write(catalog, key, prepared("after", "the crash"))
    assert written.sequence == project.head + 1
    await catalog.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 6 MB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", folder], capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


async def fill(catalog: SqliteCatalog, key: ProjectKey) -> tuple[int, ResourceExhaustedError]:
    """Writes until the disk is full; how many documents were acknowledged, and what the next one was told."""
    for number in range(1_000):
        try:
            await write(catalog, key, prepared(f"d{number}", f"{number} " + "x" * 50_000))
        except ResourceExhaustedError as error:
            return number, error
    raise AssertionError("the disk did not fill")


async def test_a_full_disk_refuses_writes_and_loses_none(small_disk: Path) -> None:
    """The write that did not fit leaves nothing; reading goes on; with room again, writing does; after a restart all is there."""
    catalog = SqliteCatalog.open(small_disk)
    key = await create(catalog)
    acknowledged, error = await fill(catalog, key)
    assert (error.reason, error.retry_after > 0) == ("DISK_FULL", True)
    assert len(await catalog.list_documents(key, "", 1_000)) == acknowledged > 10
    assert (await catalog.get_project(PROJECT)).head == acknowledged
    assert (await catalog.get_document(key, DocumentId("d3"))).text.startswith("3 x")

    remount = await asyncio.create_subprocess_exec("mount", "-o", "remount,size=12m", str(small_disk))
    assert await remount.wait() == 0
    (written,) = await write(catalog, key, prepared("after", "there is room"))
    assert written.sequence == acknowledged + 1
    await catalog.close()
    catalog = SqliteCatalog.open(small_disk)
    assert len(await catalog.list_documents(key, "", 1_000)) == acknowledged + 1
    await catalog.close()


async def test_a_low_disk_is_noticed_before_it_is_full_and_when_it_is_not_any_more(small_disk: Path) -> None:
    """The refusal says what is free and what must be; deletes need no room that is reserved."""
    now = 100.0
    disk = DiskSpace(small_disk, 3_000_000, clock=lambda: now)
    await disk.require_room()
    (small_disk / "filler").write_bytes(bytes(4_000_000))
    await disk.require_room()  # what was true a moment ago is good enough
    now += 1.0
    with pytest.raises(ResourceExhaustedError, match="2 MB free, and must have 3 MB") as raised:
        await disk.require_room()
    assert raised.value.reason == "DISK_LOW"
    assert raised.value.retry_after > 0
    (small_disk / "filler").unlink()
    now += 1.0
    await disk.require_room()


@pytest.fixture
def failing_disk(tmp_path: Path) -> Iterator[FailingDisk]:
    """The disk of every catalog that the test opens."""
    with FailingDisk(tmp_path / "fail") as disk:
        yield disk


async def test_after_an_fsync_that_failed_nothing_is_acknowledged_any_more(failing_disk: FailingDisk, tmp_path: Path) -> None:
    """Neither the write that met it, nor those that waited, nor a later one, also if the disk says it is well again; what was acknowledged stays."""
    catalog = SqliteCatalog.open(tmp_path)
    key = await create(catalog)
    await write(catalog, key, prepared("a", "one"))
    watching = asyncio.create_task(catalog.watch())
    failing_disk.fail("-wal")
    together = await asyncio.gather(
        *(catalog.upsert_documents(PROJECT, key, [prepared(name, "lost")], TraceContext(), None) for name in "bcd"), return_exceptions=True
    )
    with pytest.raises(UnavailableError, match="disk failed") as raised:
        await watching
    assert raised.value.reason == "DISK_FAILED"
    assert all(isinstance(outcome, UnavailableError) for outcome in together)

    failing_disk.trigger.unlink()
    syncs = failing_disk.syncs
    with pytest.raises(UnavailableError):
        await write(catalog, key, prepared("e", "too late"))
    assert [document.id for document in await catalog.list_documents(key, "", 10)] == ["a"]
    await catalog.close()
    assert failing_disk.syncs == syncs, "nothing is written behind a failure, not even at the end"
    again = SqliteCatalog.open(tmp_path)
    assert "a" in {document.id for document in await again.list_documents(key, "", 10)}
    await again.close()


async def test_an_fsync_of_the_database_that_failed_is_not_kept_secret(
    failing_disk: FailingDisk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The write whose checkpoint it was is acknowledged, since the log has it; behind it nothing is, and the log is not begun anew."""
    catalog = SqliteCatalog.open(tmp_path)
    key = await create(catalog)
    watching = asyncio.create_task(catalog.watch())
    failing_disk.fail("catalog.db")
    monkeypatch.setattr("services.indexer.catalog.writer._CHECKPOINT_PAGES", 1)
    await write(catalog, key, prepared("a", "one"))
    with pytest.raises(UnavailableError, match="disk failed"):
        await watching
    with pytest.raises(UnavailableError):
        await write(catalog, key, prepared("b", "two"))
    failing_disk.trigger.unlink()
    assert (await catalog.get_document(key, DocumentId("a"))).text == "one"
    await catalog.close()


@pytest.mark.timeout(120)
async def test_an_indexer_whose_disk_fails_stops_and_says_why(tmp_path: Path) -> None:
    """Exit status 1; the write that met the failure was not acknowledged, those before it are there when the disk is."""
    ports = {name: free_port() for name in ("INDEXER_PORT", "INDEXER_HTTP_PORT", "INDEXER_HEALTH_PORT", "CHROMA")}
    environment = {
        **os.environ,
        **{f"KB_{name}": str(port) for name, port in ports.items() if name != "CHROMA"},
        "KB_CHROMA_URL": f"http://127.0.0.1:{ports['CHROMA']}",  # nobody is there
        "KB_WARM_UP_TIMEOUT": "0.1",
        "KB_DATA_DIR": str(tmp_path / "data"),
        "KB_LOG_FORMAT": "json",
    }
    trigger, address = tmp_path / "fail", f"127.0.0.1:{ports['INDEXER_PORT']}"
    process = await asyncio.create_subprocess_exec(
        *_command(_INDEXER, trigger),
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        async with KnowledgeBeast(address, timeout=10) as client:
            await eventually(lambda: _created(client), bool)
            await client.upsert("docs", [DocumentInput(DocumentId("kept"), "", "text", {})])
            trigger.write_text("-wal")
            with pytest.raises(UnavailableError):
                await client.upsert("docs", [DocumentInput(DocumentId("unsure"), "", "text", {})])
        output, _ = await asyncio.wait_for(process.communicate(), 60)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 1
    assert b"the catalog's disk failed" in output
    assert b"fsync failed" in output

    catalog = SqliteCatalog.open(tmp_path / "data" / "indexer")
    key, _ = await catalog.find_project(PROJECT)
    assert (await catalog.get_document(key, DocumentId("kept"))).text == "text"
    await catalog.close()


async def _created(client: KnowledgeBeast) -> bool:
    """Whether there is an indexer, and with it the project."""
    try:
        await client.create_project("docs")
    except KnowledgeBeastError:
        return False
    return True


@pytest.mark.parametrize("page", range(2, 40, 6))
async def test_one_wrong_byte_in_the_structure_of_the_file_is_found_at_start(tmp_path: Path, page: int) -> None:
    """The catalog does not open, whichever page it is in, and says how to restore it."""
    catalog = SqliteCatalog.open(tmp_path)
    key = await create(catalog)
    await write(catalog, key, *[prepared(f"d{number}", f"text {number} " * 50) for number in range(300)])
    await catalog.close()
    file = tmp_path / "catalog.db"
    content = bytearray(file.read_bytes())
    content[(page - 1) * 4096] ^= 0x55
    file.write_bytes(content)

    with pytest.raises(CorruptionError, match=r"catalog\.restored"):
        SqliteCatalog.open(tmp_path)


async def test_a_second_indexer_is_fenced_off_until_the_first_is_dead(tmp_path: Path) -> None:
    """It is told whom to stop, and harms nothing; when the first is killed, it gets in at once."""
    script = (
        "import sys, time\nfrom pathlib import Path\nfrom services.indexer.catalog.sqlite import SqliteCatalog\n"
        "SqliteCatalog.open(Path(sys.argv[1]))\nprint('open', flush=True)\ntime.sleep(600)"
    )
    first = await asyncio.create_subprocess_exec(*_command(script, tmp_path), cwd=ROOT, stdout=subprocess.PIPE)
    try:
        assert first.stdout is not None
        assert await asyncio.wait_for(first.stdout.readline(), 60) == b"open\n"
        with pytest.raises(ConfigurationError, match="another indexer"):
            SqliteCatalog.open(tmp_path)
    finally:
        first.kill()
        await first.wait()
    catalog = SqliteCatalog.open(tmp_path)
    await create(catalog)
    await catalog.close()


async def test_too_many_bytes_that_wait_are_refused_and_what_was_taken_is_written(tmp_path: Path) -> None:
    """The refusal says to retry; small writes have room beside large ones; alone a write of any size is taken, and what holds nothing always is."""
    held, free = threading.Event(), threading.Event()

    def step(name: str) -> None:
        if name == "written" and held.is_set():
            free.wait(30)

    catalog = SqliteCatalog.open(tmp_path, queue_bytes=1_000_000, step=step)
    key = await create(catalog)

    def large(name: str) -> asyncio.Future[object]:
        return asyncio.ensure_future(catalog.upsert_documents(PROJECT, key, [prepared(name, "x" * 300_000)], TraceContext(), None))

    held.set()
    taken = [large("a")]
    with pytest.raises(ResourceExhaustedError) as raised:
        taken += [large(name) for name in "bcd"]
    taken.append(asyncio.ensure_future(catalog.upsert_documents(PROJECT, key, [prepared("small", "x")], TraceContext(), None)))
    assert (raised.value.reason, raised.value.retry_after > 0) == ("OVERLOADED", True)
    free.set()
    await asyncio.gather(*taken)
    free.clear()
    huge = asyncio.ensure_future(catalog.upsert_documents(PROJECT, key, [prepared("huge", "x" * 3_000_000)], TraceContext(), None))
    probe = asyncio.ensure_future(catalog.probe())
    free.set()
    await asyncio.gather(huge, probe)
    assert [document.id for document in await catalog.list_documents(key, "", 10)] == ["a", "huge", "small"]
    await catalog.close()


async def test_the_log_does_not_grow_without_a_bound(tmp_path: Path) -> None:
    """It is copied into the database every 16 MB, so that opening the catalog and the disk it takes stay small."""
    catalog = SqliteCatalog.open(tmp_path)
    key = await create(catalog)
    for number in range(60):
        await write(catalog, key, prepared(f"d{number}", f"{number} " + "x" * 1_000_000))
    assert (tmp_path / "catalog.db-wal").stat().st_size < 24_000_000
    connection = apsw.Connection(str(tmp_path / "catalog.db"), flags=apsw.SQLITE_OPEN_READONLY)
    assert connection.execute("SELECT count(*) FROM document").fetchone() == (60,)
    connection.close()
    await catalog.close()

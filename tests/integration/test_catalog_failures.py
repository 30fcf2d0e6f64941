"""What the catalog does when its process or its disk fails: nothing that was acknowledged is lost, and nothing that is not sure is acknowledged."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import apsw
import pytest
from opentelemetry import context, trace
from opentelemetry.trace import INVALID_SPAN_CONTEXT, NonRecordingSpan, Span, SpanContext

from services.cli.stack.process import free_port
from services.indexer.application.followers import Followers
from services.indexer.application.ingest import Ingest
from services.indexer.application.scrubber import Damage
from services.indexer.application.signals import Signals
from services.indexer.catalog.sqlite import SqliteCatalog
from services.indexer.checks import check_database
from services.indexer.disk import DiskSpace
from services.indexer.records import ProjectKey
from shared.client import KnowledgeBeast
from shared.domain import DocumentId, DocumentInput, TraceContext
from shared.errors import ConfigurationError, CorruptionError, KnowledgeBeastError, ResourceExhaustedError, UnavailableError
from shared.health import HealthMonitor
from shared.observability import tracing
from shared.serving import ServingStates
from tests.fakes.embedder import FakeTokenizer
from tests.fakes.failing_disk import FailingDisk
from tests.fixtures.spans import Recorder
from tests.integration.test_catalog import PROJECT, create, prepared, write
from tests.integration.test_projection import RoomyDisk
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


async def test_a_restart_behind_a_failed_fsync_does_not_build_upon_what_only_the_cache_has(failing_disk: FailingDisk, tmp_path: Path) -> None:
    """What the failed fsync did not write is lost with the power, and nothing that was acknowledged after the restart is lost with it."""
    catalog = SqliteCatalog.open(tmp_path / "data")
    log = tmp_path / "data" / "catalog.db-wal"
    key = await create(catalog)
    await write(catalog, key, prepared("before", "one"))
    safe = log.stat().st_size
    failing_disk.fail("-wal")
    with pytest.raises(UnavailableError):
        await write(catalog, key, prepared("unsure", "two"))
    await catalog.close()
    unsure = log.read_bytes()[safe:]
    assert unsure

    failing_disk.trigger.unlink()
    catalog = SqliteCatalog.open(tmp_path / "data")
    names = [f"after{number}" for number in range(20)]
    for name in names:
        await write(catalog, key, prepared(name, "three"))
    crashed = tmp_path / "crashed"
    crashed.mkdir()
    (crashed / "catalog.db").write_bytes((tmp_path / "data" / "catalog.db").read_bytes())
    content = log.read_bytes()
    # The disk never got what nobody has written once more.
    (crashed / "catalog.db-wal").write_bytes(content[:safe] + content[safe:].replace(unsure, bytes(len(unsure))))
    await catalog.close()

    again = SqliteCatalog.open(crashed)
    assert {"before", *names} <= {document.id for document in await again.list_documents(key, "", 100)}
    await again.close()


async def test_a_start_that_cannot_make_sure_of_the_log_is_refused(failing_disk: FailingDisk, tmp_path: Path) -> None:
    """The fsync of the database fails at the start, too: nothing is taken, it says what to do, and what was in the log is there when the disk is."""
    catalog = SqliteCatalog.open(tmp_path)
    key = await create(catalog)
    await write(catalog, key, prepared("a", "one"))
    failing_disk.fail("-wal")
    with pytest.raises(UnavailableError):
        await write(catalog, key, prepared("unsure", "two"))
    await catalog.close()

    failing_disk.fail("catalog.db")
    for _ in range(2):  # a supervisor tries more than once
        with pytest.raises(ConfigurationError, match=r"fsync failed.*see to the disk"):
            SqliteCatalog.open(tmp_path)
    failing_disk.trigger.unlink()
    again = SqliteCatalog.open(tmp_path)
    assert "a" in {document.id for document in await again.list_documents(key, "", 10)}
    await again.close()


async def test_a_start_while_somebody_reads_the_log_is_refused(failing_disk: FailingDisk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It cannot begin a new log then; it says whom to end."""
    monkeypatch.setattr("services.indexer.catalog.connection._BUSY_TIMEOUT_MS", 50)
    catalog = SqliteCatalog.open(tmp_path)
    await create(catalog)
    failing_disk.fail("-wal")  # so that closing does not copy the log
    with pytest.raises(UnavailableError):
        await catalog.probe()
    failing_disk.trigger.unlink()
    reader = apsw.Connection(str(tmp_path / "catalog.db"), flags=apsw.SQLITE_OPEN_READONLY, vfs=failing_disk.base)
    await catalog.close()
    reader.execute("BEGIN; SELECT * FROM project")
    with pytest.raises(ConfigurationError, match="somebody else has it open"):
        SqliteCatalog.open(tmp_path)
    reader.close()
    await SqliteCatalog.open(tmp_path).close()


async def test_reads_go_on_when_the_disk_can_be_read_again(failing_disk: FailingDisk, tmp_path: Path) -> None:
    """Those that met the failure say so; it ends no reader for good, though it could not even open the file."""
    catalog = SqliteCatalog.open(tmp_path)
    await create(catalog)
    await catalog.close()
    catalog = SqliteCatalog.open(tmp_path)  # whose readers have nothing in their caches
    failing_disk.read_error = apsw.IOError("read failed")
    met = await asyncio.gather(*(catalog.get_project(PROJECT) for _ in range(8)), return_exceptions=True)
    assert {type(outcome) for outcome in met} == {UnavailableError}
    failing_disk.read_error = None
    assert {project.id for project in await asyncio.gather(*(catalog.get_project(PROJECT) for _ in range(8)))} == {PROJECT}
    await catalog.close()


async def commit_together(tmp_path: Path, disk: FailingDisk, error: Exception) -> tuple[SqliteCatalog, ProjectKey, list[object]]:
    """Three writes of one commit, of which the last is larger than the cache, so that SQLite meets the error in the middle of it."""
    held, free = threading.Event(), threading.Event()

    def step(name: str) -> None:
        if name == "acknowledged" and held.is_set():
            free.wait(30)

    catalog = SqliteCatalog.open(tmp_path, step=step)
    key = await create(catalog)
    held.set()
    await catalog.probe()  # whose commit is not left before the others wait
    together = [
        catalog.upsert_documents(PROJECT, key, [prepared(name, text)], TraceContext(), None)
        for name, text in (("small", "one"), ("other", "two"), ("large", "x" * 2_000_000))
    ]
    held.clear()
    disk.write_error = error
    free.set()
    outcomes = await asyncio.gather(*together, return_exceptions=True)
    disk.write_error = None
    return catalog, key, list(outcomes)


@pytest.fixture
def small_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a transaction of a megabyte is written to the log before it is committed."""
    monkeypatch.setattr("services.indexer.catalog.connection._CACHE_KIB", 200)


@pytest.mark.usefixtures("small_cache")
async def test_a_disk_that_is_full_in_the_middle_of_a_write_refuses_all_of_the_commit(failing_disk: FailingDisk, tmp_path: Path) -> None:
    """SQLite gives up the whole transaction: each of its writes is told why, none is there, and with room again the next one is taken."""
    catalog, key, outcomes = await commit_together(tmp_path, failing_disk, apsw.FullError("no space left"))
    assert [(type(outcome), getattr(outcome, "reason", "")) for outcome in outcomes] == [(ResourceExhaustedError, "DISK_FULL")] * 3
    assert await catalog.list_documents(key, "", 10) == []
    (written,) = await write(catalog, key, prepared("after", "there is room"))
    assert written.sequence == 1
    await catalog.close()


@pytest.mark.usefixtures("small_cache")
async def test_a_disk_that_fails_in_the_middle_of_a_write_ends_the_writer(failing_disk: FailingDisk, tmp_path: Path) -> None:
    """As one that fails at the fsync does: the write, those beside it, and every later one are refused."""
    catalog, key, outcomes = await commit_together(tmp_path, failing_disk, apsw.IOError("write failed"))
    assert [(type(outcome), getattr(outcome, "reason", "")) for outcome in outcomes] == [(UnavailableError, "DISK_FAILED")] * 3
    with pytest.raises(UnavailableError, match="disk failed"):
        await catalog.watch()
    with pytest.raises(UnavailableError):
        await write(catalog, key, prepared("later", "too late"))
    assert await catalog.list_documents(key, "", 10) == []
    await catalog.close()


@pytest.mark.parametrize(
    ("error", "status", "ready", "message"),
    [(None, "up", True, ""), (apsw.FullError("full"), "degraded", True, "free space"), (apsw.IOError("broken"), "down", False, "disk failed")],
    ids=["sound", "full", "broken"],
)
async def test_only_a_disk_that_fails_makes_the_indexer_unready(
    failing_disk: FailingDisk, tmp_path: Path, error: Exception | None, status: str, ready: bool, message: str
) -> None:
    """With a full one it is degraded: reads, the feed and deletes go on, so callers are still sent to it."""
    catalog = SqliteCatalog.open(tmp_path)
    await create(catalog)
    failing_disk.write_error = error
    states = ServingStates(("indexer",))
    monitor = HealthMonitor("indexer", states, required={"database"})
    monitor.add_check("database", lambda: check_database(catalog, Damage(), Followers()))
    await monitor.start()
    monitor.set_ready(True)
    report = monitor.reports()["database"]
    assert (report.status.value, monitor.ready) == (status, ready)
    assert message in report.message
    assert report.details.get("projects") == (1 if ready else None)
    await monitor.stop()
    failing_disk.write_error = None
    await catalog.close()


async def test_a_request_that_is_committed_gets_its_answer_also_when_the_disk_is_low(tmp_path: Path) -> None:
    """Nothing is written for it; a new request is refused."""
    catalog, disk = SqliteCatalog.open(tmp_path), RoomyDisk()
    await create(catalog)
    ingest = Ingest(catalog, FakeTokenizer(), disk, Signals())
    source = [DocumentInput(DocumentId("a"), "", "text", {})]
    first = await ingest.upsert(PROJECT, source, "request-1")
    disk.low = True
    assert await ingest.upsert(PROJECT, source, "request-1") == first
    for request_id in ("request-2", ""):
        with pytest.raises(ResourceExhaustedError, match="low"):
            await ingest.upsert(PROJECT, source, request_id)
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
    assert raised.value.reason == "OVERLOADED"
    assert 0.5 <= raised.value.retry_after <= 1.5
    with pytest.raises(ResourceExhaustedError) as other:
        large("e")
    assert other.value.retry_after != raised.value.retry_after, "those refused together would come back together"
    free.set()
    await asyncio.gather(*taken)
    free.clear()
    huge = asyncio.ensure_future(catalog.upsert_documents(PROJECT, key, [prepared("huge", "x" * 3_000_000)], TraceContext(), None))
    probe = asyncio.ensure_future(catalog.probe())
    free.set()
    await asyncio.gather(huge, probe)
    assert [document.id for document in await catalog.list_documents(key, "", 10)] == ["a", "huge", "small"]
    await catalog.close()


class Broken(NonRecordingSpan):
    """A span that whoever looks at it fails on, as a defect in the library for traces or in an exemplar would make it."""

    def __init__(self) -> None:
        super().__init__(INVALID_SPAN_CONTEXT)

    def is_recording(self) -> bool:
        """See Span."""
        return True

    def get_span_context(self) -> SpanContext:
        """See Span."""
        raise RuntimeError("instrumentation is broken")


@contextmanager
def within(span: Span) -> Iterator[None]:
    """Calls within are made in a span."""
    token = context.attach(trace.set_span_in_context(span))
    try:
        yield
    finally:
        context.detach(token)


async def test_a_commit_that_cannot_be_measured_or_traced_is_answered_all_the_same(tmp_path: Path) -> None:
    """Neither its caller hangs nor does the writer end, whether the commit succeeded or failed; the next one is taken."""
    refuse = threading.Event()

    def step(name: str) -> None:
        if name == "written" and refuse.is_set():
            raise KnowledgeBeastError("not now")

    catalog = SqliteCatalog.open(tmp_path, step=step)
    key = await create(catalog)
    async with asyncio.timeout(30):
        with within(Broken()):
            await write(catalog, key, prepared("a", "text"))
            refuse.set()
            with pytest.raises(KnowledgeBeastError, match="not now"):
                await write(catalog, key, prepared("b", "text"))
        refuse.clear()
        await write(catalog, key, prepared("c", "text"))
    assert [document.id for document in await catalog.list_documents(key, "", 10)] == ["a", "c"]
    await catalog.close()


async def test_a_span_processor_that_fails_costs_no_commit_its_answer(tmp_path: Path, everything_recorded: Recorder) -> None:
    """Nor does the writer end."""
    catalog = SqliteCatalog.open(tmp_path)
    key = await create(catalog)
    caller = tracing.get_tracer("tests").start_span("caller")
    everything_recorded.fails_for = "Catalog.commit"
    async with asyncio.timeout(30):
        with within(caller):
            await write(catalog, key, prepared("a", "text"))
            await write(catalog, key, prepared("b", "text"))
    assert [document.id for document in await catalog.list_documents(key, "", 10)] == ["a", "b"]
    await catalog.close()
    assert [span.name for span in everything_recorded.get_finished_spans()].count("Catalog.commit") == 2, "so there was something to fail for"


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


async def test_what_is_acknowledged_holds_no_room_any_more(tmp_path: Path) -> None:
    """A client that sends one large write after another is never refused for the one before, however long the log is being copied after it."""
    gone = threading.Event()

    def step(name: str) -> None:
        if name == "acknowledged":
            gone.wait(0.05)

    catalog = SqliteCatalog.open(tmp_path, queue_bytes=1_000_000, step=step)
    key = await create(catalog)
    for number in range(10):
        await catalog.upsert_documents(PROJECT, key, [prepared(f"d{number}", "x" * 600_000)], TraceContext(), None)
    await catalog.close()

"""The one writer of the catalog: a thread that commits many callers' changes with one fsync (group commit).

Jobs that arrive while a commit is under way wait and go into the next transaction together. Each runs in its own savepoint: a job that
fails is rolled back alone. A job's future is resolved after the commit that holds it, so a result is a promise that the change is on disk.
Cancelling the caller withdraws a job that has not begun; one that has goes on. Whether it was committed is then unknown to the caller, as
with any lost answer.

When the disk fails, the writer ends, and `failed` says so: see docs/adr/0015-quarantine-and-fail-stop.md. After an fsync that failed nobody knows
what is on disk, and asking again may be answered with success although it is not (the kernel forgets the pages it could not write). A full disk is
no such failure: SQLite undoes the transaction, and the next one is tried.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar

import apsw
from opentelemetry import trace
from opentelemetry.trace import Span

from services.indexer.catalog.connection import disk_failed, translated_errors
from shared.errors import KnowledgeBeastError, ResourceExhaustedError, UnavailableError
from shared.observability import exemplars, metrics, tracing
from shared.observability.guarded import guarded
from shared.observability.logging import get_logger
from shared.resilience.admission import OVERLOADED, retry_after

T = TypeVar("T")
Step = Callable[[str], None]

# Enough to amortise the fsync, few enough that one transaction stays short.
_MAX_JOBS_A_COMMIT = 64
_MAX_QUEUED_JOBS = 1_024
# Checkpointing in the writer keeps the log from growing without a bound; 4,000 pages are 16 MB.
_CHECKPOINT_PAGES = 4_000

_log = get_logger(__name__)
_tracer = tracing.get_tracer(__name__)


def no_step(name: str) -> None:
    """What is called after each step of a write when nobody looks in."""


@dataclass(slots=True)
class _Job:
    run: Callable[[apsw.Connection], Any]
    future: Future[Any]
    size: int
    caller: Span  # what waits for it
    queued: float  # when, in seconds since 1970; 0 if nobody asks
    result: Any = None


class Writer:
    """Runs jobs one after another on the catalog's only writing connection.

    Args:
        connection: The writer's own from now on.
        max_bytes: Of what waits to be committed. A job that is larger alone is taken when nothing else waits.
        step: Called in the thread after each step of a commit that a crash could follow, with its name.

    Attributes:
        failed: Fails with what ended the writer, if the disk does; it never has a result.
    """

    def __init__(self, connection: apsw.Connection, *, max_bytes: int, step: Step = no_step) -> None:
        self._connection = connection
        # By hand instead of SQLite's own: that would do it before the commit is acknowledged, and keep to itself that it failed.
        self._connection.set_wal_hook(self._committed)
        self._log_pages = 0
        self._max_bytes = max_bytes
        self._step = step
        self._queue: queue.Queue[_Job | None] = queue.Queue(_MAX_QUEUED_JOBS)
        self._waiting = 0
        self._lock = threading.Lock()  # of `_waiting` and of what makes a job the last one
        self._closed = False
        self.failed: Future[NoReturn] = Future()
        self.failed.set_running_or_notify_cancel()  # so that nobody who stops waiting for it cancels it
        self._thread = threading.Thread(target=self._loop, name="catalog-writer", daemon=True)
        self._thread.start()

    def submit(self, run: Callable[[apsw.Connection], T], size: int = 0) -> asyncio.Future[T]:
        """Queues a job; the future has its result once it is committed. Jobs are committed in the order they were submitted.

        `size` is what the job holds in memory, in bytes. Raises ResourceExhaustedError if too much waits, UnavailableError if the writer is closed
        or has ended; the future fails with what the job or the commit raised.
        """
        caller = trace.get_current_span()
        job = _Job(run, Future(), size, caller, time.time() if caller.is_recording() else 0.0)
        with self._lock:
            if self._closed:
                raise _closed()
            if size and self._waiting and self._waiting + size > self._max_bytes:  # what holds nothing, a delete, a cursor, need not wait for room
                raise _overloaded()
            try:
                self._queue.put_nowait(job)
            except queue.Full as error:
                raise _overloaded() from error
            self._waiting += size
        return asyncio.wrap_future(job.future)

    @property
    def waiting_bytes(self) -> int:
        """What waits to be committed holds so much memory."""
        return self._waiting

    def close(self) -> None:
        """Commits what is queued, then stops. Blocks until done."""
        with self._lock:
            ended, self._closed = self._closed, True
        if not ended:
            self._queue.put(None)
        self._thread.join()
        self._connection.close()

    def _loop(self) -> None:
        stopping = False
        while not stopping:
            jobs = [self._queue.get()]
            while len(jobs) < _MAX_JOBS_A_COMMIT:
                try:
                    jobs.append(self._queue.get_nowait())
                except queue.Empty:
                    break
            stopping = None in jobs
            taken = [job for job in jobs if job is not None]
            try:
                self._commit([job for job in taken if job.future.set_running_or_notify_cancel()])
                if self._log_pages >= _CHECKPOINT_PAGES:
                    self._checkpoint()
            except Exception as error:  # noqa: BLE001 - whatever it is: a thread that ends in silence would leave its callers waiting for ever
                self._end(error)
                return
            finally:
                self._release(taken)  # those whose callers have withdrawn them

    def _release(self, jobs: list[_Job]) -> None:
        """Makes room, before the callers hear of their jobs: who writes one thing after another finds the room of the one before."""
        with self._lock:
            for job in jobs:
                self._waiting -= job.size
                job.size = 0

    def _commit(self, jobs: list[_Job]) -> None:
        """Runs the jobs in one transaction and resolves their futures. Raises what the disk's failure is, with all of them failed."""
        if not jobs:
            return
        started, began = time.perf_counter(), time.time()
        try:
            with translated_errors():
                self._connection.execute("BEGIN IMMEDIATE")
                try:
                    done = [job for job in jobs if self._run(job)]
                    self._step("written")
                    self._connection.execute("COMMIT")
                finally:
                    if self._connection.in_transaction:
                        self._connection.execute("ROLLBACK")
        except Exception as error:
            ended, fatal = time.time(), disk_failed(error)
            self._release(jobs)
            failed = [job for job in jobs if not job.future.done()]
            for job in failed:
                job.future.set_exception(_unknown() if fatal else error)
            self._trace(failed, began, ended, error)
            if fatal:
                raise
            return
        took, ended = time.perf_counter() - started, time.time()
        self._step("committed")
        self._release(done)
        for job in done:
            job.future.set_result(job.result)
        self._step("acknowledged")
        # Behind the answers: they wait for the disk alone.
        with guarded("kb_catalog_commit"):
            metrics.CATALOG_COMMIT_DURATION.observe(took, _exemplar(done))
            metrics.CATALOG_COMMIT_SIZE.observe(len(done))
        self._trace(done, began, ended, None)

    @guarded("Catalog.commit")
    def _trace(self, jobs: list[_Job], began: float, ended: float, error: Exception | None) -> None:
        """A span for each job whose caller's span is recorded, its child: waiting in the queue, then the transaction that all of them share."""
        for job in jobs:
            if not job.queued:
                continue
            attributes: dict[str, str | int | float] = {
                "db.system.name": "sqlite",
                "kb.commit.writes": len(jobs),
                "kb.wait.queue_seconds": began - job.queued,
                "kb.commit.seconds": ended - began,
            }
            failure = "" if error is None else getattr(error, "reason", type(error).__name__)
            _tracer.record("Catalog.commit", trace.set_span_in_context(job.caller), job.queued, ended, attributes, error=failure)

    def _run(self, job: _Job) -> bool:
        """Runs one job in its savepoint. True if it is to be committed; else its future has failed."""
        try:
            with translated_errors():
                self._connection.execute("SAVEPOINT job")
                try:
                    job.result = job.run(self._connection)
                except BaseException:
                    # Gone if SQLite itself gave the whole transaction up. By hand, because apsw's own would then fail to release it, with an error
                    # that hides what happened: a disk that failed would look like a wrong statement.
                    if self._connection.in_transaction:
                        self._connection.execute("ROLLBACK TO job")
                        self._connection.execute("RELEASE job")
                    raise
                self._connection.execute("RELEASE job")
        except Exception as error:
            # Without a transaction the jobs before this one are undone, too; and a file that cannot be trusted any more gets nothing at all.
            if not self._connection.in_transaction or disk_failed(error):
                raise
            self._release([job])
            job.future.set_exception(error)
            return False
        return True

    def _committed(self, _connection: apsw.Connection, _database: str, pages: int) -> int:
        """Called by SQLite after each commit with the length of its log."""
        self._log_pages = pages
        return apsw.SQLITE_OK

    def _checkpoint(self) -> None:
        """Copies the log into the database, so that the log can begin anew. Raises what the disk's failure is.

        On a full disk the log stays as it is, which loses nothing; the next commit tries again.
        """
        self._log_pages = 0
        try:
            with translated_errors():
                self._connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
        except KnowledgeBeastError as error:
            if disk_failed(error):
                raise
            _log.warning("the catalog's log could not be copied into the database", reason=error.reason, error=error.message)
        self._step("checkpointed")

    def _end(self, error: BaseException) -> None:
        """Takes nothing more, fails what waits, and says so; nothing more is written to the file, not even when the connection is closed."""
        self._connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        with self._lock:
            self._closed = True
        while not self._queue.empty():
            job = self._queue.get_nowait()
            if job is not None and job.future.set_running_or_notify_cancel():
                job.future.set_exception(_closed())
        failure = UnavailableError(
            "the catalog's disk failed: what was acknowledged is as safe as the disk is, nothing more is taken; see to the disk, then start again",
            component="database",
            reason="DISK_FAILED",
        )
        failure.__cause__ = error
        self.failed.set_exception(failure)


def _overloaded() -> ResourceExhaustedError:
    return ResourceExhaustedError("too many writes are waiting to be committed: retry", retry_after=retry_after(), reason=OVERLOADED)


def _exemplar(jobs: list[_Job]) -> dict[str, str] | None:
    """The trace of a caller whose trace is recorded; None if there is none."""
    return next((exemplar for job in jobs if (exemplar := exemplars.of_span(job.caller)) is not None), None)


def _closed() -> UnavailableError:
    return UnavailableError("the indexer is shutting down: retry", component="database")


def _unknown() -> UnavailableError:
    return UnavailableError("the catalog's disk failed; whether the write is there is not known: retry", component="database", reason="DISK_FAILED")

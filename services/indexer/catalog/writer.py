"""The one writer of the catalog: a thread that commits many callers' changes with one fsync (group commit).

Jobs that arrive while a commit is under way wait and go into the next transaction together. Each runs in its own savepoint: a job that
fails is rolled back alone. A job's future is resolved after the commit that holds it, so a result is a promise that the change is on disk.
Cancelling the caller withdraws a job that has not begun; one that has goes on. Whether it was committed is then unknown to the caller, as
with any lost answer.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar

import apsw

from services.indexer.catalog.connection import translated_errors
from shared.errors import UnavailableError
from shared.observability import metrics

T = TypeVar("T")

# Enough to amortise the fsync, few enough that one transaction stays short.
_MAX_JOBS_A_COMMIT = 64
_MAX_QUEUED_JOBS = 1_024
# Checkpointing in the writer keeps the log from growing without a bound; 4,000 pages are 16 MB.
_CHECKPOINT_PAGES = 4_000


@dataclass(slots=True)
class _Job:
    run: Callable[[apsw.Connection], Any]
    future: Future[Any]
    result: Any = None


class Writer:
    """Runs jobs one after another on the catalog's only writing connection."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection
        self._connection.wal_autocheckpoint(_CHECKPOINT_PAGES)
        self._queue: queue.Queue[_Job | None] = queue.Queue(_MAX_QUEUED_JOBS)
        self._closed = False
        self._thread = threading.Thread(target=self._loop, name="catalog-writer", daemon=True)
        self._thread.start()

    def submit(self, run: Callable[[apsw.Connection], T]) -> asyncio.Future[T]:
        """Queues a job; the future has its result once it is committed. Jobs are committed in the order they were submitted.

        Raises UnavailableError if the queue is full or the writer is closed; the future fails with what the job or the commit raised.
        """
        if self._closed:
            raise UnavailableError("the indexer is shutting down: retry", component="database")
        job = _Job(run, Future())
        try:
            self._queue.put_nowait(job)
        except queue.Full as error:
            raise UnavailableError("too many writes are waiting: retry", component="database") from error
        return asyncio.wrap_future(job.future)

    def close(self) -> None:
        """Commits what is queued, then stops. Blocks until done."""
        self._closed = True
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
            self._commit([job for job in jobs if job is not None and job.future.set_running_or_notify_cancel()])

    def _commit(self, jobs: list[_Job]) -> None:
        """Runs the jobs in one transaction and resolves their futures."""
        if not jobs:
            return
        started = time.perf_counter()
        try:
            with translated_errors():
                self._connection.execute("BEGIN IMMEDIATE")
                try:
                    done = [job for job in jobs if self._run(job)]
                    self._connection.execute("COMMIT")
                finally:
                    if self._connection.in_transaction:
                        self._connection.execute("ROLLBACK")
        except Exception as error:  # noqa: BLE001 - whatever it is, every caller must hear of it and the thread must live on
            for job in jobs:
                if not job.future.done():
                    job.future.set_exception(error)
            return
        metrics.CATALOG_COMMIT_DURATION.observe(time.perf_counter() - started)
        metrics.CATALOG_COMMIT_SIZE.observe(len(done))
        for job in done:
            job.future.set_result(job.result)

    def _run(self, job: _Job) -> bool:
        """Runs one job in its savepoint. True if it is to be committed; else its future has failed."""
        try:
            with translated_errors(), self._connection:
                job.result = job.run(self._connection)
        except Exception as error:
            if not self._connection.in_transaction:  # SQLite itself gave the whole transaction up, for example on a full disk
                raise
            job.future.set_exception(error)
            return False
        return True

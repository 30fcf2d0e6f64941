"""The replica's SQLite file: opened safely, made again when it is of no use, one writer and a few readers."""

from __future__ import annotations

import os
import queue
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import apsw

from services.query.replica.integrity import check_rows
from shared.errors import ConfigurationError, CorruptionError, ResourceExhaustedError, UnavailableError
from shared.observability.logging import get_logger

# SQLite 3.7.0 to 3.51.2 can corrupt a database in WAL mode when a log reset meets a second connection.
_OLDEST_SAFE_SQLITE = (3, 51, 3)
_SCHEMA_VERSION = 2
_SCHEMA = """
-- `checksum`: of the row's other values (integrity.py).
CREATE TABLE setting (name TEXT PRIMARY KEY, value TEXT NOT NULL, checksum INTEGER NOT NULL) WITHOUT ROWID;
-- A project that is dropped and comes again gets another key, so nothing that is left of the old one can be taken for the new one.
CREATE TABLE project (
  pk INTEGER PRIMARY KEY AUTOINCREMENT,
  id TEXT NOT NULL UNIQUE,
  settings TEXT NOT NULL,
  documents_epoch TEXT, documents_sequence INTEGER,
  vectors_epoch TEXT, vectors_sequence INTEGER,
  head INTEGER NOT NULL DEFAULT 0,
  vector_sequence INTEGER NOT NULL DEFAULT 0,
  vectors_file INTEGER NOT NULL DEFAULT 0,
  dimension INTEGER NOT NULL DEFAULT 0,
  vectors_dropped INTEGER NOT NULL DEFAULT 0,
  checksum INTEGER NOT NULL
);
CREATE TABLE document (
  pk INTEGER PRIMARY KEY AUTOINCREMENT,
  project INTEGER NOT NULL,
  id TEXT NOT NULL,
  title TEXT NOT NULL,
  metadata TEXT NOT NULL,
  sequence INTEGER NOT NULL,
  content_hash TEXT NOT NULL,
  create_time INTEGER NOT NULL,
  update_time INTEGER NOT NULL,
  checksum INTEGER NOT NULL,
  UNIQUE (project, id)
);
CREATE INDEX document_sequence ON document (project, sequence);
CREATE TABLE chunk (
  pk INTEGER PRIMARY KEY AUTOINCREMENT,
  project INTEGER NOT NULL,
  id TEXT NOT NULL,
  document INTEGER NOT NULL,
  ordinal INTEGER NOT NULL,
  start_offset INTEGER NOT NULL,
  end_offset INTEGER NOT NULL,
  vector_slot INTEGER,
  vector_checksum INTEGER,  -- of what stands in the slot
  checksum INTEGER NOT NULL,
  text TEXT NOT NULL,
  UNIQUE (project, id)
);
CREATE INDEX chunk_document ON chunk (document);
-- Chunks whose entry in the keyword index may be missing, wrong or left over; chunk 0 stands for all entries of the project.
CREATE TABLE index_pending (project INTEGER NOT NULL, chunk INTEGER NOT NULL, PRIMARY KEY (project, chunk)) WITHOUT ROWID;
"""
_BUSY_TIMEOUT_MS = 5_000
# More than the threads that asyncio calls from, so that the event loop itself never waits for one.
_READERS = min(32, (os.cpu_count() or 1) + 4) + 2
_READER_WAIT_SECONDS = 5.0
_log = get_logger(__name__)


@contextmanager
def translated_errors() -> Iterator[None]:
    """Turns SQLite's errors into ours."""
    try:
        yield
    except apsw.FullError as error:
        raise ResourceExhaustedError("the disk of the replica is full: free space", retry_after=30.0, reason="DISK_FULL") from error
    except (apsw.CorruptError, apsw.NotADBError, UnicodeDecodeError) as error:
        raise CorruptionError("the replica is damaged: restart the query service, which makes it again from the feed") from error
    except apsw.Error as error:
        raise UnavailableError("the replica cannot be read or written now", component="replica") from error


def require_safe_sqlite() -> None:
    """Raises ConfigurationError if the SQLite that is loaded has the WAL-reset bug."""
    if tuple(int(part) for part in apsw.sqlite_lib_version().split(".")) < _OLDEST_SAFE_SQLITE:
        raise ConfigurationError(f"SQLite {apsw.sqlite_lib_version()} can corrupt a WAL database: install apsw with SQLite 3.51.3 or newer")


class Database:
    """One writing connection (the caller sees to it that one thread at a time uses it) and a bounded pool of reading ones.

    Attributes:
        created: the file was not there, or was of no use and has been replaced by an empty one.
    """

    def __init__(self, path: Path) -> None:
        require_safe_sqlite()
        self._path = path
        with translated_errors():
            self.created = not path.exists()
            try:
                self._writer = self._open_writer()
            except (apsw.Error, CorruptionError, _OtherVersionError) as error:
                if isinstance(error, _NOT_THE_FILE):
                    raise
                _log.warning("replica_rebuild", reason=str(error), path=str(path))
                for suffix in ("", "-wal", "-shm"):
                    path.with_name(path.name + suffix).unlink(missing_ok=True)
                self._writer, self.created = self._open_writer(), True
        self._free: queue.LifoQueue[apsw.Connection | None] = queue.LifoQueue()
        for _ in range(_READERS):
            self._free.put(None)  # opened when first needed
        self._closed = False

    def _open_writer(self) -> apsw.Connection:
        connection = apsw.Connection(str(self._path))
        try:
            connection.set_busy_timeout(_BUSY_TIMEOUT_MS)
            connection.pragma("journal_mode", "wal")
            connection.pragma("synchronous", "full")
            _prepare(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    @contextmanager
    def transaction(self) -> Iterator[apsw.Connection]:
        """One durable transaction; an exception rolls it back. Raises UnavailableError, ResourceExhaustedError or CorruptionError."""
        if self._closed:
            raise UnavailableError("the replica is closed", component="replica")
        with translated_errors():
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                yield self._writer
                self._writer.execute("COMMIT")
            except BaseException:
                if self._writer.in_transaction:
                    self._writer.execute("ROLLBACK")
                raise

    @contextmanager
    def reader(self) -> Iterator[apsw.Connection]:
        """A connection that sees what is committed, for this thread until the end of the block. Raises UnavailableError or CorruptionError."""
        try:
            connection = self._free.get(timeout=_READER_WAIT_SECONDS)
        except queue.Empty as error:
            raise UnavailableError("the replica is busy", component="replica") from error
        try:
            if self._closed:
                raise UnavailableError("the replica is closed", component="replica")
            with translated_errors():
                if connection is None:
                    connection = apsw.Connection(str(self._path), flags=apsw.SQLITE_OPEN_READONLY)
                    connection.set_busy_timeout(_BUSY_TIMEOUT_MS)
                yield connection
        finally:
            if connection is not None and self._closed:
                connection.close()
                connection = None
            self._free.put(connection)

    @contextmanager
    def snapshot(self) -> Iterator[apsw.Connection]:
        """A reading connection whose queries all see the same state. Raises what `reader` does."""
        with self.reader() as connection:
            connection.execute("BEGIN")
            try:
                yield connection
            finally:
                connection.execute("ROLLBACK")

    def close(self) -> None:
        """Closes the connections; one that is being read from is closed by its reader. May be called twice."""
        self._closed = True
        for _ in range(_READERS):
            try:
                connection = self._free.get_nowait()
            except queue.Empty:
                break
            if connection is not None:
                connection.close()
            self._free.put(None)
        self._writer.close()


# Errors at opening that say nothing of what is in the file. Every other may be damage: a byte that flips in the schema is an error of syntax.
_NOT_THE_FILE = (
    *(apsw.FullError, apsw.IOError, apsw.CantOpenError, apsw.PermissionsError, apsw.BusyError),
    *(apsw.LockedError, apsw.NoMemError, apsw.InterruptError),
)


class _OtherVersionError(Exception):
    """The file was laid out by another version."""


def _layout(connection: apsw.Connection) -> set[tuple[str, str]]:
    """Tables and indexes with the statements that made them: the file keeps them as text, which may be damaged and still make sense."""
    return {(name, sql) for name, sql in connection.execute("SELECT name, sql FROM sqlite_schema WHERE sql IS NOT NULL")}


def _expected_layout() -> set[tuple[str, str]]:
    connection = apsw.Connection(":memory:")
    try:
        connection.execute(_SCHEMA)
        return _layout(connection)
    finally:
        connection.close()


def _prepare(connection: apsw.Connection) -> None:
    """Lays out a new file, checks an old one."""
    version = connection.pragma("user_version")
    if version == 0:
        with connection:
            connection.execute(_SCHEMA)
            connection.pragma("user_version", _SCHEMA_VERSION)
    elif version != _SCHEMA_VERSION:
        raise _OtherVersionError(f"schema version {version} instead of {_SCHEMA_VERSION}")
    if _layout(connection) != _expected_layout():
        raise apsw.CorruptError("the tables are not those of this version")
    # Not the quick check, which does not compare indexes with their tables: 0.13 instead of 0.06 s for 100,000 chunks.
    if (problem := connection.execute("PRAGMA integrity_check(1)").get) != "ok":
        raise apsw.CorruptError(str(problem))
    check_rows(connection)

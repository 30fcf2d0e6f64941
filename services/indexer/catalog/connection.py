"""Opening SQLite the way the catalog needs it: durable, checked, and by one process alone."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import apsw

from services.indexer.catalog.rows import first
from shared.errors import ConfigurationError, CorruptionError, ResourceExhaustedError, UnavailableError

# SQLite 3.7.0 to 3.51.2 can corrupt a database in WAL mode when a log reset meets a second connection.
_OLDEST_SAFE_SQLITE = (3, 51, 3)
_BUSY_TIMEOUT_MS = 5_000
_CACHE_KIB = 64 * 1024
_HOW_TO_RESTORE = "stop the service, put a backup of catalog.db in its place with an empty file catalog.restored beside it, and start again"


def require_safe_sqlite() -> None:
    """Raises ConfigurationError if the SQLite that is loaded has the WAL-reset bug."""
    version = tuple(int(part) for part in apsw.sqlite_lib_version().split("."))
    if version < _OLDEST_SAFE_SQLITE:
        raise ConfigurationError(f"SQLite {apsw.sqlite_lib_version()} can corrupt a WAL database: install apsw with SQLite 3.51.3 or newer")


def open_connection(path: Path, *, read_only: bool = False) -> apsw.Connection:
    """A connection in WAL mode that fsyncs every commit.

    Raises CorruptionError if the file is no usable database.
    """
    flags = apsw.SQLITE_OPEN_READONLY if read_only else apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE
    with translated_errors():
        connection = apsw.Connection(str(path), flags=flags)
        connection.set_busy_timeout(_BUSY_TIMEOUT_MS)
        if not read_only:
            connection.pragma("journal_mode", "wal")
            connection.pragma("synchronous", "full")
            connection.wal_autocheckpoint(0)  # it keeps to itself that it failed
        connection.pragma("foreign_keys", True)
        connection.pragma("cache_size", -_CACHE_KIB)
        return connection


def check_integrity(connection: apsw.Connection, path: Path) -> None:
    """Runs SQLite's quick check. Raises CorruptionError with the first problem."""
    with translated_errors():
        row = first(connection, "PRAGMA quick_check(1)")
    result = row[0] if row else "no result"
    if result != "ok":
        raise CorruptionError(f"the catalog {path} is damaged ({result}): {_HOW_TO_RESTORE}")


def settle_log(connection: apsw.Connection, path: Path) -> None:
    """Copies the log into the database, so that all of it is on disk, and begins a new one. Before anything is committed.

    What a process finds in the log may be in the kernel's cache alone: after an fsync that failed, its pages count as clean, and no later fsync of
    the log writes them. New commits would stand behind that gap, and after a loss of power SQLite reads the log as far as the gap. The copy helps,
    because it writes the pages once more, through the file of the database, and its fsync then fails or has them on disk. That the log is empty is
    made durable, too: else a loss of power would bring back its part before the gap, over a database that is further on.

    Raises ConfigurationError if that fails or somebody else uses the file, CorruptionError if what is read is damaged.
    """
    try:
        with translated_errors():
            connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
        log = path.with_name(path.name + "-wal")
        if log.exists():
            _fsync(log)
    except (OSError, UnavailableError, ResourceExhaustedError) as error:
        if isinstance(error.__cause__, (apsw.BusyError, apsw.LockedError)):
            what_to_do = "somebody else has it open: end what reads it, a backup for example, then start again"
        elif isinstance(error, ResourceExhaustedError):
            what_to_do = "the disk is full: free space, then start again"
        else:
            what_to_do = f"{error.__cause__ or error}: see to the disk, then start again; if it does not help, {_HOW_TO_RESTORE}"
        connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)  # what has failed is left as it is
        raise ConfigurationError(f"the log of the catalog {path} cannot be copied into it ({what_to_do}); nothing was changed") from error


def _fsync(path: Path) -> None:
    file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        os.fsync(file)
    finally:
        os.close(file)


@contextmanager
def translated_errors() -> Iterator[None]:
    """Turns SQLite's errors into ours."""
    try:
        yield
    except apsw.FullError as error:
        raise _disk_full() from error
    except apsw.IOError as error:
        # Only errors that SQLite itself raised have the attribute.
        if getattr(error, "extendedresult", 0) == apsw.SQLITE_IOERR_SHMSIZE:  # the index of the log cannot grow: what a full disk says first
            raise _disk_full() from error
        raise UnavailableError("the catalog's file cannot be read or written", component="database", retry_after=10.0) from error
    except UnicodeDecodeError as error:  # a text in which the disk has changed something
        raise CorruptionError("a document of the catalog is damaged: write it again, or restore a backup") from error
    except (apsw.CorruptError, apsw.NotADBError) as error:
        raise CorruptionError(f"the catalog is damaged: {_HOW_TO_RESTORE}") from error
    except (apsw.BusyError, apsw.LockedError) as error:
        raise UnavailableError("the catalog is busy: retry", component="database") from error
    except (apsw.CantOpenError, apsw.ReadOnlyError) as error:
        raise UnavailableError("the catalog's file cannot be read or written", component="database", retry_after=10.0) from error


def _disk_full() -> ResourceExhaustedError:
    return ResourceExhaustedError("the disk of the catalog is full: free space, then retry", retry_after=30.0, reason="DISK_FULL")


def disk_failed(error: BaseException) -> bool:
    """Whether what was translated means that the file cannot be trusted from now on: a read, write or fsync failed, or its structure is wrong."""
    if isinstance(error.__cause__, UnicodeDecodeError):
        return False
    return isinstance(error, CorruptionError) or (isinstance(error, UnavailableError) and isinstance(error.__cause__, apsw.IOError))


class ExclusiveLock:
    """Keeps a second indexer off the same catalog: two writers would each allocate the same sequences."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._file)
            raise ConfigurationError(f"another indexer uses the catalog in {path.parent}: stop it, or set KB_DATA_DIR to another folder") from error

    def release(self) -> None:
        """Lets the next one in."""
        os.close(self._file)

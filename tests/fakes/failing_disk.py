"""A disk whose fsync or writes fail when they are told to: a VFS of SQLite around the real one."""

from __future__ import annotations

from pathlib import Path
from typing import Self

import apsw

_NAME = "failing-disk"


class FailingDisk(apsw.VFS):
    """SQLite's default VFS as long as it is entered. While the file `trigger` exists, fsync of files whose names end with its content fails.

    A file, so that another process can say it.

    Attributes:
        trigger: See above.
        syncs: How many fsyncs there were.
        write_error: What every write raises, if anything: apsw.FullError or apsw.IOError.
        read_error: What every read raises, if anything.
    """

    def __init__(self, trigger: Path) -> None:
        self.base = apsw.vfs_names()[0]
        super().__init__(_NAME, self.base, makedefault=True)
        self.trigger = trigger
        self.syncs = 0
        self.write_error: Exception | None = None
        self.read_error: Exception | None = None

    def fail(self, ending: str) -> None:
        """From now on: `-wal` for the log, `.db` for the database, nothing for both."""
        self.trigger.write_text(ending)

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> _File:
        """See apsw."""
        return _File(self, name, flags)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        apsw.set_default_vfs(self.base)
        self.unregister()


class _File(apsw.VFSFile):
    def __init__(self, disk: FailingDisk, name: str | apsw.URIFilename | None, flags: list[int]) -> None:
        super().__init__(disk.base, name, flags)
        self._disk = disk
        self._name = str(name.filename() if isinstance(name, apsw.URIFilename) else name)

    def xRead(self, amount: int, offset: int) -> bytes:
        """See apsw."""
        if self._disk.read_error is not None:
            raise self._disk.read_error
        return super().xRead(amount, offset)

    def xWrite(self, data: bytes, offset: int) -> None:
        """See apsw."""
        if self._disk.write_error is not None:
            raise self._disk.write_error
        super().xWrite(data, offset)

    def xSync(self, flags: int) -> None:
        """See apsw."""
        self._disk.syncs += 1
        if self._disk.trigger.exists() and self._name.endswith(self._disk.trigger.read_text()):
            raise apsw.IOError("fsync failed")
        super().xSync(flags)

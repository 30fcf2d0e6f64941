"""Keeps a second stack off a folder: two ChromaDB servers on the same files damage them."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shared.errors import FailedPreconditionError

LOCK_NAME = "kb-up.lock"


def check_unused(data_dir: Path) -> None:
    """Raises FailedPreconditionError if a stack uses the folder; writes nothing."""
    try:
        file = os.open(data_dir / LOCK_NAME, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        _take(file, data_dir)
    finally:
        os.close(file)


@contextmanager
def exclusive(data_dir: Path) -> Iterator[None]:
    """Within it, the folder (made if need be) is this process's alone. The kernel lets go when the process dies, `kill -9` included.

    Raises FailedPreconditionError if another stack uses the folder.
    """
    data_dir.mkdir(parents=True, exist_ok=True)
    file = os.open(data_dir / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        _take(file, data_dir)
        yield
    finally:
        os.close(file)


def _take(file: int, data_dir: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise FailedPreconditionError(f"another `kb up` uses {data_dir}: stop it, or choose another folder with --data-dir") from error

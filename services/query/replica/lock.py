"""Keeps a second process off a folder."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from shared.errors import ConfigurationError


def lock_folder(path: Path) -> int:
    """Takes the folder for this process, until the returned file is closed or the process ends. Raises ConfigurationError when it is taken."""
    file = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(file)
        raise ConfigurationError(f"another query service uses the replica in {path}: give this one another KB_DATA_DIR") from error
    return file

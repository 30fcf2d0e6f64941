"""What some faults need of the machine: the right to mount, a compiler."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shared.errors import FailedPreconditionError

_TIMEOUT = 30.0  # seconds of a command


def no_tmpfs() -> str | None:
    """Why no small disk can be mounted here; None if one can."""
    if os.geteuid() != 0:
        return "needs root, to mount a small tmpfs"
    with tempfile.TemporaryDirectory(prefix="kb-chaos-") as folder:
        try:
            with small_disk(Path(folder), 1024 * 1024):
                return None
        except FailedPreconditionError as error:
            return f"needs the right to mount a small tmpfs: {error.message}"


def no_compiler() -> str | None:
    """Why libraries that change what the system says cannot be made here; None if they can."""
    return None if shutil.which("cc") else "needs a C compiler (`cc`), for a library to preload"


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[None]:
    """Within it, the folder (made if need be) is a disk of `size` bytes, in memory. Raises FailedPreconditionError if it cannot be mounted."""
    folder.mkdir(parents=True, exist_ok=True)
    _run("mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder))
    try:
        yield
    finally:
        # Lazily: a process that has just been killed may still hold a file.
        _run("umount", "--lazy", str(folder))


def compiled(source: str, folder: Path) -> Path:
    """Compiles one of the C files beside this one into a library for LD_PRELOAD, in the folder. Raises FailedPreconditionError if that fails."""
    folder.mkdir(parents=True, exist_ok=True)
    library = folder / f"{source}.so"
    _run("cc", "-shared", "-fPIC", "-O1", "-o", str(library), str(Path(__file__).with_name(source)), "-ldl")
    return library


def _run(*command: str) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=_TIMEOUT)  # noqa: S603 - no shell, commands of this file
    except (OSError, subprocess.SubprocessError) as error:
        said = error.stderr.strip() if isinstance(error, subprocess.CalledProcessError) else str(error)
        raise FailedPreconditionError(f"`{command[0]}` failed: {said}") from error

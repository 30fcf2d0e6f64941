"""Where a measurement was made: machine, versions, commit."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

import services
from shared.version import VERSION

_PACKAGES = ("chromadb", "grpcio", "protobuf", "onnxruntime", "tantivy", "apsw", "numpy", "aiohttp", "tokenizers", "lancedb", "torch")
_ROOT = Path(services.__path__[0]).resolve().parent
_GIT_TIMEOUT = 10.0  # seconds


def describe() -> dict[str, Any]:
    """CPU, memory, kernel, Python, versions of the main packages, commit, load at the start and the time."""
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 2**30, 1),
        "kernel": platform.release(),
        "system": platform.system(),
        "python": platform.python_version(),
        "load_at_start": round(os.getloadavg()[0], 2),
        "knowledgebeast": VERSION,
        "commit": _git("rev-parse", "--short=12", "HEAD"),
        "dirty": bool(_git("status", "--porcelain")),
        "packages": {name: _version(name) for name in _PACKAGES},
    }


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _git(*arguments: str) -> str:
    """What git says of the sources; empty where there is no repository."""
    try:
        done = subprocess.run(  # noqa: S603 - fixed arguments
            ("git", "-C", str(_ROOT), *arguments),  # noqa: S607 - the user's git
            capture_output=True,
            text=True,
            check=False,
            timeout=_GIT_TIMEOUT,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""

"""`kb demo` as a user runs it, on a few modules so that it takes seconds."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

# Those whose docstrings the demo's searches are about.
_MODULES = ("random", "gzip", "optparse", "pathlib", "shutil")


def test_the_demo_shows_what_it_promises_and_leaves_nothing_behind(model_dir: Path, tmp_path: Path) -> None:
    """Every check of every step holds, through the death and the return of ChromaDB; no temporary folder stays."""
    options = [argument for module in _MODULES for argument in ("--module", module)]
    command = [sys.executable, "-m", "services.cli", "demo", "--model-dir", str(model_dir), *options]

    ended = subprocess.run(
        command, cwd=ROOT, env=_environment(tmp_path), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=240, check=False
    )

    assert ended.returncode == 0, ended.stdout
    assert "✗" not in ended.stdout
    assert "degraded: " in ended.stdout
    assert "All 17 checks passed" in ended.stdout
    assert list(tmp_path.glob("kb-demo-*")) == []


def _environment(temporary: Path) -> dict[str, str]:
    return {**os.environ, "TMPDIR": str(temporary)}

"""`kb model`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

import services
from services.cli import options

EXAMPLES = options.examples("kb model", "kb model --model ./my-sentence-transformer --model-dir /var/lib/kb/models")


def export_command(model_dir: Path, *more: str) -> tuple[list[str], dict[str, str]]:
    """The command that exports a model, and its environment. A process of its own, because it imports torch, which nothing else here does."""
    root = str(Path(services.__path__[0]).resolve().parent)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))}
    return [sys.executable, "-m", "shared.embedding.export", "--model-dir", str(model_dir), *more], environment


def model(
    *,
    name: Annotated[str, typer.Option("--model", help="Name of a model or path of a sentence-transformers folder. Default: all-MiniLM-L6-v2.")] = "",
    force: Annotated[bool, typer.Option("--force", help="Export again even if a valid export is there.")] = False,
    data_dir: options.DataDir = options.DEFAULT_DATA_DIR,
    model_dir: options.ModelDir = None,
) -> None:
    """Export the embedding model to ONNX, once, so that the services need no torch. Needs torch itself; takes about 12 seconds."""
    more = (*(("--model", name) if name else ()), *(("--force",) if force else ()))
    command, environment = export_command(model_dir or data_dir / "models", *more)
    raise typer.Exit(subprocess.run(command, env=environment, check=False).returncode)  # noqa: S603 - our own module, no shell

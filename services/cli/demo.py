"""`kb demo`: the whole product on this machine's own text, ChromaDB's death included; every step verifies what it shows."""

from __future__ import annotations

import asyncio
import math
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from services.cli import docstrings, options
from services.cli.commands.model import export_command
from services.cli.console import line
from services.cli.demo_steps import PROJECT, Demo
from services.cli.ingest.batch import batches
from services.cli.ingest.items import FileEnd, Item, ReadDocument
from services.cli.ingest.run import Ingestion
from services.cli.ingest.wait import wait_for_vectors
from services.cli.progress import Meter
from services.cli.signals import handled_signals
from services.cli.stack import lock
from services.cli.stack.stack import Ports, Stack
from services.cli.supervisor import start
from shared.client import KnowledgeBeast
from shared.errors import FailedPreconditionError, UnavailableError

EXAMPLES = options.examples("kb demo", "kb demo --model-dir /var/lib/kb/models")

# At most about three minutes of embedding: 90 chunks of a docstring's size a second and core were measured with the int8 model. The library of
# Python 3.11 has about 8,000, so the bound is for other machines.
_EMBEDDING_SECONDS = 180
_CHUNKS_PER_SECOND_AND_CORE = 90
_CHARACTERS_PER_CHUNK = 900  # 254 tokens of English with code, less than it may be

_WHOLE = "Python's standard library"
_PREFIX = "kb-demo-"  # of the temporary folder
_SETTLED = 5.0  # seconds


def demo(
    *,
    module: Annotated[
        list[str] | None, typer.Option("--module", metavar="NAME", help="Only this module or package, for a quick look. Repeatable.")
    ] = None,
    data_dir: options.DataDir = options.DEFAULT_DATA_DIR,
    model_dir: options.ModelDir = None,
) -> None:
    """Run the whole stack on the docstrings of Python's standard library, kill ChromaDB, and show that nothing is lost. 2 to 5 minutes.

    Everything is kept in a temporary folder and removed; only the exported model is kept (in `models` of the data dir). The exit status is 1 if
    any step did not show what it should.
    """
    files = _files(module or [])
    models = model_dir or data_dir / "models"
    command, environment = export_command(models)
    if subprocess.run(command, env=environment, check=False).returncode != 0:  # noqa: S603 - our own module, no shell
        raise UnavailableError("the model could not be exported", component="embedding_model")
    try:
        failed = options.run(_demo(models, files, module or []))
    except asyncio.CancelledError:
        line("kb: interrupted; everything is stopped", style="red")
        raise typer.Exit(1) from None
    if failed:
        line(f"{len(failed)} checks failed: {'; '.join(failed)}", style="red")
        raise typer.Exit(1)


def _files(names: list[str]) -> list[Path]:
    """Files of the modules, of all if there are no names. Raises typer.BadParameter, which exits with 2."""
    if not names:
        return list(docstrings.modules())
    chosen = docstrings.chosen(names)
    if missing := [name for name, paths in chosen.items() if not paths]:
        raise typer.BadParameter(f"{_WHOLE} has no module with docstrings called {', '.join(missing)}", param_hint="--module")
    return sorted({path for paths in chosen.values() for path in paths})


def remove_left_over(parent: Path) -> None:
    """Removes the folders of demos that were killed: ours, with a lock that nobody holds."""
    for folder in parent.glob(f"{_PREFIX}*"):
        try:
            made = (folder / lock.LOCK_NAME).stat()
            # One that has just been made may not be locked yet.
            if made.st_uid != os.geteuid() or time.time() - made.st_mtime < _SETTLED:
                continue
            with lock.exclusive(folder):
                shutil.rmtree(folder)
        except (OSError, FailedPreconditionError):  # not a demo's, another demo removes it, or a demo runs in it: leave it
            continue


async def _demo(models: Path, files: list[Path], names: list[str]) -> list[str]:
    """Runs the demo; what failed. Cancelled by Ctrl-C and SIGTERM, it stops everything first."""
    task = asyncio.current_task()
    if task is None:
        raise AssertionError("a coroutine that runs has a task")

    def interrupt() -> None:
        task.cancel()

    await asyncio.to_thread(remove_left_over, Path(tempfile.gettempdir()))
    with handled_signals(interrupt), tempfile.TemporaryDirectory(prefix=_PREFIX) as folder, lock.exclusive(Path(folder)):
        stack = Stack(Path(folder), models, Ports.free())
        try:
            return await _tell(stack, files, names)
        finally:
            await stack.stop()


async def _tell(stack: Stack, files: list[Path], names: list[str]) -> list[str]:
    began = time.monotonic()
    steps = Demo(stack, names)
    steps.heading("Starting ChromaDB, the indexer and the query service")
    await start(stack, line, lambda process: line(f"{process.name} is ready (process {process.pid})"), logs_stay=False)
    async with KnowledgeBeast(stack.indexer_address, stack.query_address, timeout=20.0) as kb:
        steps.heading(f"Writing every docstring of {', '.join(names) or _WHOLE}")
        await kb.create_project(PROJECT, display_name=_WHOLE)
        ingestion = await _ingest(kb, files)
        steps.check("every document was written", ingestion.failed == 0 and ingestion.written > 0, f"{ingestion.written:,} written")
        await _embed(kb)
        await steps.searches(kb, ingestion.consistency_token)
        await steps.chroma_dies(kb)
        token = await steps.write_without_chroma(kb)
        await steps.chroma_returns(kb, token)
        await steps.delete(kb)
    steps.heading("Stopping everything")
    await stack.stop()
    steps.check("no process is left", not any(process.running for process in stack.processes), "all three have ended")
    if not steps.failed:
        line(f"All {steps.passed} checks passed in {time.monotonic() - began:.0f} s.", style="bold green")
    return steps.failed


async def _ingest(kb: KnowledgeBeast, files: list[Path]) -> Ingestion:
    with Meter("writing", "modules", len(files)) as meter:
        ingestion = Ingestion(kb, PROJECT, meter)
        await ingestion.run(batches(_bounded(files), 200))
    line(ingestion.summary(), style="green")
    return ingestion


def _bounded(files: list[Path]) -> Iterator[Item]:
    """Documents of the modules, up to what is embedded in three minutes."""
    cores = os.cpu_count() or 1
    left = _EMBEDDING_SECONDS * _CHUNKS_PER_SECOND_AND_CORE * cores
    for path in files:
        for document in docstrings.documents(path):
            left -= math.ceil(len(document.text) / _CHARACTERS_PER_CHUNK)
            if left < 0:
                line(f"Stopping at {path.name}: embedding more would take over {_EMBEDDING_SECONDS // 60} minutes on {cores} cores.", style="yellow")
                return
            yield ReadDocument(document, document.id)
        yield FileEnd(path.name)


async def _embed(kb: KnowledgeBeast) -> None:
    began = time.monotonic()
    with Meter("embedding", "changes") as meter:
        await wait_for_vectors(kb, PROJECT, meter)
    project = await kb.get_project(PROJECT)
    line(f"{project.chunk_count:,} chunks searchable by meaning after {time.monotonic() - began:.1f} s more", style="green")

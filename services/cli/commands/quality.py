"""`kb quality`."""

from __future__ import annotations

import asyncio
import json
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer

from services.cli import options
from services.cli.bench import machine
from services.cli.commands.model import export_command
from services.cli.console import json_document, line
from services.cli.quality import chart, markdown, report
from services.cli.quality.measure import require_library
from services.cli.quality.run import ONNX, TORCH, Outcome, assess, running, with_original, without_chromadb
from services.cli.signals import handled_signals
from services.cli.stack import lock
from shared.errors import NotFoundError, UnavailableError
from shared.golden.collection import Collection, below, golden

EXAMPLES = options.examples(
    "kb quality",
    "kb quality --datasets ../datasets --output docs/quality",
    "kb quality --datasets ../datasets --only golden --only cranfield --compare-fp32",
    "kb quality --outage",
)


def quality(  # noqa: PLR0913 - the options of a command
    *,
    datasets: Annotated[
        Path | None,
        typer.Option("--datasets", metavar="DIR", file_okay=False, help="Folder with more collections: corpus.jsonl, queries.jsonl, qrels.tsv each."),
    ] = None,
    with_golden: Annotated[bool, typer.Option("--golden/--no-golden", help="Measure the collection that comes with kb.")] = True,
    only: Annotated[list[str] | None, typer.Option("--only", metavar="NAME", help="Only these of the collections. Repeatable.")] = None,
    compare_fp32: Annotated[
        bool, typer.Option("--compare-fp32", help="Also measure the original model in fp32 (torch; a third of the speed).")
    ] = False,
    outage: Annotated[bool, typer.Option("--outage", help="Also measure what is found while ChromaDB is dead.")] = False,
    output: Annotated[
        Path | None, typer.Option("--output", metavar="DIR", file_okay=False, help="Write quality.json, quality.png and tables.md here.")
    ] = None,
    keep: Annotated[
        Path | None,
        typer.Option("--data-dir", file_okay=False, help="Keep the services' data here, so that nothing is embedded again the next time."),
    ] = None,
    as_json: options.Json = False,
    model_dir: options.ModelDir = None,
) -> None:
    """Measure how good the answers are, with questions that people have judged.

    Starts ChromaDB, the indexer and the query service, for each collection anew, writes it, asks every question by keyword, by
    vector and with each fusion, and computes NDCG@10, Recall@100 and MRR@10 over documents. An answer that lacks something is asked for again.
    The exit status is 1 if a target is missed: hybrid search by default has to beat both legs on every collection, and there are figures for
    the collection that comes with kb, for cranfield and for scifact.
    """
    require_library()
    collections = _collections(datasets, with_golden=with_golden, only=only or [])
    models = model_dir or options.DEFAULT_DATA_DIR / "models"
    command, environment = export_command(models)
    if subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=False).returncode != 0:  # noqa: S603 - our own module, no shell
        raise UnavailableError("the model could not be exported", component="embedding_model")
    described = machine.describe()
    try:
        outcomes = options.run(_measure(collections, models, keep, compare_fp32=compare_fp32, outage=outage))
    except asyncio.CancelledError:
        line("kb: interrupted; everything is stopped", style="red")
        raise typer.Exit(1) from None
    form = report.as_json(outcomes, described)
    if as_json:
        json_document(form)
    else:
        report.show(outcomes)
    if output is not None:
        _write(outcomes, form, output)
    if not form["met"]:
        raise typer.Exit(1)


def _collections(datasets: Path | None, *, with_golden: bool, only: list[str]) -> list[Collection]:
    """What is measured. Raises NotFoundError if there is nothing, or a name of `only` is not there."""
    found = [*([golden()] if with_golden else []), *(below(datasets) if datasets is not None else [])]
    names = [collection.name for collection in found]
    if missing := [name for name in only if name not in names]:
        raise NotFoundError(f"no collection {', '.join(missing)}; there are: {', '.join(names) or 'none'}")
    chosen = [collection for collection in found if not only or collection.name in only]
    if not chosen:
        raise NotFoundError("nothing to measure: give --datasets, or leave --no-golden out")
    return chosen


async def _measure(collections: Sequence[Collection], models: Path, keep: Path | None, *, compare_fp32: bool, outage: bool) -> list[Outcome]:
    """Cancelled by Ctrl-C and SIGTERM, it stops everything first."""
    task = asyncio.current_task()
    if task is None:
        raise AssertionError("a coroutine that runs has a task")

    def interrupt() -> None:
        task.cancel()

    with handled_signals(interrupt), ExitStack() as held:
        folder = Path(held.enter_context(tempfile.TemporaryDirectory(prefix="kb-quality-"))) if keep is None else keep
        held.enter_context(lock.exclusive(folder))
        return [await _one(collection, models, folder / collection.name, compare_fp32=compare_fp32, outage=outage) for collection in collections]


async def _one(collection: Collection, models: Path, folder: Path, *, compare_fp32: bool, outage: bool) -> Outcome:
    """Measures a collection in a stack of its own: BM25's statistics are those of a whole index, and another collection would change them."""
    async with running(folder / "onnx", models, ONNX) as (_, kb):
        outcome = await assess(kb, collection)
    if outage:
        line(f"{collection.name} once more, without ChromaDB")
        outcome = await without_chromadb(folder / "onnx", models, outcome)
    if compare_fp32:
        line(f"{collection.name} once more, with the original model in fp32")
        async with running(folder / "torch", models, TORCH) as (_, kb):
            outcome = await with_original(kb, outcome)
    return outcome


def _write(outcomes: Sequence[Outcome], form: dict[str, Any], output: Path) -> None:
    output.mkdir(parents=True, exist_ok=True)
    (output / "quality.json").write_text(json.dumps(form, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    (output / "tables.md").write_text(markdown.page(form), encoding="utf-8")
    chart.draw(outcomes, output / "quality.png")
    line(f"written: quality.json, tables.md and quality.png in {output}")

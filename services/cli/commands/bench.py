"""`kb bench`."""

from __future__ import annotations

import asyncio
import re
import subprocess
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from services.cli import options
from services.cli.bench import charts, compare, document, records, tables, verdicts
from services.cli.bench.plan import Plan, Section
from services.cli.bench.records import Report
from services.cli.commands.model import export_command
from services.cli.console import OUT, json_document, line
from services.cli.signals import handled_signals
from shared.errors import UnavailableError

EXAMPLES = options.examples(
    "kb bench",
    "kb bench --size 10k --only search --only floor --duration 2",
    "kb bench --size 100k --only rebuild --only outage --json",
    "kb bench compare before.json after.json --only search",
    "kb bench report result.json --charts docs/images --document docs/performance.md",
)
_STDERR = 2  # where what the exporter says goes: stdout is for results
_SIZE = re.compile(r"(\d+)(k?)")
_MIN_SIZE, _MAX_SIZE = 100, 1_000_000

app = typer.Typer(
    help="Measure the services on real text, against the floor that their parts set and against other tools.",
    epilog=EXAMPLES,
    invoke_without_command=True,
    no_args_is_help=False,
)

Only = Annotated[list[Section] | None, typer.Option("--only", metavar="SECTION", help=f"Only this section: {', '.join(Section)}. Repeatable.")]
Document = Annotated[Path | None, typer.Option("--document", exists=True, dir_okay=False, help="A Markdown file whose marked places get the tables.")]
Charts = Annotated[
    Path | None, typer.Option("--charts", file_okay=False, help="Where charts go (PNG). Default: where the result file is, when measuring.")
]


@app.callback()
def bench(  # noqa: PLR0913 - one an option
    context: typer.Context,
    *,
    size: Annotated[
        list[str] | None, typer.Option("--size", metavar="N", help="Chunks of the corpus: 10k, 100k or a number. Repeatable. Default: 10k and 100k.")
    ] = None,
    only: Only = None,
    duration: Annotated[float, typer.Option("--duration", min=0.1, max=600, metavar="SECONDS", help="Load that each variant gets in all.")] = 5.0,
    slice_seconds: Annotated[
        float, typer.Option("--slice", min=0.05, max=60, metavar="SECONDS", help="Load in one turn; variants take turns until their time is used up.")
    ] = 0.5,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", file_okay=False, help="Where the result file goes. Default: `bench/results` in the data dir.")
    ] = None,
    chart_dir: Charts = None,
    documents: Document = None,
    as_json: Annotated[bool, typer.Option("--json", help="The result as JSON on stdout, instead of tables.")] = False,
    data_dir: options.DataDir = options.DEFAULT_DATA_DIR,
    model_dir: options.ModelDir = None,
) -> None:
    """Measure the services on real text, against the floor that their parts set and against other tools.

    The corpus is text that is installed with Python: docstrings, comments and documentation of the standard library and of all packages. It is
    written through the indexer once and kept in `bench` of the data dir (up to 2 GB for 100k) with its vectors, so that the next run begins at once.
    Real processes are measured from another process in closed loops; variants take turns, and ratios are of neighbouring turns.
    The exit status is 0 when everything was measured, 1 when a section or a search failed.
    """
    if context.invoked_subcommand is not None:
        return
    models = model_dir or data_dir / "models"
    _export(models)
    folder = output or data_dir / "bench" / "results"
    plan = Plan(
        root=(data_dir / "bench").resolve(),
        model_dir=models.resolve(),
        sizes=_sizes(size or ["10k", "100k"]),
        sections=[section for section in Section if not only or section in only],
        seconds=duration,
        slice_seconds=min(slice_seconds, duration),
    )
    path: list[Path] = []

    def save(report: Report) -> None:
        if not path:
            path.append(folder / f"{str(report.machine['time'])[:16].replace(':', '')}-{report.machine['commit'] or 'nogit'}.json")
        records.save(report, path[0], [asdict(verdict) for verdict in verdicts.judge(report)])

    try:
        report = options.run(_interruptible(plan, save))
    except asyncio.CancelledError:
        line(f"kb: interrupted; what was measured is in {path[0]}" if path else "kb: interrupted; nothing was measured", style="red")
        raise typer.Exit(1) from None
    save(report)
    for drawn in charts.draw(report, chart_dir or folder):
        line(f"chart    {drawn}")
    line(f"results  {path[0]}")
    _fill(documents, report)
    _show(report, as_json=as_json)
    if report.failures:
        raise typer.Exit(1)


@app.command("compare", epilog=options.examples("kb bench compare before.json after.json --only search"))
def compare_files(
    old: Annotated[Path, typer.Argument(exists=True, dir_okay=False)],
    new: Annotated[Path, typer.Argument(exists=True, dir_okay=False)],
    *,
    only: Only = None,
) -> None:
    """Compare two result files, figure by figure: new over old."""
    before, after = records.load(old), records.load(new)
    for warning in compare.warnings(before, after):
        line(warning, style="yellow")
    OUT.print(compare.compare(before, after, only or ()).rich())


@app.command(
    "report",
    epilog=options.examples(
        "kb bench report result.json --charts docs/images --document docs/performance.md",
        "kb bench report small.json large.json --document docs/performance.md",
    ),
)
def report_file(
    results: Annotated[list[Path], typer.Argument(metavar="FILE...", exists=True, dir_okay=False, help="Several are read as one run.")],
    *,
    chart_dir: Charts = None,
    documents: Document = None,
    as_json: Annotated[bool, typer.Option("--json", help="The result as JSON on stdout, instead of tables.")] = False,
) -> None:
    """Show result files again, draw their charts, or put their tables into a document.

    Of a section that several files have for the same size, the last file's counts.
    """
    report = records.merge([records.load(result) for result in results])
    if chart_dir is not None:
        for drawn in charts.draw(report, chart_dir):
            line(f"chart    {drawn}")
    _fill(documents, report)
    _show(report, as_json=as_json)


def _fill(path: Path | None, report: Report) -> None:
    if path is not None and (missing := document.fill(path, report)):
        line(f"the result has nothing for {', '.join(missing)}: these places of {path} stay as they were", style="yellow")


def _show(report: Report, *, as_json: bool) -> None:
    if as_json:
        json_document({**asdict(report), "verdicts": [asdict(verdict) for verdict in verdicts.judge(report)]})
        return
    OUT.print(tables.machine_line(report), markup=False, soft_wrap=True)
    for table in tables.as_rich(tables.tables(report)):
        OUT.print(table)
    for note in report.notes:
        line(note, style="yellow")
    for failure in report.failures:
        line(failure, style="red")


def _sizes(texts: list[str]) -> list[int]:
    """`["10k", "500"]` as rising numbers. Raises typer.BadParameter, which exits with 2."""
    found = set()
    for text in texts:
        match = _SIZE.fullmatch(text)
        number = int(match[1]) * (1000 if match[2] else 1) if match else 0
        if not _MIN_SIZE <= number <= _MAX_SIZE:
            raise typer.BadParameter(f"{text!r} is not a number from {_MIN_SIZE} to 1000k", param_hint="--size")
        found.add(number)
    return sorted(found)


def _export(models: Path) -> None:
    """Makes the exported model unless it is there. Raises UnavailableError."""
    command, environment = export_command(models)
    if subprocess.run(command, env=environment, check=False, stdout=_STDERR).returncode != 0:  # noqa: S603 - our own module, no shell
        raise UnavailableError("the model could not be exported", component="embedding_model")


async def _interruptible(plan: Plan, save: Callable[[Report], None]) -> Report:
    """Runs the plan; Ctrl-C and SIGTERM cancel it, which stops every process first."""
    from services.cli.bench import run  # noqa: PLC0415 - loads the model's run time, which no other command needs

    task = asyncio.current_task()
    if task is None:
        raise AssertionError("a coroutine that runs has a task")

    def interrupt() -> None:
        task.cancel()

    with handled_signals(interrupt):
        return await run.run(plan, save)

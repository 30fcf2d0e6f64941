"""`kb chaos`."""

from __future__ import annotations

import asyncio
import subprocess
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from services.cli import options
from services.cli.bench import machine
from services.cli.chaos import report
from services.cli.chaos.matrix import ROWS
from services.cli.chaos.outcome import Outcome
from services.cli.chaos.plan import Plan
from services.cli.chaos.rig import quick_settings
from services.cli.chaos.row import Row
from services.cli.chaos.run import Runner
from services.cli.commands.model import export_command
from services.cli.console import OUT, json_document, line
from services.cli.signals import handled_signals
from services.cli.stack import lock
from shared.errors import UnavailableError

EXAMPLES = options.examples(
    "kb chaos",
    "kb chaos --list",
    "kb chaos --only 1 --only 2 --recovery 30",
    "kb chaos --json | jq '.rows[] | select(.checks | any(.kept | not))'",
    "kb chaos --output docs",
)
_STDERR = 2  # where what the exporter says goes: stdout is for results


def chaos(
    *,
    only: Annotated[list[str] | None, typer.Option("--only", metavar="ROW", help="Only this row of the matrix. Repeatable.")] = None,
    list_rows: Annotated[bool, typer.Option("--list", help="Show the matrix, and what this machine can run of it, and stop.")] = False,
    as_json: options.Json = False,
    seconds: Annotated[float, typer.Option("--seconds", min=2, max=600, metavar="SECONDS", help="How long each fault lasts.")] = 10.0,
    recovery: Annotated[
        float,
        typer.Option("--recovery", min=1, max=600, metavar="SECONDS", help="KB_BREAKER_RECOVERY, which is 30 unless it is set."),
    ] = 10.0,
    output: Annotated[
        Path | None,
        typer.Option("--output", metavar="DIR", file_okay=False, help="Write chaos.json here, and the tables into reliability.md if it is here."),
    ] = None,
    data_dir: options.DataDir = options.DEFAULT_DATA_DIR,
    model_dir: options.ModelDir = None,
) -> None:
    """Break things on purpose, under load, and see whether the promises are kept. Some ten minutes for the whole matrix.

    Starts ChromaDB, the indexer and the query service in a temporary folder and on free ports; a stack that runs is left alone. Then
    one fault after the other is put in while searches and writes go on at a fixed rate, and taken out again; afterwards every document that
    was acknowledged is looked for. The exit status is 1 if a promise was broken. Settings of the environment (KB_…) hold for the stack, too.
    """
    rows = _chosen(only or [])
    if list_rows:
        OUT.print(report.matrix(rows).rich())
        return
    models = model_dir or data_dir / "models"
    command, environment = export_command(models)
    if subprocess.run(command, env=environment, check=False, stdout=_STDERR).returncode != 0:  # noqa: S603 - our own module, no shell
        raise UnavailableError("the model could not be exported", component="embedding_model")
    plan = Plan(seconds=seconds, recovery=recovery)
    settings, described = quick_settings(plan), machine.describe()
    said = report.conditions(plan, settings, described)
    for text in said:
        line(text, style="dim")
    try:
        outcomes = options.run(_run(rows, models.resolve(), plan))
    except asyncio.CancelledError:
        line("kb: interrupted; everything is stopped", style="red")
        raise typer.Exit(1) from None
    form = report.as_json(outcomes, plan, settings, described)
    if output is not None:
        for path in report.save(output, outcomes, form, said):
            line(f"written  {path}")
    if as_json:
        json_document(form)
    else:
        OUT.print(report.table(outcomes).rich())
    broken = [(outcome, check) for outcome in outcomes for check in outcome.broken]
    for outcome, check in broken:
        line(f"row {outcome.row}, {outcome.fault}: {check.promise}: {check.seen}", style="red")
    if broken:
        raise typer.Exit(1)


def _chosen(names: list[str]) -> Sequence[Row]:
    """Rows by their names, all if there are none. Raises typer.BadParameter, which exits with 2."""
    known = {row.name for row in ROWS}
    if unknown := [name for name in names if name not in known]:
        raise typer.BadParameter(f"there is no row {', '.join(unknown)}: `kb chaos --list` shows them", param_hint="--only")
    return [row for row in ROWS if not names or row.name in names]


async def _run(rows: Sequence[Row], models: Path, plan: Plan) -> list[Outcome]:
    """Runs the rows. Cancelled by Ctrl-C and SIGTERM, it stops everything first."""
    task = asyncio.current_task()
    if task is None:
        raise AssertionError("a coroutine that runs has a task")

    def interrupt() -> None:
        task.cancel()

    outcomes: list[Outcome] = []
    with handled_signals(interrupt), ExitStack() as held:
        folder = Path(held.enter_context(tempfile.TemporaryDirectory(prefix="kb-chaos-", ignore_cleanup_errors=True)))
        held.enter_context(lock.exclusive(folder))
        async with Runner(folder, models, plan) as runner:
            for number, row in enumerate(rows, start=1):
                began = time.monotonic()
                outcome = await runner.run(row)
                _tell(f"{number} of {len(rows)}", outcome, time.monotonic() - began)
                outcomes.append(outcome)
    return outcomes


def _tell(position: str, outcome: Outcome, seconds: float) -> None:
    name = f"{position}  row {outcome.row}, {outcome.fault}"
    if outcome.skipped is not None:
        line(f"{name}: not run, {outcome.skipped}", style="yellow")
    elif outcome.broken:
        line(f"{name}: {len(outcome.broken)} of {len(outcome.checks)} promises broken ({seconds:.0f} s)", style="red")
    else:
        line(f"{name}: {len(outcome.checks)} promises kept ({seconds:.0f} s)", style="green")

"""`kb observe --check`."""

from __future__ import annotations

import asyncio
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from services.cli import options
from services.cli.commands.model import export_command
from services.cli.console import OUT, json_document, line
from services.cli.observe import dashboard, report
from services.cli.observe.programs import find_programs
from services.cli.observe.scenario import Pace, watched
from services.cli.signals import handled_signals
from services.cli.stack import lock
from shared.errors import ConfigurationError, UnavailableError

if TYPE_CHECKING:
    from services.cli.observe.check import Finding

_STDERR = 2  # where what the exporter says goes: stdout is for results


def run_check(models: Path, *, as_json: bool, previews: Path | None) -> None:
    """Runs the check and shows what it found; exits with 1 if something returned nothing.

    Raises:
        ConfigurationError: a development library is missing.
        FailedPreconditionError: Prometheus or Alertmanager is missing.
        UnavailableError: a process does not start.
    """
    _require(drawing=previews is not None)
    find_programs()
    command, environment = export_command(models)
    if subprocess.run(command, env=environment, check=False, stdout=_STDERR).returncode != 0:  # noqa: S603 - our own module, no shell
        raise UnavailableError("the model could not be exported", component="embedding_model")
    if previews is not None:
        previews.mkdir(parents=True, exist_ok=True)
    try:
        findings = options.run(_run(models.resolve(), previews))
    except asyncio.CancelledError:
        line("kb: interrupted; everything is stopped", style="red")
        raise typer.Exit(1) from None
    if as_json:
        json_document(report.as_json(findings))
    else:
        OUT.print(report.table(findings).rich())
    line(report.summary(findings), style="red" if report.broken(findings) else "green")
    if report.broken(findings):
        raise typer.Exit(1)


def _require(*, drawing: bool) -> None:
    try:
        import promql_parser  # noqa: F401, PLC0415 - a development extra, which the other commands do without
    except ImportError as error:
        raise ConfigurationError("the check needs promql-parser: pip install -e '.[dev]'") from error
    if drawing:
        try:
            import matplotlib as mpl  # noqa: PLC0415 - same, and slow to import
        except ImportError as error:
            raise ConfigurationError("previews need matplotlib: pip install -e '.[bench]'") from error
        mpl.use("Agg")


async def _run(models: Path, previews: Path | None) -> Sequence[Finding]:
    """Cancelled by Ctrl-C and SIGTERM, it stops everything first."""
    from services.cli.observe import check  # noqa: PLC0415 - needs what `_require` has looked for

    task = asyncio.current_task()
    if task is None:
        raise AssertionError("a coroutine that runs has a task")

    def interrupt() -> None:
        task.cancel()

    with handled_signals(interrupt), ExitStack() as held:
        folder = Path(held.enter_context(tempfile.TemporaryDirectory(prefix="kb-observe-", ignore_cleanup_errors=True)))
        held.enter_context(lock.exclusive(folder))
        shown = dashboard.load()
        async with watched(folder, models, Pace(), line) as live:
            line("asking Prometheus for everything that the dashboard and the rules ask it")
            prometheus = live.monitoring.prometheus
            findings = await check.check(prometheus, shown, live.began)
            if previews is not None:
                from services.cli.observe.previews import draw  # noqa: PLC0415 - same

                for path in await draw(prometheus, shown, check.choices(shown, live.began), live.began, previews):
                    line(f"drawn    {path}")
        return findings

"""`kb observe`."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from services.cli import options
from services.cli.commands.observe_check import run_check
from services.cli.console import line, result
from services.cli.foreground import until_asked
from services.cli.observe.monitoring import Monitoring, MonitoringPorts, Targets
from services.cli.stack.process import ManagedProcess
from services.cli.stack.stack import Ports
from services.cli.supervisor import how_it_ended
from shared.errors import UnavailableError

EXAMPLES = options.examples(
    "kb observe",
    "kb observe --scrape-interval 1",
    "kb observe --query-metrics 10.0.0.7:9102 --query-metrics 10.0.0.8:9102",
    "kb observe --check --previews docs/images/dashboard",
)

_SERVICES = Ports()
_DEFAULTS = MonitoringPorts()
_HOST = "127.0.0.1"
_FOLDER = "observe"  # within the data dir

QueryMetrics = Annotated[
    list[str] | None,
    typer.Option(metavar="HOST:PORT", help=f"/metrics of a query service; repeatable. Default: {_HOST}:{_SERVICES.query_http}."),
]
IndexerMetrics = Annotated[
    list[str] | None, typer.Option(metavar="HOST:PORT", help=f"/metrics of an indexer; repeatable. Default: {_HOST}:{_SERVICES.indexer_http}.")
]
Port = Annotated[int, typer.Option(min=1, max=65535, metavar="PORT")]


def observe(  # noqa: PLR0913 - one option a port and a target
    *,
    data_dir: options.DataDir = options.DEFAULT_DATA_DIR,
    prometheus_port: Port = _DEFAULTS.prometheus,
    alertmanager_port: Port = _DEFAULTS.alertmanager,
    query_metrics: QueryMetrics = None,
    indexer_metrics: IndexerMetrics = None,
    # More than half a minute, and alerts on absence would fire at the start.
    scrape_interval: Annotated[float, typer.Option(min=0.1, max=30, metavar="SECONDS", help="Seconds between two scrapes.")] = 15.0,
    check: Annotated[
        bool,
        typer.Option("--check", help="Instead: ask everything that the dashboard and the rules ask, of a stack of its own under load."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="With --check: JSON instead of a table.")] = False,
    previews: Annotated[
        Path | None, typer.Option("--previews", metavar="DIR", file_okay=False, help="With --check: draw the dashboard's rows into PNGs here.")
    ] = None,
    model_dir: options.ModelDir = None,
) -> None:
    """Run Prometheus and Alertmanager beside a running `kb up` until Ctrl-C, with the rules and alerts of deployments/.

    Both listen on the loopback interface. What was measured is kept in `observe` in the data dir, for 30 days. The services need not be up yet.

    With --check it starts a stack of its own instead, with a Prometheus that watches it, puts load on it, kills ChromaDB and starts it again;
    then asks the expression of every panel, alert and recording rule, and shows what each returned: two minutes. The exit status is 1 if
    one returned nothing.
    """
    if check:
        run_check(model_dir or data_dir / "models", as_json=as_json, previews=previews)
        return
    if as_json or previews is not None:
        raise typer.BadParameter("it goes with --check", param_hint="--json" if as_json else "--previews")
    ports = MonitoringPorts(prometheus_port, alertmanager_port)
    targets = Targets(tuple(query_metrics or (f"{_HOST}:{_SERVICES.query_http}",)), tuple(indexer_metrics or (f"{_HOST}:{_SERVICES.indexer_http}",)))
    ports.check_free()
    options.run(until_asked(_serve(Monitoring(Path(data_dir) / _FOLDER, targets, ports, scrape_seconds=scrape_interval), targets)))


async def _serve(monitoring: Monitoring, targets: Targets) -> None:
    try:
        await monitoring.start(_started)
        _announce(monitoring, targets)
        await _until_one_ends(monitoring)
    finally:
        await monitoring.stop()


async def _until_one_ends(monitoring: Monitoring) -> None:
    """Raises UnavailableError when either has ended."""
    waits = {asyncio.create_task(process.wait()): process for process in monitoring.processes}
    try:
        ended, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
        await asyncio.gather(*waits, return_exceptions=True)
    first = ended.pop()
    process = waits[first]
    raise UnavailableError(f"{process.name} {how_it_ended(first.result())}: see {process.log}", component=process.name)


def _started(process: ManagedProcess) -> None:
    line(f"{process.name} is ready (process {process.pid})")


def _announce(monitoring: Monitoring, targets: Targets) -> None:
    result(f"Prometheus    {monitoring.prometheus_url}   targets {monitoring.prometheus_url}/targets, alerts {monitoring.prometheus_url}/alerts")
    result(f"Alertmanager  {monitoring.alertmanager_url}")
    result(f"scraped       {', '.join((*targets.query, *targets.indexer))}")
    result(f"kept in       {monitoring.folder}")
    result("Ctrl-C stops both.")

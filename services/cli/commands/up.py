"""`kb up`."""

from __future__ import annotations

from typing import Annotated

import typer

from services.cli import options
from services.cli.console import line, result
from services.cli.foreground import until_asked
from services.cli.stack import lock
from services.cli.stack.process import ManagedProcess
from services.cli.stack.stack import Ports, Stack
from services.cli.supervisor import start, supervise

EXAMPLES = options.examples("kb up", "kb up --data-dir /var/lib/kb --indexer-port 6001 --query-port 6002")

_DEFAULTS = Ports()
Port = Annotated[int, typer.Option(min=1, max=65535, metavar="PORT")]


def up(  # noqa: PLR0913 - one option a port
    *,
    data_dir: options.DataDir = options.DEFAULT_DATA_DIR,
    model_dir: options.ModelDir = None,
    indexer_port: Port = _DEFAULTS.indexer,
    indexer_http_port: Port = _DEFAULTS.indexer_http,
    indexer_health_port: Port = _DEFAULTS.indexer_health,
    query_port: Port = _DEFAULTS.query,
    query_http_port: Port = _DEFAULTS.query_http,
    query_health_port: Port = _DEFAULTS.query_health,
    chroma_port: Port = _DEFAULTS.chroma,
) -> None:
    """Run ChromaDB, the indexer and the query service on this machine until Ctrl-C.

    All listen on the loopback interface. ChromaDB is started again when it dies; when a service dies, all are stopped and the exit status is 1.
    """
    ports = Ports(
        indexer=indexer_port,
        indexer_http=indexer_http_port,
        indexer_health=indexer_health_port,
        query=query_port,
        query_http=query_http_port,
        query_health=query_health_port,
        chroma=chroma_port,
    )
    lock.check_unused(data_dir)  # first: with the default ports too, the folder is what is wrong
    ports.check_free()
    with lock.exclusive(data_dir):
        options.run(until_asked(_serve(Stack(data_dir, model_dir or data_dir / "models", ports))))


async def _serve(stack: Stack) -> None:
    try:
        await start(stack, line, _started)
        _announce(stack)
        await supervise(stack, line)
    finally:
        await stack.stop()


def _started(process: ManagedProcess) -> None:
    line(f"{process.name} is ready (process {process.pid})")


def _announce(stack: Stack) -> None:
    indexer, query, ports = stack.indexer_address, stack.query_address, stack.ports
    if not any(stack.model_dir.glob("*/manifest.json")):
        line(f"there is no exported model in {stack.model_dir}: nothing is found by meaning until `kb model` has run", style="yellow")
    result(f"indexer   {indexer}   metrics and health on http://127.0.0.1:{ports.indexer_http}, probes on {ports.indexer_health}")
    result(f"query     {query}   metrics and health on http://127.0.0.1:{ports.query_http}, probes on {ports.query_health}")
    result(f"ChromaDB  {stack.chroma_url}")
    result(f"logs      {stack.data_dir / 'logs'}")
    result(f"try       grpcurl -plaintext {query} list")
    result("Ctrl-C stops everything.")

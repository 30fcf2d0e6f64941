"""`kb log-level`."""

from __future__ import annotations

import asyncio
import enum
from typing import Annotated, Literal

import typer
from rich.table import Table
from rich.text import Text

from services.cli import options
from services.cli.console import OUT, json_document
from shared.client import KnowledgeBeast, LoggerLevel

EXAMPLES = options.examples(
    "kb log-level",
    "kb log-level --service query services.query.replica debug",
    "kb log-level root warning",
    "kb log-level --service query services.query.replica reset",
)

_BOTH: tuple[Literal["indexer", "query"], ...] = ("indexer", "query")


class Service(enum.StrEnum):
    """Whose levels."""

    INDEXER = "indexer"
    QUERY = "query"


class Level(enum.StrEnum):
    """What a logger is set to."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"
    RESET = "reset"


def log_level(
    logger: Annotated[str | None, typer.Argument(metavar="LOGGER", help="Name of the logger; `root` is the one above all others.")] = None,
    level: Annotated[
        Level | None, typer.Argument(metavar="LEVEL", help="debug, info, warning or error; reset gives it back what the settings say.")
    ] = None,
    *,
    service: Annotated[Service | None, typer.Option("--service", "-s", help="One service alone. Default: both.")] = None,
    as_json: options.Json = False,
    indexer: options.Indexer = options.DEFAULT_INDEXER,
    query: options.Query = options.DEFAULT_QUERY,
    timeout: options.Timeout = options.DEFAULT_TIMEOUT,
) -> None:
    """Show what the services log, or change it while they run.

    A level holds for the logger and those below it, until it is set again or the process ends: one that starts logs what KB_LOG_LEVEL and
    KB_LOG_LEVELS say. Each change is itself a line of the service's log. Searches and writes are not touched.
    """
    if logger is not None and level is None:
        raise typer.BadParameter("give a LEVEL with the LOGGER: debug, info, warning, error or reset", param_hint="LEVEL")
    wanted = [name for name in _BOTH if service in {None, name}]

    async def work() -> list[list[LoggerLevel]]:
        async with KnowledgeBeast(indexer, query, timeout=timeout) as kb:
            if logger is None:
                return await asyncio.gather(*(kb.log_levels(name) for name in wanted))
            value = None if level is Level.RESET or level is None else level.value
            return await asyncio.gather(*(kb.set_log_level(name, logger, value) for name in wanted))

    found = dict(zip(wanted, options.run(work()), strict=True))
    if as_json:
        json_document({name: [{"logger": each.logger, "level": each.level, "changed": each.changed} for each in of] for name, of in found.items()})
    else:
        OUT.print(_table(found))


def _table(found: dict[Literal["indexer", "query"], list[LoggerLevel]]) -> Table:
    """A line a logger."""
    table = Table("service", "logger", "level", "", box=None, padding=(0, 2, 0, 0), header_style="bold")
    for name, levels in found.items():
        for each in levels:
            table.add_row(name, Text(each.logger), each.level, Text("changed", style="yellow") if each.changed else "")
    return table

"""Options that several commands share, and how examples stand in `--help`."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from services.cli.console import line
from services.cli.filter_syntax import parse_filters
from services.cli.values import parse_scalar
from shared.domain import MetadataScalar
from shared.errors import InvalidArgumentError
from shared.filters import Filter

_Result = TypeVar("_Result")

Indexer = Annotated[str, typer.Option("--indexer", metavar="HOST:PORT", envvar="KB_INDEXER_ADDRESS", help="Where the indexer listens.")]
Query = Annotated[str, typer.Option("--query", metavar="HOST:PORT", envvar="KB_QUERY_ADDRESS", help="Where the query service listens.")]
Timeout = Annotated[float, typer.Option("--timeout", metavar="SECONDS", min=0.001, help="How long each call may take.")]
Json = Annotated[bool, typer.Option("--json", help="JSON instead of a table.")]
JsonLines = Annotated[bool, typer.Option("--json", help="JSON Lines, one object a line, instead of a table.")]
ProjectName = Annotated[str, typer.Option("--project", "-p", metavar="ID", envvar="KB_PROJECT", help="Id of the project.")]
DataDir = Annotated[Path, typer.Option("--data-dir", envvar="KB_DATA_DIR", file_okay=False, help="Where everything is kept.")]
ModelDir = Annotated[
    Path | None,
    typer.Option("--model-dir", envvar="KB_MODEL_DIR", file_okay=False, help="Folder of exported models. Default: `models` in the data dir."),
]

Filters = Annotated[
    list[str] | None,
    typer.Option(
        "--filter",
        "-f",
        metavar="FILTER",
        help="Condition on metadata: year>=2020, lang=en, `lang in de,en`, title~retry (contains), author? (has the field), `not …`. "
        "Repeatable: all must match.",
    ),
]

TopK = Annotated[int | None, typer.Option("--top-k", "-k", min=1, max=1000, help="Number of hits. Default: 10.")]
Fresh = Annotated[str | None, typer.Option("--fresh", metavar="TOKEN", help="See at least the write that gave this consistency token.")]
NoDegraded = Annotated[bool, typer.Option("--no-degraded", help="Fail rather than give a degraded answer.")]

DEFAULT_INDEXER = "127.0.0.1:50051"
DEFAULT_QUERY = "127.0.0.1:50052"
DEFAULT_DATA_DIR = Path(".kb")
DEFAULT_TIMEOUT = 10.0


def examples(*lines: str) -> str:
    """An epilog for `--help`. Blank lines between, because the help formatter joins neighbouring lines."""
    return "\n\n".join(("Examples:", *lines))


def run(work: Coroutine[Any, Any, _Result]) -> _Result:
    """Runs the asynchronous part of a command."""
    return asyncio.run(work)


def confirm(question: str) -> None:
    """Asks on stderr. Raises typer.Exit with status 1 unless the answer is yes."""
    ended = False
    try:
        agreed = typer.confirm(question, err=True)
    except typer.Abort:
        agreed, ended = False, True
    if agreed:
        return
    if ended or not sys.stdin.isatty():
        line("")  # nobody's return key has ended the line of the question
    line("Aborted.", style="red")
    raise typer.Exit(1)


def key_values(option: str, pairs: list[str]) -> dict[str, str]:
    """`["a=1", "b=x"]` as a dict of text. Raises typer.BadParameter, which exits with 2."""
    found: dict[str, str] = {}
    for pair in pairs:
        key, separator, value = pair.partition("=")
        if not separator or not key.strip():
            raise typer.BadParameter(f"{pair!r} is not KEY=VALUE", param_hint=option)
        found[key.strip()] = value
    return found


def metadata_values(option: str, pairs: list[str]) -> dict[str, MetadataScalar]:
    """`["year=2020", "draft=true"]` with numbers and booleans as such; quotes keep a value text. Raises typer.BadParameter."""
    return {key: parse_scalar(value) for key, value in key_values(option, pairs).items()}


def conditions(filters: list[str] | None) -> Filter | None:
    """The filters of `--filter`, all of which must match. Raises typer.BadParameter."""
    try:
        return parse_filters(filters or [])
    except InvalidArgumentError as error:
        raise typer.BadParameter(error.violations[0].description, param_hint="--filter") from error

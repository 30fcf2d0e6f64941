"""`kb`: the entry point, and what an error looks like to a user."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import typer

from services.cli import demo
from services.cli.commands import (
    bench,
    chaos,
    document,
    ingest,
    log_level,
    model,
    observe,
    project,
    quality,
    quarantine,
    rebuild,
    search,
    similar,
    status,
    up,
    verify,
)
from services.cli.console import line
from services.cli.explain import explain
from shared.errors import KnowledgeBeastError

app = typer.Typer(
    name="kb",
    help="KnowledgeBeast: hybrid retrieval that keeps answering when the vector store is down. Exit status: 0 done, 1 failed, 2 wrong usage.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    epilog='Begin with `kb up` in one terminal; then `kb ingest docs -p notes --create` and `kb search "words" -p notes` in another.',
)
app.command(epilog=up.EXAMPLES)(up.up)
app.command(epilog=model.EXAMPLES)(model.model)
app.command(epilog=ingest.EXAMPLES)(ingest.ingest)
app.command(epilog=search.EXAMPLES)(search.search)
app.command(epilog=similar.EXAMPLES)(similar.similar)
app.command(epilog=status.EXAMPLES)(status.status)
app.command(epilog=demo.EXAMPLES)(demo.demo)
app.command(epilog=rebuild.EXAMPLES)(rebuild.rebuild)
app.command(epilog=verify.EXAMPLES)(verify.verify)
app.command("log-level", epilog=log_level.EXAMPLES)(log_level.log_level)
app.command(epilog=observe.EXAMPLES)(observe.observe)
app.command(epilog=quality.EXAMPLES)(quality.quality)
app.command(epilog=chaos.EXAMPLES)(chaos.chaos)
app.add_typer(bench.app, name="bench")
app.add_typer(project.app, name="project")
app.add_typer(document.app, name="document")
app.add_typer(quarantine.app, name="quarantine")


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs one command and exits: 0 done, 1 failed, 2 wrong usage. An expected error is one clear line on stderr, no stack trace."""
    try:
        app(args=None if arguments is None else list(arguments))
    except KnowledgeBeastError as error:
        line(f"kb: {explain(error)}", style="red")
        sys.exit(1)
    except OSError as error:  # of this machine's files and sockets; nothing else in `kb` raises it
        line(f"kb: {error.filename or ''}{': ' if error.filename else ''}{error.strerror or error}", style="red")
        sys.exit(1)

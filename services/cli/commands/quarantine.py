"""`kb quarantine`."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from services.cli import options
from services.cli.console import OUT, json_document, json_line, line, result
from services.cli.json_forms import iso_time
from shared.client import KnowledgeBeast, QuarantinedChunk

app = typer.Typer(help="Show and retry chunks that could not be embedded, or that ChromaDB refuses while it takes others.", no_args_is_help=True)

_ROWS = 500  # rows of a table; a longer list is several tables, so that memory stays bounded


@app.command("list", epilog=options.examples("kb quarantine list", "kb quarantine list notes", "kb quarantine list --json | jq -r .reason"))
def list_(
    project: Annotated[str, typer.Argument(metavar="[PROJECT]", help="Id of the project. Default: all projects.", show_default=False)] = "",
    *,
    as_json: options.JsonLines = False,
    indexer: options.Indexer = options.DEFAULT_INDEXER,
    timeout: options.Timeout = options.DEFAULT_TIMEOUT,
) -> None:
    """List chunks in quarantine: where they failed, how often and why. Search finds them by keyword, and not by meaning."""

    async def work() -> None:
        shown: list[QuarantinedChunk] = []
        found = False
        async with KnowledgeBeast(indexer, timeout=timeout) as kb:
            async for chunk in kb.list_quarantined_chunks(project):
                found = True
                if as_json:
                    json_line(_form(chunk))
                    continue
                shown.append(chunk)
                if len(shown) >= _ROWS:
                    OUT.print(_table(shown))
                    shown.clear()
        if shown:
            OUT.print(_table(shown))
        if not found:
            line("nothing is in quarantine")

    options.run(work())


@app.command(epilog=options.examples("kb quarantine retry notes", "kb quarantine retry notes 'guide.md#0f3a81c2b6d94e57'"))
def retry(
    project: Annotated[str, typer.Argument(metavar="PROJECT", help="Id of the project.")],
    chunk_ids: Annotated[list[str] | None, typer.Argument(metavar="[CHUNK]...", help="Ids of chunks. Default: all of the project.")] = None,
    *,
    as_json: options.Json = False,
    indexer: options.Indexer = options.DEFAULT_INDEXER,
    timeout: options.Timeout = options.DEFAULT_TIMEOUT,
) -> None:
    """Try chunks in quarantine again, for example after an upgrade. Those that fail again come back to the list."""

    async def work() -> int:
        async with KnowledgeBeast(indexer, timeout=timeout) as kb:
            return await kb.retry_quarantined_chunks(project, chunk_ids or ())

    retried = options.run(work())
    if as_json:
        json_document({"retried_count": retried})
    else:
        result(f"{'1 chunk is' if retried == 1 else f'{retried:,} chunks are'} tried again")


def _table(chunks: list[QuarantinedChunk]) -> Table:
    """A line a chunk."""
    table = Table("project", "chunk", "stage", "failures", "since (UTC)", "reason", box=None, padding=(0, 2, 0, 0), header_style="bold")
    for chunk in chunks:
        since = f"{chunk.time:%Y-%m-%d %H:%M:%S}"
        table.add_row(Text(chunk.project_id), Text(chunk.chunk_id), chunk.stage.value, str(chunk.failures), since, Text(chunk.reason))
    return table


def _form(chunk: QuarantinedChunk) -> dict[str, Any]:
    """Stable keys."""
    return {
        "project_id": chunk.project_id,
        "document_id": chunk.document_id,
        "chunk_id": chunk.chunk_id,
        "ordinal": chunk.ordinal,
        "stage": chunk.stage.value,
        "reason": chunk.reason,
        "failures": chunk.failures,
        "quarantine_time": iso_time(chunk.time),
    }

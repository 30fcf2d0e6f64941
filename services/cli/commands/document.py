"""`kb document`."""

from __future__ import annotations

from typing import Annotated

import typer

from services.cli import json_forms, options, render
from services.cli.console import OUT, json_document, json_line, result
from shared.client import DeleteResult, KnowledgeBeast
from shared.domain import Document

app = typer.Typer(help="List, read and delete documents.", no_args_is_help=True)

_ROWS = 500  # rows of a table; a longer list is several tables, so that memory stays bounded


@app.command(
    "list",
    epilog=options.examples(
        "kb document list -p notes", "kb document list -p notes --filter kind=md --limit 20", "kb document list -p notes --json | jq -r .id"
    ),
)
def list_(
    project: options.ProjectName,
    *,
    filters: options.Filters = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="At most so many. Default: all.")] = None,
    as_json: options.JsonLines = False,
    indexer: options.Indexer = options.DEFAULT_INDEXER,
    timeout: options.Timeout = options.DEFAULT_TIMEOUT,
) -> None:
    """List documents in the order of their ids, without their text."""
    condition = options.conditions(filters)

    async def work() -> None:
        shown: list[Document] = []
        count = 0
        async with KnowledgeBeast(indexer, timeout=timeout) as kb:
            async for document in kb.list_documents(project, filter=condition, page_size=min(limit or 1000, 1000)):
                count += 1
                if as_json:
                    json_line(json_forms.document(document, whole=False))
                else:
                    shown.append(document)
                    if len(shown) >= _ROWS:
                        OUT.print(render.document_table(shown))
                        shown.clear()
                if count == limit:
                    break
        if shown:
            OUT.print(render.document_table(shown))

    options.run(work())


@app.command(epilog=options.examples("kb document get docs/guide.md -p notes", "kb document get docs/guide.md -p notes --json | jq .chunks"))
def get(
    document_id: Annotated[str, typer.Argument(metavar="DOCUMENT", help="Id of the document.")],
    project: options.ProjectName,
    *,
    as_json: options.Json = False,
    indexer: options.Indexer = options.DEFAULT_INDEXER,
    timeout: options.Timeout = options.DEFAULT_TIMEOUT,
) -> None:
    """Print a document's text; with --json, everything about it."""

    async def work() -> Document:
        async with KnowledgeBeast(indexer, timeout=timeout) as kb:
            return await kb.get_document(project, document_id)

    document = options.run(work())
    if as_json:
        json_document(json_forms.document(document, whole=True))
    else:
        result(document.text)


@app.command(epilog=options.examples("kb document delete docs/old.md -p notes", "kb document delete -p notes --filter year<2010 --yes"))
def delete(
    project: options.ProjectName,
    document_ids: Annotated[list[str] | None, typer.Argument(metavar="[DOCUMENT]...", help="Ids; those that are not there are no error.")] = None,
    *,
    filters: options.Filters = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before deleting by filter.")] = False,
    as_json: options.Json = False,
    indexer: options.Indexer = options.DEFAULT_INDEXER,
    timeout: options.Timeout = options.DEFAULT_TIMEOUT,
) -> None:
    """Delete documents by id, or all that match a filter."""
    if bool(document_ids) == bool(filters):
        raise typer.BadParameter("give either ids or --filter")
    condition = options.conditions(filters)
    if condition is not None and not yes:
        options.confirm(f"Delete every document of {project} that matches?")

    async def work() -> DeleteResult:
        async with KnowledgeBeast(indexer, timeout=timeout) as kb:
            return await kb.delete_documents(project, document_ids or (), filter=condition)

    deleted = options.run(work())
    if as_json:
        json_document({"deleted_count": deleted.deleted_count, "consistency_token": deleted.consistency_token})
    else:
        result(f"deleted {deleted.deleted_count:,} documents; consistency token {deleted.consistency_token}")

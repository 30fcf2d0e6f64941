"""`kb project`."""

from __future__ import annotations

from typing import Annotated

import typer

from services.cli import json_forms, options, render
from services.cli.commands import keyword_options
from services.cli.console import OUT, json_document, json_line, result
from shared.client import KnowledgeBeast
from shared.domain import ChunkingSettings, Project

app = typer.Typer(help="Create, list, show, change and delete projects.", no_args_is_help=True)

_ROWS = 500  # rows of a table; a longer list is several tables, so that memory stays bounded

ProjectId = Annotated[str, typer.Argument(metavar="PROJECT", help="Id: 1 to 63 of a-z, 0-9 and `-`.")]
DisplayName = Annotated[str | None, typer.Option("--name", help="Name for people.")]
Description = Annotated[str | None, typer.Option("--description", help="Free text.")]
Labels = Annotated[list[str] | None, typer.Option("--label", metavar="KEY=VALUE", help="A label. Repeatable.")]
Etag = Annotated[str, typer.Option("--etag", help="Only while this is the project's etag (`kb project show --json`).")]


def _show(project: Project, *, as_json: bool) -> None:
    if as_json:
        json_document(json_forms.project(project))
    else:
        render.project_details(project)


async def _get(project_id: str, indexer: str, timeout: float) -> Project:
    async with KnowledgeBeast(indexer, timeout=timeout) as kb:
        return await kb.get_project(project_id)


@app.command(
    epilog=options.examples(
        "kb project create notes",
        "kb project create papers --name Papers --label team=search --max-tokens 128",
        "kb project create handbuch --language german --stop-word bzw --stop-word ggf",
        "kb project create logs --language none",
    )
)
def create(  # noqa: PLR0913 - one an option
    project_id: ProjectId,
    *,
    name: DisplayName = None,
    description: Description = None,
    label: Labels = None,
    model: Annotated[str, typer.Option("--model", help="Embedding model. Default: the service's.")] = "",
    max_tokens: Annotated[int | None, typer.Option("--max-tokens", min=0, help="Tokens of a chunk at most; 0 is the model's limit.")] = None,
    overlap_tokens: Annotated[int | None, typer.Option("--overlap-tokens", min=0, help="Tokens a chunk repeats of the one before.")] = None,
    language: keyword_options.Language = keyword_options.DEFAULT_LANGUAGE,
    no_stemming: keyword_options.NoStemming = False,
    no_stop_words: keyword_options.NoStopWords = False,
    stop_word: keyword_options.StopWords = None,
    as_json: options.Json = False,
    indexer: options.Indexer = options.DEFAULT_INDEXER,
    timeout: options.Timeout = options.DEFAULT_TIMEOUT,
) -> None:
    """Create a project. Model, chunking, language and stop words are fixed at creation."""
    chunking = None
    if max_tokens is not None or overlap_tokens is not None:
        # 32 is what the service takes for an overlap that is not set, 0 for the model's limit.
        chunking = ChunkingSettings(max_tokens or 0, 32 if overlap_tokens is None else overlap_tokens)
    keyword = keyword_options.settings(language, no_stemming=no_stemming, no_stop_words=no_stop_words, stop_words=stop_word)
    labels = options.key_values("--label", label or [])

    async def work() -> Project:
        async with KnowledgeBeast(indexer, timeout=timeout) as kb:
            return await kb.create_project(
                project_id,
                display_name=name or "",
                description=description or "",
                labels=labels,
                embedding_model=model,
                chunking=chunking,
                keyword=keyword,
            )

    project = options.run(work())
    if as_json:
        json_document(json_forms.project(project))
    else:
        result(f"created project {project.id} ({project.embedding_model})")


@app.command("list", epilog=options.examples("kb project list", "kb project list --json | jq -r .id"))
def list_(
    *, as_json: options.JsonLines = False, indexer: options.Indexer = options.DEFAULT_INDEXER, timeout: options.Timeout = options.DEFAULT_TIMEOUT
) -> None:
    """List the projects."""

    async def work() -> None:
        shown: list[Project] = []
        async with KnowledgeBeast(indexer, timeout=timeout) as kb:
            async for project in kb.list_projects():
                if as_json:
                    json_line(json_forms.project(project))
                    continue
                shown.append(project)
                if len(shown) >= _ROWS:
                    OUT.print(render.project_table(shown))
                    shown.clear()
        if shown:
            OUT.print(render.project_table(shown))

    options.run(work())


@app.command(epilog=options.examples("kb project show notes", "kb project show notes --json | jq .lag"))
def show(
    project_id: ProjectId,
    *,
    as_json: options.Json = False,
    indexer: options.Indexer = options.DEFAULT_INDEXER,
    timeout: options.Timeout = options.DEFAULT_TIMEOUT,
) -> None:
    """Show one project."""
    _show(options.run(_get(project_id, indexer, timeout)), as_json=as_json)


@app.command(epilog=options.examples("kb project update notes --name 'My notes'", "kb project update notes --label team=search --label stage=test"))
def update(  # noqa: PLR0913 - one an option
    project_id: ProjectId,
    *,
    name: DisplayName = None,
    description: Description = None,
    label: Labels = None,
    no_labels: Annotated[bool, typer.Option("--no-labels", help="Take all labels away.")] = False,
    etag: Etag = "",
    as_json: options.Json = False,
    indexer: options.Indexer = options.DEFAULT_INDEXER,
    timeout: options.Timeout = options.DEFAULT_TIMEOUT,
) -> None:
    """Change names and labels. Labels that are given replace all labels."""
    labels = options.key_values("--label", label or []) if label or no_labels else None
    if no_labels and label:
        raise typer.BadParameter("cannot be combined with --label", param_hint="--no-labels")
    if name is None and description is None and labels is None:
        raise typer.BadParameter("nothing to change: give --name, --description, --label or --no-labels")

    async def work() -> Project:
        async with KnowledgeBeast(indexer, timeout=timeout) as kb:
            return await kb.update_project(project_id, display_name=name, description=description, labels=labels, etag=etag)

    _show(options.run(work()), as_json=as_json)


@app.command(epilog=options.examples("kb project delete notes", "kb project delete notes --yes"))
def delete(
    project_id: ProjectId,
    *,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    etag: Etag = "",
    indexer: options.Indexer = options.DEFAULT_INDEXER,
    timeout: options.Timeout = options.DEFAULT_TIMEOUT,
) -> None:
    """Delete a project with all its documents and vectors."""
    if not yes:
        found = options.run(_get(project_id, indexer, timeout))
        documents = "1 document" if found.document_count == 1 else f"{found.document_count:,} documents"
        options.confirm(f"Delete project {project_id} with everything in it ({documents})?")

    async def work() -> int:
        async with KnowledgeBeast(indexer, timeout=timeout) as kb:
            return await kb.delete_project(project_id, etag=etag)

    result(f"deleted project {project_id} with {options.run(work()):,} documents")

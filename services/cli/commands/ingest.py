"""`kb ingest`."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from services.cli import options
from services.cli.commands import keyword_options
from services.cli.console import json_document, line
from services.cli.ingest.batch import batches
from services.cli.ingest.items import SourceFile
from services.cli.ingest.read import Reader
from services.cli.ingest.run import Ingestion
from services.cli.ingest.wait import wait_for_vectors
from services.cli.ingest.walk import Walk
from services.cli.progress import Meter
from shared.client import KnowledgeBeast
from shared.domain import KeywordSettings
from shared.errors import AlreadyExistsError, KnowledgeBeastError, NotFoundError

EXAMPLES = options.examples(
    "kb ingest docs --project notes --create --wait",
    "kb ingest src -p code --glob '*.py' --metadata team=search --metadata year=2024",
    "kb ingest corpus.jsonl report.pdf -p papers",
)


_LANGUAGE_HELP = "Language of the project's keyword search if it is created, as of `kb project create`. Default: english."

# Its own option: what bounds the wait must not by default.
Timeout = Annotated[
    float | None,
    typer.Option("--timeout", metavar="SECONDS", min=0.001, help="How long each call, and the whole of --wait, may take. Default: 10, no limit."),
]


def ingest(  # noqa: PLR0913 - one an option
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", readable=False, help="Files and folders.")],
    project: options.ProjectName,
    *,
    create: Annotated[bool, typer.Option("--create", help="Create the project if it is not there.")] = False,
    language: Annotated[str | None, typer.Option("--language", metavar="LANGUAGE", help=_LANGUAGE_HELP)] = None,
    glob: Annotated[list[str] | None, typer.Option("--glob", help="Only such files of folders, for example '*.md'. Repeatable.")] = None,
    metadata: Annotated[list[str] | None, typer.Option("--metadata", metavar="KEY=VALUE", help="Metadata for all documents. Repeatable.")] = None,
    relative_to: Annotated[Path | None, typer.Option("--relative-to", help="What ids are relative to. Default: the current directory.")] = None,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, max=1000, help="Documents a message.")] = 100,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until everything is searchable by meaning.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The summary as JSON on stdout.")] = False,
    indexer: options.Indexer = options.DEFAULT_INDEXER,
    query: options.Query = options.DEFAULT_QUERY,
    timeout: Timeout = None,
) -> None:
    """Write files into a project. Running it again writes only what has changed.

    Text of every kind is read as it is; HTML, PDF and Word files are converted to Markdown; a `.jsonl` file has one document a line with `id`,
    `text` and, if wanted, `title` and `metadata`. Binary and hidden files are left out. A document's id is its path relative to the current
    directory (relative to the folder that holds PATH when that is elsewhere), its title the first Markdown heading or the file's name, its
    metadata `path`, `modified` and `kind`. What cannot be read or is refused is said, and the rest goes on; the exit status is then 1, as it is
    when there are no files at all.
    """
    extra = options.metadata_values("--metadata", metadata or [])
    if language is not None and not create:
        raise typer.BadParameter("is a setting of a project that is created: add --create", param_hint="--language")
    keyword = keyword_options.settings(language or keyword_options.DEFAULT_LANGUAGE, no_stemming=False, no_stop_words=False, stop_words=None)
    walk = Walk(paths, glob or (), relative_to)

    async def work() -> Ingestion:
        files = await asyncio.to_thread(_count, walk)
        async with KnowledgeBeast(indexer, query, timeout=options.DEFAULT_TIMEOUT if timeout is None else timeout) as kb:
            await _prepare(kb, project, keyword if create else None)
            with Meter("ingesting", "files", files) as meter:
                ingestion = Ingestion(kb, project, meter)
                try:
                    await ingestion.run(batches(Reader(extra).read(walk), batch_size))
                except KnowledgeBeastError:
                    line(f"interrupted: {ingestion.summary()}. What is written stays; the same command again writes the rest.", style="red")
                    raise
            line(ingestion.summary(), style="red" if ingestion.failed else "green")
            if wait:
                with Meter("embedding", "changes") as meter:
                    await wait_for_vectors(kb, project, meter, timeout=timeout)
            return ingestion

    done = options.run(work())
    if as_json:
        counts = {"written": done.written, "unchanged": done.unchanged, "failed": done.failed, "skipped": done.skipped}
        json_document({**counts, "consistency_token": done.consistency_token})
    if done.failed:
        raise typer.Exit(1)


def _count(walk: Walk) -> int:
    """Number of files. Raises NotFoundError if there are none and nothing else can be said of the paths."""
    files = others = 0
    for item in walk:
        if isinstance(item, SourceFile):
            files += 1
        else:
            others += 1
    if not files and not others:
        where = ", ".join(map(str, walk.paths))
        matching = f" that match {' or '.join(walk.globs)}" if walk.globs else ""
        raise NotFoundError(f"No files found in {where}{matching} (hidden files are left out)")
    return files


async def _prepare(kb: KnowledgeBeast, project: str, create: KeywordSettings | None) -> None:
    """Creates the project with these settings unless it is there. Raises NotFoundError if it is not and there are none."""
    if create is not None:
        with suppress(AlreadyExistsError):
            await kb.create_project(project, keyword=create)
        return
    try:
        await kb.get_project(project)
    except NotFoundError as error:
        raise NotFoundError(f"there is no project {project}: create it with `kb project create {project}`, or add --create") from error

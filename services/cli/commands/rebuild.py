"""`kb rebuild`."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from services.cli import options
from services.cli.console import json_line, line, result
from services.cli.ingest.wait import explain_standstill
from services.cli.progress import Meter
from shared.client import KnowledgeBeast
from shared.domain import Project, ProjectState
from shared.errors import DeadlineExceededError

EXAMPLES = options.examples("kb rebuild notes", "kb rebuild --all --no-wait", "kb rebuild notes --json | jq .chunks_per_second")

_POLL = 0.25  # seconds between two looks at a project: the API has no call that waits for a rebuild
_EXPLAIN_AFTER = 3.0  # seconds without a vector after which it is said which component is at fault

# Its own option: what bounds the wait must not by default.
Timeout = Annotated[
    float | None,
    typer.Option("--timeout", metavar="SECONDS", min=0.001, help="How long each call, and the whole of the wait, may take. Default: 10, no limit."),
]


@dataclass(frozen=True, slots=True)
class _Rebuilt:
    """What became of one project, and how long it took; None if nobody waited."""

    project: Project
    seconds: float | None

    @property
    def rate(self) -> float | None:
        """Chunks a second."""
        return self.project.chunk_count / self.seconds if self.seconds else None


def rebuild(
    project: Annotated[str | None, typer.Argument(metavar="[PROJECT]", help="Id of the project.")] = None,
    *,
    every: Annotated[bool, typer.Option("--all", help="All projects, one after another.")] = False,
    restart: Annotated[bool, typer.Option("--restart", help="Begin again, although a rebuild is under way.")] = False,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until the vectors are back.")] = True,
    as_json: options.JsonLines = False,
    indexer: options.Indexer = options.DEFAULT_INDEXER,
    query: options.Query = options.DEFAULT_QUERY,
    timeout: Timeout = None,
) -> None:
    """Write a project's vectors to ChromaDB again, from the catalog.

    For a ChromaDB that was damaged or restored from elsewhere; nothing is embedded again. Searches are answered meanwhile with the query service's
    own vectors; of a project that has more chunks than those are kept of (KB_REPLICA_VECTORS_MAX), by keyword alone. A collection that ChromaDB has
    lost altogether is noticed and written again without this command. While ChromaDB is down this waits, and says so; interrupting it does not
    interrupt the rebuild. A rebuild that is under way goes on; `--restart` begins another, for one that does not come to its end because the new
    collection is damaged, too.
    """
    if (project is None) is not every:
        raise typer.BadParameter("give a PROJECT or --all, one of the two", param_hint="PROJECT")

    async def work() -> None:
        try:
            async with (
                KnowledgeBeast(indexer, query, timeout=options.DEFAULT_TIMEOUT if timeout is None else timeout) as kb,
                asyncio.timeout(timeout),
            ):
                ids = [found.id async for found in kb.list_projects()] if project is None else [project]
                for each in ids:
                    _show(await _rebuild(kb, each, restart=restart, wait=wait), as_json=as_json)
        except TimeoutError as error:
            raise DeadlineExceededError(
                f"not all vectors were back within {timeout:g} s; the rebuild goes on, and `kb project show` says how far it is"
            ) from error

    options.run(work())


async def _rebuild(kb: KnowledgeBeast, project_id: str, *, restart: bool, wait: bool) -> _Rebuilt:
    began = time.monotonic()
    current = await kb.rebuild_vectors(project_id, restart=restart)
    if not wait or current.state is ProjectState.ACTIVE:
        return _Rebuilt(current, None)
    with Meter(f"rebuilding {project_id}", "chunks", current.chunk_count, rate=True) as meter:
        current = await _follow(kb, current, meter)
    return _Rebuilt(current, time.monotonic() - began)


async def _follow(kb: KnowledgeBeast, current: Project, meter: Meter) -> Project:
    """Returns the project when it is ACTIVE again. Says once in each standstill which component is at fault, if one says so, and waits on."""
    reached, moved_at, explained = current.vector_sequence, time.monotonic(), False
    while current.state is ProjectState.REBUILDING:
        meter.set(_chunks(current), current.chunk_count)
        await asyncio.sleep(_POLL)
        current = await kb.get_project(current.id)
        if current.vector_sequence != reached:
            reached, moved_at, explained = current.vector_sequence, time.monotonic(), False
        elif not explained and time.monotonic() - moved_at > _EXPLAIN_AFTER:
            explained = True
            await explain_standstill(kb)
    meter.set(current.chunk_count, current.chunk_count)
    return current


def _chunks(project: Project) -> int:
    """About how many chunks are in the vector store: the API counts changes, and chunks are taken to be spread evenly over them."""
    return project.chunk_count * project.vector_sequence // max(project.head, 1)


def _show(rebuilt: _Rebuilt, *, as_json: bool) -> None:
    project = rebuilt.project
    if as_json:
        json_line(_form(rebuilt))
    elif rebuilt.seconds is not None:
        result(f"rebuilt {project.id}: {project.chunk_count:,} chunks in {rebuilt.seconds:.1f} s ({rebuilt.rate or 0:,.0f} chunks/s)")
    elif project.state is ProjectState.REBUILDING:
        result(f"rebuilding {project.id}: {project.chunk_count:,} chunks")
    else:
        line(f"{project.id} has nothing in the vector store yet: there is nothing to rebuild", style="yellow")


def _form(rebuilt: _Rebuilt) -> dict[str, Any]:
    """Stable keys; `seconds` and `chunks_per_second` are null if nobody waited, or there was nothing to rebuild."""
    project, rate = rebuilt.project, rebuilt.rate
    return {
        "id": project.id,
        "state": project.state.value,
        "generation": project.generation,
        "chunk_count": project.chunk_count,
        "seconds": None if rebuilt.seconds is None else round(rebuilt.seconds, 3),
        "chunks_per_second": None if rate is None else round(rate, 1),
    }

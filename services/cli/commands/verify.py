"""`kb verify`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from services.cli import options
from services.cli.console import OUT, json_document, line
from services.cli.explain import explain
from services.cli.progress import Meter
from shared.client import KnowledgeBeast, Verification, VerifiedVectors, VerifyProgress
from shared.errors import KnowledgeBeastError, UnavailableError

EXAMPLES = options.examples("kb verify notes", "kb verify notes --repair", "kb verify --all --repair --json | jq '.[] | select(.equal | not)'")

_EXAMPLES_SHOWN = 3

# Its own option: what a whole comparison may take is not what a call may.
Timeout = Annotated[float, typer.Option("--timeout", metavar="SECONDS", min=0.001, help="How long each comparison may take.")]
_TIMEOUT = 600.0


@dataclass(frozen=True, slots=True)
class _Copy:
    """One copy of one project: what was found, or why it could not be compared."""

    project: str
    name: str
    found: Verification | KnowledgeBeastError
    orphans: tuple[str, ...] = ()
    quarantined: int = 0

    @property
    def sound(self) -> bool:
        """The copy is right, or has been mended."""
        return isinstance(self.found, Verification) and (self.found.equal or self.found.repaired)


def verify(
    project: Annotated[str | None, typer.Argument(metavar="[PROJECT]", help="Id of the project.")] = None,
    *,
    every: Annotated[bool, typer.Option("--all", help="All projects, one after another.")] = False,
    repair: Annotated[bool, typer.Option("--repair", help="Mend what differs.")] = False,
    drop_orphans: Annotated[
        bool, typer.Option("--drop-orphans", help="Drop ChromaDB's collections of the project that the catalog knows nothing of.")
    ] = False,
    as_json: options.Json = False,
    indexer: options.Indexer = options.DEFAULT_INDEXER,
    query: options.Query = options.DEFAULT_QUERY,
    timeout: Timeout = _TIMEOUT,
) -> None:
    """Compare what ChromaDB and the query service hold of a project with the catalog. Exits with 1 if something differs and was not mended.

    Writes and searches go on meanwhile. Both services do the same by themselves every hour (KB_VERIFY_INTERVAL, KB_REPLICA_VERIFY_INTERVAL) and mend
    what they find; this says it now. Orphaned collections are what a restored catalog leaves behind; they are dropped only if you say so, because
    another catalog may use the same ChromaDB.
    """
    if (project is None) is not every:
        raise typer.BadParameter("give a PROJECT or --all, one of the two", param_hint="PROJECT")

    async def work() -> list[_Copy]:
        copies: list[_Copy] = []
        async with KnowledgeBeast(indexer, query, timeout=timeout) as kb:
            ids = [found.id async for found in kb.list_projects()] if project is None else [project]
            for each in ids:
                copies.append(await _vectors(kb, each, repair=repair, drop_orphans=drop_orphans))
                copies.append(await _replica(kb, each, repair=repair))
        return copies

    copies = options.run(work())
    if as_json:
        json_document([_form(copy) for copy in copies])
    elif copies:
        OUT.print(_table(copies))
        for copy in copies:
            _explain(copy, dropped=drop_orphans)
    if not all(copy.sound for copy in copies):
        raise typer.Exit(1)


async def _vectors(kb: KnowledgeBeast, project: str, *, repair: bool, drop_orphans: bool) -> _Copy:
    found: VerifiedVectors | None = None
    try:
        with Meter(f"comparing ChromaDB with {project}", "chunks", rate=True) as meter:
            async for step in kb.verify_vectors(project, repair=repair, drop_orphans=drop_orphans):
                if isinstance(step, VerifyProgress):
                    meter.set(step.compared, step.total)
                else:
                    found = step
    except KnowledgeBeastError as error:
        return _Copy(project, "chromadb", error)
    if found is None:
        return _Copy(project, "chromadb", UnavailableError("the comparison ended without a result", component="indexer"))
    return _Copy(project, "chromadb", found.verification, found.orphaned_collections, found.quarantined)


async def _replica(kb: KnowledgeBeast, project: str, *, repair: bool) -> _Copy:
    try:
        found = await kb.verify_replica(project, repair=repair)
    except KnowledgeBeastError as error:
        return _Copy(project, "replica", error)
    return _Copy(project, f"replica {found.replica}", found)


def _table(copies: list[_Copy]) -> Table:
    """A line a copy."""
    table = Table("project", "copy", "compared", "sequence", "result", "examples", box=None, padding=(0, 2, 0, 0), header_style="bold")
    for copy in copies:
        if isinstance(copy.found, KnowledgeBeastError):
            table.add_row(copy.project, copy.name, "", "", Text(explain(copy.found), style="red"), "")
            continue
        found = copy.found
        if found.equal:
            outcome = Text("equal", style="green")
        else:
            what = ", ".join(f"{each.count:,} {each.kind.value.replace('_', ' ')}" for each in found.differences)
            outcome = Text(f"{what}; {found.repair_message}" if found.repaired else what, style="yellow" if found.repaired else "red")
        examples = [name for each in found.differences for name in each.examples][:_EXAMPLES_SHOWN]
        table.add_row(copy.project, copy.name, f"{found.compared:,}", str(found.sequence), outcome, Text(", ".join(examples)))
    return table


def _explain(copy: _Copy, *, dropped: bool) -> None:
    """What is no difference, but worth knowing."""
    if copy.quarantined:
        line(f"{copy.project}: {copy.quarantined:,} chunks are in quarantine; `kb quarantine list {copy.project}` says why", style="yellow")
    for name in copy.orphans:
        what = "was dropped" if dropped else "is not known to the catalog; --drop-orphans drops it"
        line(f"{copy.project}: ChromaDB's collection {name} {what}", style="yellow")


def _form(copy: _Copy) -> dict[str, Any]:
    """Stable keys. `error` is null if the copy was compared; the others are null or empty if it was not."""
    found = copy.found if isinstance(copy.found, Verification) else None
    return {
        "project_id": copy.project,
        "copy": copy.name,
        "error": explain(copy.found) if isinstance(copy.found, KnowledgeBeastError) else None,
        "equal": None if found is None else found.equal,
        "compared_count": None if found is None else found.compared,
        "sequence": None if found is None else found.sequence,
        "differences": [{"kind": each.kind.value, "count": each.count, "examples": list(each.examples)} for each in found.differences]
        if found
        else [],
        "repaired": None if found is None else found.repaired,
        "repair_message": None if found is None else found.repair_message,
        "orphaned_collections": list(copy.orphans),
        "quarantined_chunks": copy.quarantined,
    }

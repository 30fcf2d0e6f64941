"""A record that ChromaDB refuses for good."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from services.cli.chaos import notes
from services.cli.chaos.trial import Trial
from services.cli.chaos.until import until
from services.cli.chaos.wire_faults import Answer, Pass
from shared.errors import KnowledgeBeastError

_POISON = 800_000_000  # the number of the note at fault, beyond what the load counts up to


async def poison_record(trial: Trial) -> None:
    """Row 9: every request with one certain chunk is answered with 400. The chunk goes into quarantine, and all others go on."""
    kb, project = trial.rig.kb, trial.project
    # A chunk's id is made of its content: written and deleted once, it is known, and comes again with the same text.
    await kb.upsert(project, [notes.note(_POISON)])
    chunk = (await kb.get_document(project, notes.note_id(_POISON))).chunks[0].id
    await kb.delete_documents(project, [notes.note_id(_POISON)])
    await trial.until_whole()  # also ChromaDB's copy is gone, before it refuses to hear of it

    async def quarantined() -> list[str]:
        return [found.chunk_id async for found in kb.list_quarantined_chunks(project)]

    async def all_but_one() -> bool:
        try:
            now = await kb.get_project(project)
            return int(now.vector_sequence) == int(now.head) and await quarantined() == [chunk]
        except KnowledgeBeastError:
            return False

    @asynccontextmanager
    async def fault() -> AsyncIterator[None]:
        await trial.rig.indexer_chroma.set(Answer(400, containing=chunk.encode()))
        await kb.upsert(project, [notes.note(_POISON)])
        try:
            yield
            await until(all_but_one, trial.plan.patience)
        finally:
            await trial.rig.indexer_chroma.set(Pass())

    await trial.during(fault())
    held = await quarantined()
    trial.promise("the chunk at fault is in quarantine, and it alone", kept=held == [chunk], seen=f"{len(held)} chunks")
    trial.none_failed()
    trial.none_late()
    trial.promise("no answer is degraded", kept=not trial.tally.degraded, seen=", ".join(trial.tally.reasons) or "none")
    trial.all_acknowledged()
    trial.stays_ready("query", "indexer")
    found = await kb.search(project, notes.by_word(_POISON))
    trial.promise("it is found by keyword", kept=[hit.document_id for hit in found.hits] == [notes.note_id(_POISON)], seen=f"{len(found.hits)} hits")
    retried = await kb.retry_quarantined_chunks(project)

    async def empty() -> bool:
        return not await quarantined()

    await until(empty, trial.plan.patience)
    trial.promise("accepted again, it leaves quarantine when it is retried", kept=retried == 1, seen=f"{retried} retried")
    await trial.recover()
    await trial.account()

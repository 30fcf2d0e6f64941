"""Puts a collection into a project, and its questions to the services."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress

from tenacity import retry, retry_if_exception_type, stop_after_attempt, wait_exponential

from services.cli.ingest.wait import wait_for_vectors
from services.cli.progress import Meter
from services.cli.quality.systems import System
from shared.client import DegradationReason, KnowledgeBeast, SearchQuery
from shared.domain import DocumentInput
from shared.errors import AlreadyExistsError, ConflictError, DeadlineExceededError, InvalidArgumentError, UnavailableError
from shared.golden.collection import Collection, Topic

_BATCH = 200  # documents a message
_AT_ONCE = 4  # searches
HITS = 200  # chunks of a question that are read, so that 100 documents are left when each counts once: most have one or two chunks


def project_id(collection: Collection) -> str:
    """Where a collection's passages go: another project whenever they change, so that none of an older state is found."""
    name = re.sub(r"[^a-z0-9]+", "-", collection.name.lower()).strip("-")[:40]
    return f"quality-{name or 'collection'}-{collection.fingerprint}"


async def write(kb: KnowledgeBeast, collection: Collection) -> str:
    """Writes the passages, waits until all are searchable by meaning, and returns a consistency token that covers them.

    Raises InvalidArgumentError if a passage is refused, and what `wait_for_vectors` raises.
    """
    project = project_id(collection)
    with suppress(AlreadyExistsError):
        await kb.create_project(project, display_name=collection.name)
    token = ""
    with Meter(f"writing {collection.name}", "documents", len(collection.documents)) as meter:
        async for answer in kb.ingest(project, _batches(collection)):
            for result in answer.results:
                if result.error is not None:
                    raise InvalidArgumentError(f"{collection.name}: document {result.document_id} was refused: {result.error.message}")
            meter.advance(len(answer.results))
            token = answer.consistency_token
    with Meter(f"embedding {collection.name}", "documents") as meter:
        await wait_for_vectors(kb, project, meter)
    return token


async def _batches(collection: Collection) -> AsyncIterator[Sequence[DocumentInput]]:
    for start in range(0, len(collection.documents), _BATCH):
        yield collection.documents[start : start + _BATCH]


async def rankings(kb: KnowledgeBeast, collection: Collection, system: System, token: str, meter: Meter, *, hits: int = HITS) -> dict[str, list[str]]:
    """Documents for each question, best first, each once, at the place of its best chunk.

    Args:
        kb: the services.
        collection: what `write` has written.
        system: how to search.
        token: what `write` gave.
        meter: counts questions.
        hits: how many chunks are read.
    """
    project, room = project_id(collection), asyncio.Semaphore(_AT_ONCE)
    found: dict[str, list[str]] = {}

    async def ask(topic: Topic) -> None:
        async with room:
            found[topic.id] = await _documents(kb, project, system.query(topic.text, token, hits), hits, system.missing)
        meter.advance()

    async with asyncio.TaskGroup() as questions:
        for topic in collection.topics:
            questions.create_task(ask(topic))
    return found


# On a busy machine a leg may miss its time, and a page be other than the one before it made expect.
@retry(
    retry=retry_if_exception_type((UnavailableError, DeadlineExceededError, ConflictError)),
    stop=stop_after_attempt(6),
    wait=wait_exponential(multiplier=0.5, max=10),
    reraise=True,
)
async def _documents(kb: KnowledgeBeast, project: str, query: SearchQuery, hits: int, missing: DegradationReason | None) -> list[str]:
    """Documents that a search finds. Raises UnavailableError if an answer lacks something else than it must, so that nothing else is measured."""
    ids: dict[str, None] = {}
    # The replica's own vectors give the exact neighbours: the answer is as good as one from ChromaDB.
    accepted = {missing, DegradationReason.VECTOR_STORE_UNAVAILABLE}
    async for answer in kb.pages(project, query, limit=hits):
        reasons = {degradation.reason for degradation in answer.degradations}
        if reasons - accepted:
            text = "; ".join(degradation.message for degradation in answer.degradations)
            raise UnavailableError(f"an answer was degraded: {text}", component="query")
        if missing not in {*reasons, None}:
            raise UnavailableError("an answer was whole that should not have been", component="query")
        ids.update(dict.fromkeys(hit.document_id for hit in answer.hits))
    return list(ids)

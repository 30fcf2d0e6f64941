"""A stack's data folder that holds a corpus of a given size, written through the indexer and kept for the next run."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from services.cli.bench.corpus import Corpus
from services.cli.console import line
from services.cli.ingest.wait import wait_for_vectors
from services.cli.progress import Meter
from services.cli.stack.stack import Stack
from shared.client import KnowledgeBeast
from shared.domain import DocumentInput, Project
from shared.errors import NotFoundError, UnavailableError

PROJECT = "bench"
_FINGERPRINT = "corpus"  # label of the project
_BATCH = 200  # documents a message
_READY_TIMEOUT = 900.0  # seconds that the query service may take to copy the project
_POLL = 0.25


@dataclass(frozen=True, slots=True)
class Dataset:
    """A running stack's project that holds a corpus, searchable by meaning and keyword.

    Attributes:
        folder: The stack's data folder.
        corpus: What is in it.
        project: The project with its counts.
        build_seconds: Time that writing and embedding took; None when it was there already.
    """

    folder: Path
    corpus: Corpus
    project: Project
    build_seconds: float | None


def size_name(size: int) -> str:
    """`10k` for 10,000."""
    return f"{size // 1000}k" if size % 1000 == 0 else str(size)


async def prepare(stack: Stack, corpus: Corpus) -> Dataset:
    """Makes sure that a running stack holds the corpus: what is there of the same fingerprint is kept, anything else is written anew.

    An interrupted build goes on where it was. Raises DeadlineExceededError when nothing moves for two minutes.
    """
    async with KnowledgeBeast(stack.indexer_address, stack.query_address, timeout=30.0) as kb:
        began = time.monotonic()
        project = await _project(kb, corpus.fingerprint)
        built = project.document_count < len(corpus.documents) or project.vector_sequence < project.head
        if built:
            await _fill(kb, corpus)
        project = await kb.get_project(PROJECT)
        await followed(kb, project)
    return Dataset(stack.data_dir, corpus, project, time.monotonic() - began if built else None)


async def batches(documents: Sequence[DocumentInput], size: int = _BATCH) -> AsyncIterator[Sequence[DocumentInput]]:
    """The documents in batches for a stream."""
    for start in range(0, len(documents), size):
        yield documents[start : start + size]


async def _project(kb: KnowledgeBeast, fingerprint: str) -> Project:
    try:
        project = await kb.get_project(PROJECT)
    except NotFoundError:
        project = None
    if project is not None and project.labels.get(_FINGERPRINT) != fingerprint:
        line("the data folder holds another corpus: writing it anew", style="yellow")
        await kb.delete_project(PROJECT)
        project = None
    return project or await kb.create_project(PROJECT, labels={_FINGERPRINT: fingerprint})


async def _fill(kb: KnowledgeBeast, corpus: Corpus) -> None:
    failed = 0
    with Meter("writing", "documents", len(corpus.documents)) as meter:
        async for result in kb.ingest(PROJECT, batches(corpus.documents)):
            failed += sum(item.error is not None for item in result.results)
            meter.advance(len(result.results))
    if failed:
        raise UnavailableError(f"{failed} documents of the corpus were refused", component="indexer")
    with Meter("embedding", "changes") as meter:
        await wait_for_vectors(kb, PROJECT, meter)


async def followed(kb: KnowledgeBeast, project: Project) -> None:
    """Waits until the query service that the client speaks to has the project's documents and vectors. Raises TimeoutError after 15 minutes."""
    async with asyncio.timeout(_READY_TIMEOUT):
        while True:
            try:
                found = await kb.search(PROJECT, "text")
            except NotFoundError:
                pass
            else:
                fresh = found.freshness
                if fresh.epoch == project.epoch and fresh.sequence >= project.head and fresh.vector_sequence >= project.vector_sequence:
                    return
            await asyncio.sleep(_POLL)

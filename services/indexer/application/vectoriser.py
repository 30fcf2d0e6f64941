"""From the catalog to the catalog: gives every chunk its vector, the oldest first."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from opentelemetry.trace import INVALID_SPAN, Span

from services.indexer.application.chunking import embedding_text
from services.indexer.application.halving import Halved, halve, reason_of
from services.indexer.application.journey import Journey
from services.indexer.application.signals import Signals
from services.indexer.application.subjects import Subject
from services.indexer.application.worker import for_each
from services.indexer.ports import Disk, ProjectionCatalog
from services.indexer.records import Failure, LaggingProject, UnembeddedChunk
from shared.domain import SequenceNumber, Vectors, VectorSequence
from shared.errors import FailedPreconditionError, KnowledgeBeastError, UnavailableError
from shared.observability import metrics, tracing
from shared.observability.guarded import guarded
from shared.observability.logging import get_logger
from shared.observability.recorded_writes import RecordedWrite
from shared.ports import Embedder, Tokenizer

# About half a second's work on two cores: large enough that the commit behind it costs nothing.
_CHUNKS_A_STEP = 128
# Two seconds' work, after which the next project has its turn.
_STEPS_A_TURN = 4
_PROBE = "Is the model in order?"

_log = get_logger(__name__)


@dataclass(slots=True)
class _Batch:
    """Chunks, the texts that their vectors are made of, and the requests that wrote them, of those whose trace is recorded.

    `began` and `span` are of embedding it: seconds since 1970, and the span that it runs in.
    """

    chunks: Sequence[UnembeddedChunk]
    texts: Sequence[str]
    writes: Sequence[RecordedWrite]
    began: float = 0.0
    span: Span = INVALID_SPAN


class Vectoriser:
    """Embeds what is not embedded. It needs the model and the catalog, not the vector store.

    A text for which the model fails, though it works for others right then, goes into quarantine. While the disk is low nothing is embedded: vectors
    take more room than the texts that they are made of.
    """

    def __init__(
        self, catalog: ProjectionCatalog, embedder: Embedder, tokenizer: Tokenizer, disk: Disk, signals: Signals, *, journey: Journey
    ) -> None:
        self._catalog = catalog
        self._journey = journey
        self._disk = disk
        self._embedder = embedder
        self._tokenizer = tokenizer
        self._signals = signals
        self._tracer = tracing.get_tracer(__name__)

    async def step(self) -> bool:
        """Gives each project that has something to embed a turn of a few batches; True if there was any.

        Raises UnavailableError when the model is missing or fails for everything, FailedPreconditionError when a project needs another one,
        ResourceExhaustedError when the disk is low.
        """
        projects = await self._catalog.projects_to_embed()
        if projects:
            await self._disk.require_room()
        await for_each(projects, self._embed, lambda project: {"project": project.id})
        return bool(projects)

    async def _embed(self, project: LaggingProject) -> None:
        if project.embedding_model != self._embedder.model:
            raise FailedPreconditionError(
                f"project {project.id!r} needs the model {project.embedding_model!r}, not {self._embedder.model!r}: set KB_EMBEDDING_MODEL"
            )
        # The model is what takes the time, so it does not wait for the catalog: while it works on a batch, the one before is stored and the one
        # behind is read. Batches may be stored in any order: how far the project is embedded is for the catalog to find out.
        reading = asyncio.create_task(self._read(project, (0, 0)))
        storing: asyncio.Task[VectorSequence] | None = None
        reached = project.embedded_sequence
        try:
            for step in range(_STEPS_A_TURN):
                batch = await reading
                if not batch.chunks:
                    if step == 0:  # only deletions: the catalog has to find out that all is embedded
                        await self._store(project, reached, batch, Halved([], []))
                    break
                if step + 1 < _STEPS_A_TURN:
                    reading = asyncio.create_task(self._read(project, (batch.chunks[-1].sequence, batch.chunks[-1].key)))
                halved = await self._vectors(project, batch)
                if storing is not None:
                    reached = await storing
                storing = asyncio.create_task(self._store(project, reached, batch, halved))
            if storing is not None:
                await storing
        finally:
            reading.cancel()
            await asyncio.gather(reading, *(() if storing is None else (storing,)), return_exceptions=True)

    async def _read(self, project: LaggingProject, after: tuple[int, int]) -> _Batch:
        """The next batch; an empty one if there is none."""
        chunks = await self._catalog.unembedded(project, _CHUNKS_A_STEP, after)
        if not chunks:
            return _Batch(chunks, (), ())
        first, last = SequenceNumber(chunks[0].sequence - 1), SequenceNumber(chunks[-1].sequence)
        writes = await self._recorded(project, first, last)
        return _Batch(chunks, await asyncio.to_thread(self._texts, project, chunks), writes)

    async def _recorded(self, project: LaggingProject, after: SequenceNumber, up_to: SequenceNumber) -> Sequence[RecordedWrite]:
        """Writes whose traces are to be told of them; none if that cannot be read, because vectors do not wait for traces."""
        with guarded("recorded writes"):
            return await self._catalog.recorded_writes(project, after, up_to, tracing.MAX_LINKS)
        return ()

    def _texts(self, project: LaggingProject, chunks: Sequence[UnembeddedChunk]) -> list[str]:
        return [embedding_text(chunk.title, chunk.text, project.chunking, self._tokenizer) for chunk in chunks]

    async def _vectors(self, project: LaggingProject, batch: _Batch) -> Halved[Vectors]:
        texts = batch.texts
        links = tracing.links(write.trace for write in batch.writes)
        with self._tracer.start_as_current_span("projection.embed", links=links) as batch.span:
            if batch.span.is_recording():
                batch.span.set_attributes({"kb.project": project.id, "kb.chunks": len(texts)})
            batch.began = self._journey.now()
            started = time.perf_counter()
            halved = await halve(len(texts), lambda part: self._embed_texts(texts[part]), is_refusal=_is_refusal, probe=self._probe)
            metrics.EMBEDDING_DURATION.observe(time.perf_counter() - started)
            metrics.EMBEDDING_BATCH_SIZE.observe(len(texts))
            return halved

    async def _embed_texts(self, texts: Sequence[str]) -> Vectors:
        with self._tracer.start_as_current_span("EmbeddingEngine.embed") as span:
            if span.is_recording():
                span.set_attributes({"kb.model": self._embedder.model, "kb.batch_size": len(texts)})
            vectors = await self._embedder.embed(texts)
        if not np.isfinite(vectors).all():
            raise ArithmeticError("the model's vector has numbers that are not finite")
        return vectors

    async def _probe(self, failure: Exception) -> None:
        """Returns if the model works. Raises UnavailableError if it does not."""
        try:
            await self._embed_texts([_PROBE])
        except Exception as error:
            if not _is_refusal(error):
                raise
            raise UnavailableError("the embedding model fails for every text; the log says how", component="embedding_model") from failure

    async def _store(self, project: LaggingProject, before: VectorSequence, batch: _Batch, halved: Halved[Vectors]) -> VectorSequence:
        """Keeps the vectors of a batch; the sequence up to which the project is embedded now, and was `before`."""
        chunks = batch.chunks
        keys = [chunk.key for part, _ in halved.taken for chunk in chunks[part]]
        vectors = np.concatenate([vectors for _, vectors in halved.taken]) if halved.taken else np.empty((0, 0), np.float32)
        failures = [Failure(chunks[place].id, reason_of(error)) for place, error in halved.refused]
        reached = await self._catalog.store_embeddings(project, keys, vectors, failures)
        if failures:
            _log.warning(
                "the model fails for texts and works for others: they are in quarantine",
                project=project.id,
                chunks=len(failures),
                first=failures[0].chunk_id,
                why=failures[0].reason,
            )
        self._signals.notify(project.key, Subject.EMBEDDED)
        if batch.writes:  # seldom: most traces are not recorded
            writes = await self._recorded(project, SequenceNumber(before), SequenceNumber(reached))
            self._journey.embedded(project, reached, writes, batch.began, batch.span)
        return reached


def _is_refusal(error: Exception) -> bool:
    """What the model raises for a text is anything: errors of its runtime have no common class. That it is not there is said by UnavailableError."""
    return not isinstance(error, KnowledgeBeastError)

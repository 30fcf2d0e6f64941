"""From the catalog to the catalog: gives every chunk its vector, the oldest first."""

from __future__ import annotations

import time

from services.indexer.application.chunking import embedding_text
from services.indexer.application.signals import Signals
from services.indexer.application.subjects import Subject
from services.indexer.application.worker import for_each
from services.indexer.ports import ProjectionCatalog
from services.indexer.records import LaggingProject
from shared.errors import FailedPreconditionError
from shared.observability import metrics, tracing
from shared.ports import Embedder, Tokenizer

# About a second's work on one core: small enough that projects take turns, large enough that the commit behind it costs nothing.
_CHUNKS_A_STEP = 128


class Vectoriser:
    """Embeds what is not embedded. It needs the model and the catalog, not the vector store."""

    def __init__(self, catalog: ProjectionCatalog, embedder: Embedder, tokenizer: Tokenizer, signals: Signals) -> None:
        self._catalog = catalog
        self._embedder = embedder
        self._tokenizer = tokenizer
        self._signals = signals
        self._tracer = tracing.get_tracer(__name__)

    async def step(self) -> bool:
        """Embeds one batch of each project that has something to embed; True if there was any.

        Raises UnavailableError when the model is missing, FailedPreconditionError when a project needs another one.
        """
        projects = await self._catalog.projects_to_embed()
        await for_each(projects, self._embed)
        return bool(projects)

    async def _embed(self, project: LaggingProject) -> None:
        if project.embedding_model != self._embedder.model:
            raise FailedPreconditionError(
                f"project {project.id!r} needs the model {project.embedding_model!r}, not {self._embedder.model!r}: set KB_EMBEDDING_MODEL"
            )
        chunks = await self._catalog.unembedded(project, _CHUNKS_A_STEP)
        with self._tracer.start_as_current_span("projection.embed", attributes={"kb.project": project.id, "kb.chunks": len(chunks)}):
            started = time.perf_counter()
            vectors = await self._embedder.embed([embedding_text(chunk.title, chunk.text, project.chunking, self._tokenizer) for chunk in chunks])
            metrics.EMBEDDING_DURATION.observe(time.perf_counter() - started)
            metrics.EMBEDDING_BATCH_SIZE.observe(len(chunks))
            await self._catalog.store_embeddings(project, [chunk.key for chunk in chunks], vectors)
        self._signals.notify(project.key, Subject.EMBEDDED)

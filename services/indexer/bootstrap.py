"""Builds the indexer: the only file that names its adapters."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from grpc_health.v1 import health_pb2_grpc

from services.indexer.application.chunking import SPECIAL_TOKENS
from services.indexer.application.documents import Documents
from services.indexer.application.feed import ChangeFeed
from services.indexer.application.ingest import Ingest
from services.indexer.application.janitor import Janitor
from services.indexer.application.projector import Projector
from services.indexer.application.projects import Projects
from services.indexer.application.signals import Signals
from services.indexer.application.subjects import Subject
from services.indexer.application.vectoriser import Vectoriser
from services.indexer.application.worker import Worker
from services.indexer.catalog.sqlite import SqliteCatalog
from services.indexer.config import IndexerSettings
from services.indexer.transport.feed_servicer import ChangeFeedServicer
from services.indexer.transport.indexer_servicer import IndexerServicer
from services.indexer.transport.project_servicer import ProjectServicer
from shared.checks import add_common_checks
from shared.chroma.factory import ChromaStore, create_chroma_store
from shared.embedding.factory import LoadableEmbedder, create_embedder, create_tokenizer
from shared.embedding.loading import ModelLoader
from shared.gen.knowledgebeast.indexer.v1 import change_feed_pb2_grpc, indexer_pb2_grpc, project_pb2_grpc
from shared.gen.knowledgebeast.ops.v1 import status_pb2_grpc
from shared.health import Details, HealthMonitor
from shared.lifecycle import Lifecycle
from shared.observability import http, metrics, tracing
from shared.observability.logging import get_logger
from shared.rpc import chain
from shared.rpc import server as rpc_server
from shared.rpc.status_service import StatusServicer

SERVICES = (
    "knowledgebeast.indexer.v1.ProjectService",
    "knowledgebeast.indexer.v1.IndexerService",
    "knowledgebeast.indexer.v1.ChangeFeedService",
    "knowledgebeast.ops.v1.StatusService",
)
# Loading the exported model takes a tenth of that; a slower one is reported as not loaded until it is.
_FIRST_LOAD_SECONDS = 3.0

_log = get_logger(__name__)


@asynccontextmanager
async def _open_catalog(settings: IndexerSettings) -> AsyncIterator[SqliteCatalog]:
    catalog = await asyncio.to_thread(SqliteCatalog.open, settings.data_dir / "indexer")
    try:
        yield catalog
    finally:
        await catalog.close()


def _add_checks(monitor: HealthMonitor, settings: IndexerSettings, catalog: SqliteCatalog, chroma: ChromaStore, embedder: LoadableEmbedder) -> None:
    """What the indexer's health is made of. Only the catalog is required: writes need nothing else."""

    async def database() -> Details:
        await catalog.probe()
        count = await catalog.count_projects()
        metrics.set_active_projects(count)
        return {"projects": count}

    monitor.add_check("database", database, latency=True)
    add_common_checks(monitor, chroma=chroma, embedder=embedder, data_dir=settings.data_dir)


async def start(life: Lifecycle, settings: IndexerSettings) -> None:
    """Opens the stages of the indexer in order; they are closed in reverse."""
    life.on_stop("tracing", lambda: asyncio.to_thread(tracing.shutdown))
    catalog = await life.enter("catalog", _open_catalog(settings))
    chroma = create_chroma_store(settings)
    life.on_stop("chromadb client", chroma.client.close)
    tokenizer = await asyncio.to_thread(create_tokenizer, settings.embedding_model)
    # The indexer embeds large batches: without the arena it gives their memory back.
    embedder = create_embedder(
        settings.embedding_backend, settings.embedding_model, settings.model_dir, concurrency=settings.embedding_concurrency, arena=False
    )

    life.on_stop("embedder", lambda: asyncio.to_thread(embedder.close))
    signals = Signals()
    feed = ChangeFeed(catalog, signals, heartbeat_seconds=settings.feed_heartbeat)
    vectoriser = Vectoriser(catalog, embedder, tokenizer, signals)
    projector = Projector(catalog, chroma.store, signals, write_timeout=settings.chroma_timeout)
    janitor = Janitor(catalog, chroma.store, tombstone_seconds=settings.tombstone_retention, write_timeout=settings.chroma_timeout)
    loader = ModelLoader(embedder)
    workers = {
        "model": loader.run(),
        "vectoriser": Worker("vectoriser", vectoriser.step, signals, Subject.COMMITTED).run(),
        "projector": Worker("projector", projector.step, signals, Subject.EMBEDDED, on_failure=metrics.PROJECTOR_FAILURES.inc).run(),
        "collections": Worker("collections", projector.verify_collections, signals, None, idle_seconds=settings.collection_check).run(),
        "janitor": Worker("janitor", janitor.step, signals, Subject.DELETED, idle_seconds=settings.housekeeping_interval).run(),
    }
    for name, work in workers.items():
        life.background(name, work)

    monitor = HealthMonitor("indexer", required={"database"}, grpc_services=SERVICES)
    _add_checks(monitor, settings, catalog, chroma, embedder)
    life.on_stop("health", monitor.stop)
    await loader.settle(_FIRST_LOAD_SECONDS)
    await monitor.start()

    server = rpc_server.create_server(interceptors=chain.interceptors(), max_message_bytes=settings.max_message_bytes)
    project_pb2_grpc.add_ProjectServiceServicer_to_server(
        ProjectServicer(Projects(catalog, signals), model=settings.embedding_model, model_tokens=tokenizer.max_tokens + SPECIAL_TOKENS), server
    )
    indexer_pb2_grpc.add_IndexerServiceServicer_to_server(IndexerServicer(Ingest(catalog, tokenizer, signals), Documents(catalog, signals)), server)
    change_feed_pb2_grpc.add_ChangeFeedServiceServicer_to_server(ChangeFeedServicer(feed), server)
    status_pb2_grpc.add_StatusServiceServicer_to_server(StatusServicer(monitor), server)
    health_pb2_grpc.add_HealthServicer_to_server(monitor.servicer, server)
    rpc_server.describe(server, SERVICES)
    port = rpc_server.bind(server, settings.indexer_host, settings.indexer_port, setting="KB_INDEXER_PORT")
    http_port = await life.enter(
        "http", http.serving(http.create_app(monitor.snapshot), settings.indexer_host, settings.indexer_http_port, setting="KB_INDEXER_HTTP_PORT")
    )
    await life.enter("server", rpc_server.serving(server, grace=life.grace / 2))

    async def end_feeds() -> None:
        feed.stop()

    life.on_stop("feeds", end_feeds)
    life.on_stop("readiness", monitor.enter_shutdown)
    await monitor.set_ready(True)
    _log.info("the indexer is ready", port=port, http_port=http_port)

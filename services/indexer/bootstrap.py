"""Builds the indexer: the only file that names its adapters."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from grpc_health.v1 import health_pb2_grpc

from services.indexer.application.chunking import SPECIAL_TOKENS
from services.indexer.application.collection_writer import CollectionWriter
from services.indexer.application.digest import Digests
from services.indexer.application.documents import Documents
from services.indexer.application.feed import ChangeFeed
from services.indexer.application.followers import Followers
from services.indexer.application.ingest import Ingest
from services.indexer.application.janitor import Janitor
from services.indexer.application.journey import Journey
from services.indexer.application.projector import Projector
from services.indexer.application.projects import Projects
from services.indexer.application.quarantine import Quarantine
from services.indexer.application.reconciler import IDS_A_SECOND, Reconciler
from services.indexer.application.scrubber import BYTES_A_SECOND, Scrubber
from services.indexer.application.signals import Signals
from services.indexer.application.subjects import Subject
from services.indexer.application.vectoriser import Vectoriser
from services.indexer.application.worker import Worker
from services.indexer.catalog.sqlite import SqliteCatalog
from services.indexer.checks import check_database
from services.indexer.config import IndexerSettings
from services.indexer.disk import DiskSpace
from services.indexer.limits import limits
from services.indexer.transport.feed_servicer import ChangeFeedServicer
from services.indexer.transport.indexer_servicer import IndexerServicer
from services.indexer.transport.maintenance_servicer import MaintenanceServicer
from services.indexer.transport.project_servicer import ProjectServicer
from shared import health_server
from shared.checks import add_common_checks
from shared.chroma.factory import ChromaStore, create_chroma_store
from shared.embedding.factory import LoadableEmbedder, create_embedder, create_tokenizer
from shared.embedding.loading import ModelLoader
from shared.gen.knowledgebeast.indexer.v1 import change_feed_pb2_grpc, indexer_pb2_grpc, maintenance_pb2_grpc, project_pb2_grpc
from shared.health import Degraded, Details, HealthMonitor
from shared.lifecycle import Lifecycle
from shared.observability import http, metrics, tracing
from shared.observability.guarded import read_at_scrape
from shared.observability.logging import get_logger
from shared.quarantine import QuarantineStage
from shared.resilience.pace import Pace
from shared.rpc import chain
from shared.rpc import server as rpc_server
from shared.rpc.health_service import HealthServicer
from shared.rpc.ops import add_ops_services
from shared.serving import ServingStates
from shared.warm_up import warm_up

SERVICES = (
    "knowledgebeast.indexer.v1.ProjectService",
    "knowledgebeast.indexer.v1.IndexerService",
    "knowledgebeast.indexer.v1.ChangeFeedService",
    "knowledgebeast.indexer.v1.MaintenanceService",
    "knowledgebeast.ops.v1.StatusService",
    "knowledgebeast.ops.v1.LoggingService",
)
# Loading the exported model takes a tenth of that; a slower one is reported as not loaded until it is.
_FIRST_LOAD_SECONDS = 3.0

_log = get_logger(__name__)


@asynccontextmanager
async def _open_catalog(settings: IndexerSettings) -> AsyncIterator[SqliteCatalog]:
    catalog = await asyncio.to_thread(SqliteCatalog.open, settings.data_dir / "indexer", queue_bytes=settings.write_queue_bytes)
    # Read when they are shown.
    read_at_scrape(metrics.CATALOG_QUEUE_BYTES, lambda: catalog.waiting_bytes)
    read_at_scrape(metrics.CATALOG_BYTES, lambda: catalog.file_bytes)
    read_at_scrape(metrics.CATALOG_WAL_BYTES, lambda: catalog.log_bytes)
    try:
        yield catalog
    finally:
        await catalog.close()


def _add_checks(
    monitor: HealthMonitor,
    settings: IndexerSettings,
    catalog: SqliteCatalog,
    scrubber: Scrubber,
    projection: Projector,
    followers: Followers,
    chroma: ChromaStore,
    embedder: LoadableEmbedder,
) -> None:
    """What the indexer's health is made of. Only the catalog is required: writes need nothing else."""

    async def database() -> Details | Degraded:
        return await check_database(catalog, scrubber.damage, followers)

    async def projector() -> Details | Degraded:
        held = await catalog.count_quarantined()
        for stage in (QuarantineStage.EMBEDDING, QuarantineStage.VECTOR_STORE):
            metrics.QUARANTINED_CHUNKS.labels(stage.value).set(held.get(stage, 0))
        quarantined = sum(held.values())
        figures = {"quarantined": quarantined, "lag": await projection.measure_lag()}
        if quarantined:
            return Degraded("chunks are in quarantine, found by keyword alone: `kb quarantine list` says which and why", figures)
        return figures

    monitor.add_check("projector", projector)
    # What is required may be late before it counts as down: a queue behind many writes must not take the service out of its load balancer.
    monitor.add_check("database", database, latency=True, timeout=10.0)
    add_common_checks(
        monitor,
        chroma=chroma,
        embedder=embedder,
        data_dir=settings.data_dir,
        disk_reserve_bytes=settings.disk_reserve_bytes,
        when_low="documents are refused until there is more",
    )


def _create_embedder(life: Lifecycle, settings: IndexerSettings) -> LoadableEmbedder:
    # The indexer embeds large batches: without the arena it gives their memory back.
    embedder = create_embedder(
        settings.embedding_backend, settings.embedding_model, settings.model_dir, concurrency=settings.embedding_concurrency, arena=False
    )
    life.on_stop("embedder", lambda: asyncio.to_thread(embedder.close))
    return embedder


def _verification(interval: float, scrubber: Scrubber, reconciler: Reconciler, signals: Signals) -> dict[str, Coroutine[Any, Any, None]]:
    """What compares, every so many seconds; nothing if that is 0."""
    metrics.VERIFY_INTERVAL.set(interval)
    if not interval:
        return {}
    # The first one earlier, so that an indexer that is started often compares, too.
    return {
        "scrubber": Worker("scrubber", scrubber.step, signals, None, delay=interval / 5, idle_seconds=interval).run(),
        "reconciler": Worker("reconciler", reconciler.compare_all, signals, None, delay=interval / 10, idle_seconds=interval).run(),
    }


async def start(life: Lifecycle, settings: IndexerSettings) -> None:
    """Opens the stages of the indexer in order; they are closed in reverse."""
    life.on_stop("tracing", lambda: asyncio.to_thread(tracing.shutdown))
    states = ServingStates(SERVICES)
    health_port = await life.enter(
        "health port",
        health_server.serving(
            states, settings.indexer_host, settings.indexer_health_port, stall=settings.liveness_stall, setting="KB_INDEXER_HEALTH_PORT"
        ),
    )
    catalog = await life.enter("catalog", _open_catalog(settings))
    # Ends the process when the disk fails: see docs/adr/0015-quarantine-and-fail-stop.md.
    life.background("catalog", catalog.watch())
    disk = DiskSpace(settings.data_dir, settings.disk_reserve_bytes)
    chroma = create_chroma_store(settings)
    life.on_stop("chromadb client", chroma.client.close)
    tokenizer = await asyncio.to_thread(create_tokenizer, settings.embedding_model)
    embedder = _create_embedder(life, settings)
    signals, journey = Signals(), Journey()
    feed = ChangeFeed(catalog, signals, heartbeat_seconds=settings.feed_heartbeat)
    vectoriser = Vectoriser(catalog, embedder, tokenizer, disk, signals, journey=journey)
    writer = CollectionWriter(catalog, chroma.store, signals, Pace(settings.projector_rate), timeout=settings.chroma_timeout)
    projector = Projector(catalog, chroma.store, writer, signals, write_timeout=settings.chroma_timeout, journey=journey)
    reconciler = Reconciler(catalog, chroma.store, writer, Pace(IDS_A_SECOND), timeout=settings.chroma_timeout)
    janitor = Janitor(catalog, chroma.store, tombstone_seconds=settings.tombstone_retention, write_timeout=settings.chroma_timeout)
    scrubber = Scrubber(catalog, Pace(BYTES_A_SECOND))
    followers = Followers()
    loader = ModelLoader(embedder)
    workers = {
        "model": loader.run(),
        "vectoriser": Worker("vectoriser", vectoriser.step, signals, Subject.COMMITTED).run(),
        "projector": Worker("projector", projector.step, signals, Subject.EMBEDDED, on_failure=metrics.PROJECTOR_FAILURES.inc).run(),
        "collections": Worker("collections", reconciler.check_counts, signals, None, idle_seconds=settings.collection_check).run(),
        "janitor": Worker("janitor", janitor.step, signals, Subject.DELETED, idle_seconds=settings.housekeeping_interval).run(),
    }
    workers |= _verification(settings.verify_interval, scrubber, reconciler, signals)
    for name, work in workers.items():
        life.background(name, work)

    monitor = HealthMonitor("indexer", states, required={"database"})
    _add_checks(monitor, settings, catalog, scrubber, projector, followers, chroma, embedder)
    life.on_stop("health", monitor.stop)
    await loader.settle(_FIRST_LOAD_SECONDS)
    await asyncio.gather(monitor.start(), warm_up(chroma.store, embedder, settings.warm_up_timeout))

    server = rpc_server.create_server(interceptors=chain.interceptors(limits=limits()), max_message_bytes=settings.max_message_bytes)
    project_pb2_grpc.add_ProjectServiceServicer_to_server(
        ProjectServicer(Projects(catalog, disk, signals), model=settings.embedding_model, model_tokens=tokenizer.max_tokens + SPECIAL_TOKENS), server
    )
    ingest = Ingest(catalog, tokenizer, disk, signals)
    indexer_pb2_grpc.add_IndexerServiceServicer_to_server(IndexerServicer(ingest, Documents(catalog, signals)), server)
    maintenance_pb2_grpc.add_MaintenanceServiceServicer_to_server(MaintenanceServicer(reconciler, Quarantine(catalog, signals)), server)
    change_feed_pb2_grpc.add_ChangeFeedServiceServicer_to_server(ChangeFeedServicer(feed, Digests(catalog), followers), server)
    add_ops_services(server, monitor)
    health = HealthServicer(states)
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    rpc_server.describe(server, SERVICES)
    port = rpc_server.bind(server, settings.indexer_host, settings.indexer_port, setting="KB_INDEXER_PORT")
    http_port = await life.enter(
        "http", http.serving(http.create_app(monitor.snapshot), settings.indexer_host, settings.indexer_http_port, setting="KB_INDEXER_HTTP_PORT")
    )
    await life.enter("server", rpc_server.serving(server, grace=(life.grace - settings.drain_delay) / 2))

    def end_streams() -> None:
        feed.stop()
        health.end_watches()

    life.on_drain(monitor.enter_shutdown, delay=settings.drain_delay, end=end_streams)
    monitor.set_ready(True)
    _log.info("the indexer is ready", port=port, http_port=http_port, health_port=health_port)

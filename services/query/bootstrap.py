"""Builds the query service: the only file that names its adapters."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial

from grpc_health.v1 import health_pb2_grpc

from services.query.application.accounting import Counted, Uncounted
from services.query.application.canary import SearchCanary
from services.query.application.degradation import Outages
from services.query.application.ladder import Fallbacks, Ladder
from services.query.application.last_answers import LastAnswers
from services.query.application.legs import Budgets
from services.query.application.results import ResultCache
from services.query.application.search import Search
from services.query.application.similar import FindSimilar
from services.query.application.sizes import size_of_entry
from services.query.application.slow_searches import SlowSearches
from services.query.application.verify import VerifyReplica
from services.query.application.verify_schedule import VerifySchedule
from services.query.canary_project import IndexerCanaryProject
from services.query.config import QuerySettings
from services.query.feed_client import GrpcFeed
from services.query.feed_lag import FeedLag
from services.query.limits import limits
from services.query.replica.follower import Follower
from services.query.replica.replica import Replica
from services.query.transport.query_servicer import QueryServicer, TimeLimits
from services.query.transport.replica_servicer import ReplicaServicer
from shared import health_server
from shared.checks import add_common_checks
from shared.chroma.factory import ChromaStore, create_chroma_store
from shared.client import KnowledgeBeast
from shared.domain import ProjectId
from shared.embedding.cache import CachingEmbedder
from shared.embedding.factory import LoadableEmbedder, create_embedder
from shared.embedding.loading import ModelLoader
from shared.embedding.measured import MeasuredEmbedder
from shared.gen.knowledgebeast.query.v1 import query_pb2_grpc, replica_pb2_grpc
from shared.golden.collection import canary
from shared.health import Degraded, Details, HealthMonitor
from shared.lifecycle import Lifecycle
from shared.observability import http, metrics, tracing
from shared.observability.guarded import read_at_scrape
from shared.observability.logging import get_logger
from shared.ports import Embedder
from shared.reranking.cross_encoder import CrossEncoderReranker
from shared.rpc import chain
from shared.rpc import server as rpc_server
from shared.rpc.channel import create_channel
from shared.rpc.health_service import HealthServicer
from shared.rpc.limits import Limits
from shared.rpc.metrics import measure_calls_to
from shared.rpc.ops import add_ops_services
from shared.serving import ServingStates
from shared.warm_up import warm_up

SERVICES = (
    "knowledgebeast.query.v1.QueryService",
    "knowledgebeast.query.v1.ReplicaService",
    "knowledgebeast.ops.v1.StatusService",
    "knowledgebeast.ops.v1.LoggingService",
)
# Of the indexer; the second kind by the canary alone.
_CALLED_SERVICES = ("knowledgebeast.indexer.v1.ChangeFeedService",)
_CALLED_BY_CANARY = ("knowledgebeast.indexer.v1.ProjectService", "knowledgebeast.indexer.v1.IndexerService")
# Loading the exported model takes a tenth of that; a slower one is reported as not loaded until it is.
_FIRST_LOAD_SECONDS = 3.0
_CATCH_UP_LOOK_SECONDS = 0.05
# Bytes that must be free for the replica to count as able to grow; as much as the indexer keeps free by default.
_DISK_RESERVE_BYTES = 256 * 1024 * 1024

_log = get_logger(__name__)


@asynccontextmanager
async def _open_replica(settings: QuerySettings) -> AsyncIterator[Replica]:
    replica = await asyncio.to_thread(Replica.open, settings.data_dir / "query", vectors_max=settings.replica_vectors_max)
    try:
        yield replica
    finally:
        await asyncio.to_thread(replica.close)


def _add_checks(
    monitor: HealthMonitor, settings: QuerySettings, replica: Replica, follower: Follower, chroma: ChromaStore, embedder: LoadableEmbedder
) -> None:
    """What the query service's health is made of. Only the replica is required: with it, every search has an answer."""

    async def database() -> Details:
        await asyncio.to_thread(replica.check)
        projects = replica.projects()
        metrics.set_active_projects(len(projects))
        return {"projects": len(projects)}

    # Read when they are shown: what is late, or gone, announces nothing.
    behind = FeedLag(lambda: _hears_all(replica, follower), lambda: follower.as_of)
    read_at_scrape(metrics.FEED_CONNECTED, lambda: follower.connected)
    read_at_scrape(metrics.FEED_LAG, lambda: _lag(replica))
    read_at_scrape(metrics.FEED_LAG_SECONDS, behind.seconds)

    async def change_feed() -> Details | Degraded:
        lag = _lag(replica)
        behind.seconds()  # looks once a second, however seldom it is shown
        if not follower.connected:
            return Degraded(f"the indexer does not answer at {settings.indexer_address}: answers may be stale", {"lag": lag})
        stale = [project_id for project_id in follower.streams() if follower.stale_since(project_id) is not None]
        if stale:
            return Degraded(f"changes of {len(stale)} projects do not come through, {stale[0]} among them: see the log", {"lag": lag})
        return {"lag": lag}

    # What is required may be late before it counts as down: a queue behind many searches must not take the service out of its load balancer.
    monitor.add_check("database", database, latency=True, timeout=10.0)
    add_common_checks(
        monitor,
        chroma=chroma,
        embedder=embedder,
        data_dir=settings.data_dir,
        disk_reserve_bytes=_DISK_RESERVE_BYTES,
        when_low="the replica cannot follow the indexer much longer",
    )
    monitor.add_check("change_feed", change_feed, interval=1.0)
    _add_replica_check(monitor, replica, follower)


def _add_replica_check(monitor: HealthMonitor, replica: Replica, follower: Follower) -> None:
    async def copy() -> Details | Degraded:
        held, size = await asyncio.to_thread(lambda: (replica.totals(), replica.size_bytes()))
        metrics.REPLICA_DOCUMENTS.set(held.documents)
        metrics.REPLICA_CHUNKS.set(held.chunks)
        metrics.REPLICA_VECTORS.set(held.vectors)
        metrics.REPLICA_BYTES.set(size)
        details = {"projects": len(replica.projects()), "documents": held.documents, "chunks": held.chunks}
        mending = follower.mending()
        if mending:
            return Degraded(f"{len(mending)} projects were found to be wrong and are being fetched again, {mending[0]} among them", details)
        return details

    # Counting walks an index of every chunk.
    monitor.add_check("replica", copy, timeout=10.0)


def _cached(model: Embedder, settings: QuerySettings) -> CachingEmbedder:
    """The embedder of queries: behind a cache, and measured where the cache does not answer."""
    embedder = CachingEmbedder(
        MeasuredEmbedder(model),
        max_bytes=settings.query_cache_bytes,
        on_hit=metrics.EMBEDDING_CACHE_HITS.inc,
        on_miss=metrics.EMBEDDING_CACHE_MISSES.inc,
    )
    read_at_scrape(metrics.EMBEDDING_CACHE_BYTES, lambda: embedder.size_bytes)
    return embedder


def _connect(life: Lifecycle, settings: QuerySettings) -> GrpcFeed:
    """The indexer's feed. Nothing is connected yet."""
    measure_calls_to(_CALLED_SERVICES)
    channel = create_channel(settings.indexer_address, max_message_bytes=settings.max_message_bytes)
    life.on_stop("indexer channel", channel.close)
    return GrpcFeed(channel, settings.query_name, idle_timeout=settings.feed_idle_timeout)


def _start_reranker(life: Lifecycle, settings: QuerySettings) -> CrossEncoderReranker | None:
    """The reranker, which loads in the background; None if there is to be none."""
    if not settings.reranker_model:
        return None
    reranker = CrossEncoderReranker(settings.reranker_model, concurrency=settings.reranker_concurrency)
    life.on_stop("reranker", lambda: asyncio.to_thread(reranker.close))
    life.background("reranking model", ModelLoader(reranker, kind="reranking model", loaded=metrics.RERANKER_LOADED).run())
    return reranker


def _add_reranker_check(monitor: HealthMonitor, reranker: CrossEncoderReranker) -> None:
    async def scores() -> Details:
        await reranker.score("ready?", ["ready"])
        return {"model": reranker.model}

    monitor.add_check("reranker", scores, interval=30.0, timeout=10.0)


async def _start_canary(
    life: Lifecycle, settings: QuerySettings, replica: Replica, chroma: ChromaStore, model: LoadableEmbedder, follower: Follower, gate: Limits
) -> None:
    """Starts the search canary, if it is on; its searches keep nothing: it would else measure the caches."""
    metrics.CANARY_INTERVAL.set(settings.canary_interval)
    if not settings.canary_interval:
        return
    measure_calls_to(_CALLED_BY_CANARY)
    kb = await life.enter("canary client", KnowledgeBeast(settings.indexer_address))
    project_id = ProjectId(settings.canary_project)
    results = ResultCache(0, settings.result_cache_ttl, size_of_entry)
    ladder = Ladder(replica, _steps(settings), LastAnswers(0, settings.last_answer_ttl))
    search = Search(replica, chroma.store, model, follower, _budgets(settings), results, ladder, account=Uncounted())
    runs = SearchCanary(
        search,
        replica,
        IndexerCanaryProject(kb, project_id),
        await asyncio.to_thread(canary),
        project_id,
        interval=settings.canary_interval,
        crowded=lambda: gate.waiting > 0,
    )
    life.background("search canary", runs.run())


def _budgets(settings: QuerySettings) -> Budgets:
    return Budgets(embed=settings.embed_timeout, vector=settings.vector_timeout, rerank=settings.rerank_timeout)


def _steps(settings: QuerySettings) -> Fallbacks:
    return Fallbacks(settings.fallback_replica_vectors, settings.fallback_last_answer, settings.fallback_keyword)


async def _become_ready(
    monitor: HealthMonitor, settings: QuerySettings, loader: ModelLoader, replica: Replica, follower: Follower, warm: Callable[[str], Awaitable[None]]
) -> None:
    """Takes requests once the model is loaded, or known to be missing, the replica has caught up, and ChromaDB has answered a first query.

    If catching up takes too long, it takes them with what there is, because stale answers beat none; nor does it wait for a ChromaDB that is down.
    """
    timeout = settings.ready_lag_timeout
    started = time.monotonic()
    await loader.settled.wait()
    while not _caught_up(replica, follower):
        if time.monotonic() - started > timeout:
            _log.warning("taking requests although the replica has not caught up", waited_s=timeout)
            break
        await asyncio.sleep(_CATCH_UP_LOOK_SECONDS)
    largest = max(replica.projects(), key=lambda project: project.head, default=None)
    await warm("" if largest is None else largest.project.collection)
    monitor.set_ready(True)
    _log.info("ready", waited_s=round(time.monotonic() - started, 2), projects=len(replica.projects()))
    await asyncio.Event().wait()


def _caught_up(replica: Replica, follower: Follower) -> bool:
    """The list of projects is known, and every project has been heard of since the start and applied up to its head."""
    return (
        follower.connected
        and replica.project_list_cursor is not None
        and all(project.contact_time is not None and project.lag == 0 for project in replica.projects())
    )


def _hears_all(replica: Replica, follower: Follower) -> bool:
    """The replica has every change as far as it has heard, and no stream has fallen silent."""
    return _caught_up(replica, follower) and all(follower.stale_since(project_id) is None for project_id in (None, *follower.streams()))


def _lag(replica: Replica) -> int:
    """Changes that the replica has heard of and not applied, all projects together."""
    return sum(project.lag for project in replica.projects())


async def start(life: Lifecycle, settings: QuerySettings) -> None:
    """Opens the stages of the query service in order; they are closed in reverse."""
    life.on_stop("tracing", lambda: asyncio.to_thread(tracing.shutdown))
    states = ServingStates(SERVICES)
    health_port = await life.enter(
        "health port",
        health_server.serving(states, settings.query_host, settings.query_health_port, stall=settings.liveness_stall, setting="KB_QUERY_HEALTH_PORT"),
    )
    replica = await life.enter("replica", _open_replica(settings))
    chroma = create_chroma_store(settings)
    life.on_stop("chromadb client", chroma.client.close)
    model = create_embedder(
        settings.embedding_backend, settings.embedding_model, settings.model_dir, concurrency=settings.embedding_concurrency, arena=True
    )
    life.on_stop("embedder", lambda: asyncio.to_thread(model.close))
    loader = ModelLoader(model)
    life.background("model", loader.run())
    embedder = _cached(model, settings)

    reranker = _start_reranker(life, settings)

    feed = _connect(life, settings)
    follower = Follower(feed, replica, stale_after=settings.stale_after, name=settings.query_name)
    life.background("follower", follower.run())

    monitor = HealthMonitor("query", states, required={"database"})
    _add_checks(monitor, settings, replica, follower, chroma, model)
    if reranker is not None:
        _add_reranker_check(monitor, reranker)
    life.on_stop("health", monitor.stop)
    await loader.settle(_FIRST_LOAD_SECONDS)
    await monitor.start()

    budgets, outages, account = _budgets(settings), Outages(), Counted(SlowSearches(settings.slow_search))
    results = ResultCache(settings.result_cache_bytes, settings.result_cache_ttl, size_of_entry)
    ladder = Ladder(replica, _steps(settings), LastAnswers(settings.last_answer_bytes, settings.last_answer_ttl))
    search = Search(
        replica,
        chroma.store,
        embedder,
        follower,
        budgets,
        results,
        ladder,
        reranker=reranker,
        outages=outages,
        account=account,
        trace_texts=settings.trace_content,
    )
    find_similar = FindSimilar(replica, chroma.store, embedder, follower, budgets, ladder, outages=outages, account=account)
    time_limits = TimeLimits(settings.search_timeout, settings.search_timeout_max, settings.search_margin)
    gate = Limits(limits(settings))
    server = rpc_server.create_server(interceptors=chain.interceptors(chain.middlewares(gate)), max_message_bytes=settings.max_message_bytes)
    query_pb2_grpc.add_QueryServiceServicer_to_server(QueryServicer(search, find_similar, time_limits), server)
    verify = VerifyReplica(replica, feed, follower, settings.query_name)
    metrics.REPLICA_VERIFY_INTERVAL.set(settings.replica_verify_interval)
    if settings.replica_verify_interval:
        life.background("replica verification", VerifySchedule(verify, replica, settings.replica_verify_interval).run())
    replica_pb2_grpc.add_ReplicaServiceServicer_to_server(ReplicaServicer(verify), server)
    add_ops_services(server, monitor)
    health = HealthServicer(states)
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    rpc_server.describe(server, SERVICES)
    port = rpc_server.bind(server, settings.query_host, settings.query_port, setting="KB_QUERY_PORT")
    http_port = await life.enter(
        "http", http.serving(http.create_app(monitor.snapshot), settings.query_host, settings.query_http_port, setting="KB_QUERY_HTTP_PORT")
    )
    await life.enter("server", rpc_server.serving(server, grace=(life.grace - settings.drain_delay) / 2))
    life.on_drain(monitor.enter_shutdown, delay=settings.drain_delay, end=health.end_watches)
    warm = partial(warm_up, chroma.store, model, settings.warm_up_timeout)
    await _start_canary(life, settings, replica, chroma, model, follower, gate)
    life.background("becoming ready", _become_ready(monitor, settings, loader, replica, follower, warm))
    _log.info("the query service listens", port=port, http_port=http_port, health_port=health_port)

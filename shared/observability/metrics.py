"""Every metric of the project, in one registry: name, labels, unit and meaning stand here and nowhere else; docs/metrics.md is made from it.

Labels are bounded: each has a closed list of values, or states what bounds it. Series of closed labels exist from the start, because a counter
that is born at 1 shows no increase, so that its first event would be lost. Only the gauge of collection sizes is labelled with projects, and
only with the largest. Times are in seconds, sizes in bytes, as the names say.

A process shows what its service has, and nothing of the other: `describe_service` takes the rest out.
"""

from __future__ import annotations

import enum
import itertools
import math
from dataclasses import dataclass
from typing import Final, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, GCCollector, Histogram, PlatformCollector, ProcessCollector, disable_created_metrics

from shared.version import VERSION

disable_created_metrics()  # type: ignore[no-untyped-call] # the library's function has no annotations

REGISTRY: Final = CollectorRegistry(auto_describe=True)
ProcessCollector(registry=REGISTRY)
PlatformCollector(registry=REGISTRY)
GCCollector(registry=REGISTRY)

# From a cached search to ChromaDB's longest wait; the alerts and objectives need the bounds .02, .1, .15 and .5.
SECONDS_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.15, 0.25, 0.5, 1, 2.5, 5, 10)
# Fusing and looking up take microseconds.
SHORT_BUCKETS: Final = (0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1)
# From what a small document takes to an outage of an hour.
SEARCHABLE_BUCKETS: Final = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600)
COUNT_BUCKETS: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)

MetricT = TypeVar("MetricT", Counter, Gauge, Histogram)


class Service(enum.StrEnum):
    """Who shows a metric."""

    INDEXER = "indexer"
    QUERY = "query"


_BOTH: Final = (Service.INDEXER, Service.QUERY)
_INDEXER: Final = (Service.INDEXER,)
_QUERY: Final = (Service.QUERY,)


@dataclass(frozen=True, slots=True)
class Label:
    """A label: its values if they are a closed list, else what bounds them."""

    name: str
    values: tuple[str, ...] = ()
    bound: str = ""


@dataclass(frozen=True, slots=True)
class Definition:
    """What is known of a metric, for the document and for tests. `unit` is empty of a plain number; only histograms have `buckets`."""

    name: str
    kind: str
    unit: str
    text: str
    labels: tuple[Label, ...]
    services: tuple[Service, ...]
    section: str
    metric: Counter | Gauge | Histogram
    buckets: tuple[float, ...] = ()


DEFINITIONS: Final[list[Definition]] = []
_UNITS: Final = ("seconds", "bytes")
_section = ""


def _begin(section: str) -> None:
    global _section  # noqa: PLW0603 - set while this module is read, never after
    _section = section


def _counter(name: str, text: str, *labels: Label, of: tuple[Service, ...] = _BOTH) -> Counter:
    return _define("counter", name, text, labels, of, Counter(name, text, _names(labels), registry=REGISTRY, unit=_unit(name)))


def _gauge(name: str, text: str, *labels: Label, of: tuple[Service, ...] = _BOTH, unknown: bool = False) -> Gauge:
    """`unknown`: the value is NaN until it is set, where 0 would be a statement; no comparison in a rule holds for it."""
    gauge = _define("gauge", name, text, labels, of, Gauge(name, text, _names(labels), registry=REGISTRY, unit=_unit(name)))
    if unknown:
        gauge.set(math.nan)
    return gauge


def _histogram(
    name: str,
    text: str,
    *labels: Label,
    of: tuple[Service, ...] = _BOTH,
    buckets: tuple[float, ...] = SECONDS_BUCKETS,
    from_start: bool = True,
) -> Histogram:
    """`from_start`: whether the series of all values exist from the start; not of two long labels, most of whose pairs never occur."""
    metric = Histogram(name, text, _names(labels), registry=REGISTRY, unit=_unit(name), buckets=buckets)
    return _define("histogram", name, text, labels, of, metric, from_start=from_start, buckets=buckets)


def _names(labels: tuple[Label, ...]) -> tuple[str, ...]:
    return tuple(label.name for label in labels)


def _unit(name: str) -> str:
    return next((unit for unit in _UNITS if name.removesuffix("_total").endswith(f"_{unit}")), "")


def _define(
    kind: str,
    name: str,
    text: str,
    labels: tuple[Label, ...],
    services: tuple[Service, ...],
    metric: MetricT,
    *,
    from_start: bool = True,
    buckets: tuple[float, ...] = (),
) -> MetricT:
    DEFINITIONS.append(Definition(name, kind, _unit(name), text, labels, services, _section, metric, buckets))
    if labels and from_start and all(label.values for label in labels):
        for values in itertools.product(*(label.values for label in labels)):
            metric.labels(*values)
    return metric


_begin("RPCs")
# Names and labels of go-grpc-middleware, so that its dashboards and rules work. `shared/rpc/metrics.py` makes the series of every method and code.
_TYPE: Final = Label("grpc_type", ("unary", "client_stream", "server_stream", "bidi_stream"))
_GRPC_SERVICE: Final = Label("grpc_service", bound="services of the protos")
_GRPC_METHOD: Final = Label("grpc_method", bound="methods of the protos")
_GRPC_CODE: Final = Label("grpc_code", bound="gRPC's status codes, as Go spells them: OK, NotFound, DeadlineExceeded, …")
_RPC: Final = (_TYPE, _GRPC_SERVICE, _GRPC_METHOD)
GRPC_STARTED: Final = _counter("grpc_server_started_total", "RPCs that were started.", *_RPC)
GRPC_HANDLED: Final = _counter("grpc_server_handled_total", "RPCs that ended, whatever the outcome.", *_RPC, _GRPC_CODE)
GRPC_HANDLING_SECONDS: Final = _histogram("grpc_server_handling_seconds", "Seconds from the start of an RPC to its end.", *_RPC)
GRPC_RECEIVED: Final = _counter("grpc_server_msg_received_total", "Messages of RPCs that were received.", *_RPC)
GRPC_SENT: Final = _counter("grpc_server_msg_sent_total", "Messages of RPCs that were sent.", *_RPC)
GRPC_CLIENT_STARTED: Final = _counter("grpc_client_started_total", "RPCs to the indexer that were started.", *_RPC, of=_QUERY)
GRPC_CLIENT_HANDLED: Final = _counter(
    "grpc_client_handled_total",
    "RPCs to the indexer that ended, whatever the outcome. A feed ends when its connection does.",
    *_RPC,
    _GRPC_CODE,
    of=_QUERY,
)
GRPC_CLIENT_HANDLING_SECONDS: Final = _histogram(
    "grpc_client_handling_seconds", "Seconds from the start of an RPC to the indexer to its end, as the query service saw it.", *_RPC, of=_QUERY
)
REQUESTS_IN_FLIGHT: Final = _gauge("kb_requests_in_flight", "RPCs that were let in and have not ended.", _GRPC_SERVICE, _GRPC_METHOD)
REQUESTS_WAITING: Final = _gauge("kb_requests_waiting", "RPCs that wait to be let in.", _GRPC_SERVICE, _GRPC_METHOD)
REQUESTS_SHED: Final = _counter("kb_requests_shed_total", "RPCs that were refused because there was too much to do.", _GRPC_SERVICE, _GRPC_METHOD)

_begin("Search")
_MODE: Final = Label("mode", ("hybrid", "vector", "keyword", "similar"))
_LEG: Final = Label("leg", ("vector", "keyword"))
QUERY_DURATION: Final = _histogram(
    "kb_query_duration_seconds",
    "Seconds that answering a search took, by its mode; similar: FindSimilar, which has none.",
    _MODE,
    Label("degraded", ("true", "false")),
    of=_QUERY,
)
DEGRADED_ANSWERS: Final = _counter(
    "kb_degraded_answers_total",
    "Degraded answers, by what degraded them; an answer may count more than once.",
    Label(
        "reason",
        (
            "vector_store_unavailable",
            "vector_leg_missing",
            "embedding_unavailable",
            "replica_stale",
            "vectors_stale",
            "reranking_skipped",
            "diversity_skipped",
            "filter_incomplete",
            "last_good_answer",
        ),
    ),
    of=_QUERY,
)
FALLBACK_ANSWERS: Final = _counter(
    "kb_fallback_answers_total",
    "Searches whose vector leg could not be run as it should, by what stood in; refused: nothing did, the search failed.",
    Label("step", ("replica_vectors", "last_answer", "keyword", "refused")),
    of=_QUERY,
)
SLOW_SEARCHES: Final = _counter(
    "kb_slow_searches_total", "Searches that took longer than KB_SLOW_SEARCH, and were logged with their stages.", of=_QUERY
)
LAST_ANSWERS_BYTES: Final = _gauge(
    "kb_last_answers_bytes", "Bytes that the answers take which are kept for when vectors cannot be searched, estimated.", of=_QUERY
)
VECTOR_SEARCH_DURATION: Final = _histogram("kb_vector_search_duration_seconds", "Seconds that the vector leg took.", of=_QUERY)
KEYWORD_SEARCH_DURATION: Final = _histogram("kb_keyword_search_duration_seconds", "Seconds that the keyword leg took.", of=_QUERY)
FUSION_DURATION: Final = _histogram(
    "kb_fusion_duration_seconds", "Seconds that fusing the candidates of both legs took.", of=_QUERY, buckets=SHORT_BUCKETS
)
SEARCH_CANDIDATES: Final = _histogram(
    "kb_search_candidates", "Candidates that a leg of a search found.", _LEG, of=_QUERY, buckets=(0, *COUNT_BUCKETS)
)
RESULT_CACHE_HITS: Final = _counter("kb_result_cache_hits_total", "Searches whose answer was in the cache.", of=_QUERY)
RESULT_CACHE_MISSES: Final = _counter("kb_result_cache_misses_total", "Searches whose answer was looked for in the cache and not found.", of=_QUERY)
RESULT_CACHE_BYTES: Final = _gauge("kb_result_cache_bytes", "Bytes that the cached answers take, estimated.", of=_QUERY)
SEARCHES_SHARED: Final = _counter(
    "kb_searches_shared_total", "Searches that waited for an identical one under way instead of running themselves.", of=_QUERY
)
RERANKING_DURATION: Final = _histogram(
    "kb_reranking_duration_seconds", "Seconds that scoring the candidates of one search took, waiting for a core included.", of=_QUERY
)
RERANKER_LOADED: Final = _gauge("kb_reranker_loaded", "1 when the reranking model is loaded, else 0.", of=_QUERY)

_begin("Search quality")
SEARCH_NDCG: Final = _gauge(
    "kb_search_ndcg",
    "NDCG@10 of the golden queries in the last run of the canary, 0 to 1; NaN before the first and after one that failed.",
    of=_QUERY,
    unknown=True,
)
CANARY_DURATION: Final = _histogram(
    "kb_search_canary_duration_seconds",
    "Seconds that the golden queries of one run of the canary took together, without the pauses between them.",
    of=_QUERY,
    buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
)
CANARY_RUNS: Final = _counter(
    "kb_search_canary_runs_total",
    "Runs of the canary; failed: it could not ask all its queries, or its project was not there.",
    Label("outcome", ("succeeded", "failed")),
    of=_QUERY,
)
CANARY_LAST_SUCCESS: Final = _gauge(
    "kb_search_canary_last_success_timestamp_seconds",
    "Seconds since 1970 at the end of the last run of the canary that asked all its queries; 0: none yet, or the canary is off.",
    of=_QUERY,
)
CANARY_INTERVAL: Final = _gauge("kb_search_canary_interval_seconds", "Seconds between two runs of the canary, as set; 0: it is off.", of=_QUERY)

_begin("Embedding")
EMBEDDING_DURATION: Final = _histogram(
    "kb_embedding_duration_seconds", "Seconds that embedding one batch took, waiting for a free core included. In the query service: of queries."
)
EMBEDDING_BATCH_SIZE: Final = _histogram("kb_embedding_batch_size", "Texts in an embedding batch.", buckets=COUNT_BUCKETS)
EMBEDDING_CACHE_HITS: Final = _counter("kb_embedding_cache_hits_total", "Texts whose vector was in the cache.", of=_QUERY)
EMBEDDING_CACHE_MISSES: Final = _counter("kb_embedding_cache_misses_total", "Texts that had to be embedded.", of=_QUERY)
EMBEDDING_CACHE_BYTES: Final = _gauge("kb_embedding_cache_bytes", "Bytes that the cached vectors of queries take.", of=_QUERY)
MODEL_LOADED: Final = _gauge("kb_model_loaded", "1 when the embedding model is loaded, else 0.")

_begin("Catalog")
ACTIVE_PROJECTS: Final = _gauge("kb_active_projects", "Projects that exist now.")
# A gauge with a counter's suffix: the name was asked for. The one above follows the conventions and has the same value.
ACTIVE_PROJECTS_TOTAL: Final = _gauge(
    "kb_active_projects_total", "Projects that exist now. The same as kb_active_projects, under a name that was asked for."
)
CATALOG_COMMIT_DURATION: Final = _histogram(
    "kb_catalog_commit_duration_seconds", "Seconds that a commit of the catalog took, fsync included.", of=_INDEXER
)
CATALOG_COMMIT_SIZE: Final = _histogram("kb_catalog_commit_size", "Writes in one commit of the catalog.", of=_INDEXER, buckets=COUNT_BUCKETS)
CATALOG_QUEUE_BYTES: Final = _gauge("kb_catalog_write_queue_bytes", "Bytes of documents that wait to be committed.", of=_INDEXER)
CATALOG_BYTES: Final = _gauge("kb_catalog_size_bytes", "Size of the catalog's database file.", of=_INDEXER)
CATALOG_WAL_BYTES: Final = _gauge("kb_catalog_wal_size_bytes", "Size of the catalog's write-ahead log.", of=_INDEXER)
CATALOG_DOCUMENTS: Final = _gauge("kb_catalog_documents", "Documents in the catalog, all projects together.", of=_INDEXER)
CATALOG_CHUNKS: Final = _gauge("kb_catalog_chunks", "Chunks in the catalog, all projects together.", of=_INDEXER)
DAMAGED_DOCUMENTS: Final = _gauge(
    "kb_catalog_damaged_documents",
    "Documents of the catalog that the last look at all of them found to be not what was written, or could not read.",
    of=_INDEXER,
)
DOCUMENTS_WRITTEN: Final = _counter(
    "kb_documents_written_total",
    "Documents that were sent to be written, by what became of them.",
    Label("outcome", ("written", "unchanged", "deleted", "refused")),
    of=_INDEXER,
)

_begin("From a write to a search")
INGEST_TO_SEARCHABLE: Final = _histogram(
    "kb_ingest_to_searchable_seconds",
    "Seconds from the commit of a document's change until searches find it so. leg vector: its vectors are in ChromaDB (shown by the indexer); "
    "keyword: this replica has it (shown by the query service, by the clocks of both machines). Of copies that are made from nothing only what was "
    "committed since counts.",
    _LEG,
    buckets=SEARCHABLE_BUCKETS,
)
PROJECTOR_LAG: Final = _gauge(
    "kb_projector_lag_sequences", "Changes that are committed but not yet in the vector store, all projects together.", of=_INDEXER
)
PROJECTOR_LAG_SECONDS: Final = _gauge(
    "kb_projector_lag_seconds",
    "Age of the oldest change that has never been in the vector store; 0 when there is none. What is only written there again does not count.",
    of=_INDEXER,
)
PROJECTOR_CHUNKS: Final = _counter("kb_projector_chunks_total", "Chunks that the projector has written to the vector store.", of=_INDEXER)
PROJECTOR_BATCH_DURATION: Final = _histogram(
    "kb_projector_batch_duration_seconds",
    "Seconds that writing one page of changes to the vector store took, waiting for its turn included.",
    of=_INDEXER,
)
PROJECTOR_FAILURES: Final = _counter("kb_projector_failures_total", "Rounds of the projector that failed and are tried again.", of=_INDEXER)
FEED_STREAMS: Final = _gauge("kb_feed_streams", "Change feeds that are open now.", Label("stream", ("project_list", "project")), of=_INDEXER)
_FOLLOWER: Final = Label("follower", bound="names of the query services that follow, at most 50 and `_other`; removed when their last stream ends")
FEED_FOLLOWER_LAG: Final = _gauge(
    "kb_feed_follower_lag_sequences",
    "Changes that a follower has not been sent yet, all its projects together. What waits in its connection, some megabytes, counts as sent: "
    "how late that is, kb_feed_lag_seconds tells.",
    _FOLLOWER,
    of=_INDEXER,
)
FEED_LAG: Final = _gauge(
    "kb_feed_lag_sequences",
    "Changes that this replica has heard of but not yet applied, all projects together. Those that wait in its connection it has not heard of: "
    "how late they are, kb_feed_lag_seconds tells.",
    of=_QUERY,
)
FEED_LAG_SECONDS: Final = _gauge(
    "kb_feed_lag_seconds",
    "Seconds since this replica was last heard to have every change of every project, or the age of the newest change that it has applied to a "
    "project (by the clocks of both machines) until a heartbeat, one every 2 seconds, says that there are no others, whichever is more; else 0.",
    of=_QUERY,
)
FEED_CONNECTED: Final = _gauge("kb_feed_connected", "1 when this replica hears from the indexer, else 0.", of=_QUERY)
FEED_CHANGES_APPLIED: Final = _counter(
    "kb_feed_changes_applied_total",
    "Changes that this replica has applied: documents that were written or deleted, and vectors.",
    Label("stream", ("documents", "vectors")),
    of=_QUERY,
)
REPLICA_DOCUMENTS: Final = _gauge("kb_replica_documents", "Documents in this replica.", of=_QUERY)
REPLICA_CHUNKS: Final = _gauge("kb_replica_chunks", "Chunks in this replica.", of=_QUERY)
REPLICA_VECTORS: Final = _gauge("kb_replica_vectors", "Vectors in this replica.", of=_QUERY)
REPLICA_BYTES: Final = _gauge("kb_replica_size_bytes", "Size of this replica's files.", of=_QUERY)

_begin("Quarantine, comparing and mending")
QUARANTINED_CHUNKS: Final = _gauge(
    "kb_quarantined_chunks",
    "Chunks in quarantine, all projects together, by what refuses them.",
    Label("stage", ("embedding", "vector_store")),
    of=_INDEXER,
)
QUARANTINE_EVENTS: Final = _counter(
    "kb_quarantine_events_total",
    "Chunks that were put into quarantine (quarantined), let out of it to be tried again (retried), and written after that (released).",
    Label("event", ("quarantined", "retried", "released")),
    of=_INDEXER,
)
_VECTOR_DIFFERENCE: Final = Label("kind", ("collection_missing", "vectors_missing", "vectors_extra"))
RECONCILE_DIFFERENCES: Final = _counter(
    "kb_reconcile_differences_total",
    "Vectors (of the first kind: collections) in which ChromaDB was found to differ from the catalog.",
    _VECTOR_DIFFERENCE,
    of=_INDEXER,
)
RECONCILE_REPAIRED: Final = _counter(
    "kb_reconcile_repaired_total", "Those of them that were mended, or whose mending was begun.", _VECTOR_DIFFERENCE, of=_INDEXER
)
RECONCILE_LAST_SUCCESS: Final = _gauge(
    "kb_reconcile_last_success_timestamp_seconds",
    "Seconds since 1970 at the end of the last comparison of all projects with ChromaDB; 0: none yet.",
    of=_INDEXER,
)
VERIFY_INTERVAL: Final = _gauge(
    "kb_verify_interval_seconds", "Seconds between two comparisons of all projects with ChromaDB, as set; 0: there are none.", of=_INDEXER
)
RECONCILE_DURATION: Final = _histogram(
    "kb_reconcile_duration_seconds",
    "Seconds that comparing one project with ChromaDB took, mending included.",
    of=_INDEXER,
    buckets=(0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30, 60, 300, 1800),
)
REPLICA_DIFFERENCES: Final = _counter(
    "kb_replica_differences_total",
    "Documents (of the last two kinds: chunks) in which this replica was found to be wrong.",
    Label("kind", ("documents_missing", "documents_extra", "documents_different", "keyword_index", "replica_vectors")),
    of=_QUERY,
)
REPLICA_VERIFIED: Final = _gauge(
    "kb_replica_verified_timestamp_seconds",
    "Seconds since 1970 at the end of the last comparison of all projects of this replica; 0: none yet.",
    of=_QUERY,
)
REPLICA_VERIFY_INTERVAL: Final = _gauge(
    "kb_replica_verify_interval_seconds",
    "Seconds between two comparisons of all projects of this replica with the indexer, as set; 0: there are none.",
    of=_QUERY,
)

_begin("ChromaDB")
# It has no metrics of its own, so it is measured from outside.
CHROMADB_UP: Final = _gauge("kb_chromadb_up", "1 when ChromaDB answered the last health check, else 0; NaN before the first.", unknown=True)
CHROMADB_COLLECTION_SIZE: Final = _gauge(
    "kb_chromadb_collection_size",
    "Vectors that ChromaDB holds of a project, as it counts them.",
    Label("project", bound="the 20 largest projects; the others together are `_other`"),
    of=_INDEXER,
)
CHROMADB_REQUEST_DURATION: Final = _histogram(
    "kb_chromadb_request_duration_seconds",
    "Seconds that one attempt at a call to ChromaDB took.",
    Label(
        "operation",
        ("query", "ping", "ensure_collection", "drop_collection", "add", "delete", "count", "existing", "list_ids", "list_collections"),
    ),
    Label("outcome", ("ok", "unavailable", "not_found", "refused", "cancelled", "error")),
    from_start=False,
)
BREAKER_STATE: Final = _gauge("kb_breaker_state", "Circuit breaker around ChromaDB: 0 closed, 1 half-open, 2 open.")
BREAKER_TRANSITIONS: Final = _counter(
    "kb_breaker_transitions_total", "Changes of the breaker's state, by what it changed to.", Label("to", ("closed", "half_open", "open"))
)
BREAKER_REJECTIONS: Final = _counter("kb_breaker_rejections_total", "Calls that the open breaker refused.")
RETRIES: Final = _counter(
    "kb_retries_total",
    "Calls to ChromaDB by how their retrying ended.",
    Label("outcome", ("succeeded", "recovered", "not_retryable", "attempts_spent", "no_time", "no_budget", "cancelled")),
)
RETRY_BUDGET: Final = _gauge("kb_retry_budget", "Retries of calls to ChromaDB that could be made now; with less than 1 there are none.")

_begin("Process")
BUILD_INFO: Final = _gauge(
    "kb_build_info", "Always 1; the labels say what runs.", Label("service", bound="indexer or query"), Label("version", bound="one a process")
)
READY: Final = _gauge("kb_ready", "1 when the service says that it can take requests, else 0.")
COMPONENT_STATUS: Final = _gauge(
    "kb_component_status", "Health of a component: 0 down, 1 degraded, 2 up.", Label("component", bound="the service's health checks")
)
DISK_FREE_BYTES: Final = _gauge("kb_disk_free_bytes", "Bytes that are free on the disk of the service's data.", unknown=True)
DISK_SIZE_BYTES: Final = _gauge("kb_disk_size_bytes", "Size of the disk of the service's data.", unknown=True)
EVENT_LOOP_DELAY: Final = _histogram(
    "kb_event_loop_delay_seconds", "Seconds by which the event loop was late for a beat, which it has about once a second.", buckets=SECONDS_BUCKETS
)
SPANS_EXPORTED: Final = _counter("kb_spans_exported_total", "Spans that a trace collector has taken.")
SPANS_DROPPED: Final = _counter(
    "kb_spans_dropped_total",
    "Spans that were lost; queue_full: too many waited to be exported; export_failed: the collector did not take them.",
    Label("reason", ("queue_full", "export_failed")),
)
LOG_LINES: Final = _counter("kb_log_lines_total", "Lines that were logged.", Label("level", ("debug", "info", "warning", "error", "critical")))
LOG_LINES_LOST: Final = _counter("kb_log_lines_lost_total", "Lines that could not be written.")


def describe_service(service: str) -> None:
    """States which service and version this process is, and takes out what the other service has. Once a process."""
    BUILD_INFO.labels(service=service, version=VERSION).set(1)
    for definition in DEFINITIONS:
        if service not in definition.services:
            REGISTRY.unregister(definition.metric)


def set_active_projects(count: int) -> None:
    """Sets both gauges of the number of projects."""
    ACTIVE_PROJECTS.set(count)
    ACTIVE_PROJECTS_TOTAL.set(count)

"""Every metric of the project, in one registry: name, labels, unit and meaning stand here and nowhere else.

Labels are bounded: methods and codes by the protos, the others by the values that their help text lists. No metric is labelled with a
project. Times are in seconds.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, GCCollector, Histogram, PlatformCollector, ProcessCollector, disable_created_metrics

from shared.version import VERSION

disable_created_metrics()  # type: ignore[no-untyped-call] # the library's function has no annotations

REGISTRY: Final = CollectorRegistry(auto_describe=True)
ProcessCollector(registry=REGISTRY)
PlatformCollector(registry=REGISTRY)
GCCollector(registry=REGISTRY)

# From a cached search to ChromaDB's longest wait; the alerts and objectives need the bounds .02, .1, .15 and .5.
SECONDS_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.15, 0.25, 0.5, 1, 2.5, 5, 10)
COUNT_BUCKETS: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


def _counter(name: str, text: str, *labels: str) -> Counter:
    return Counter(name, text, labels, registry=REGISTRY)


def _gauge(name: str, text: str, *labels: str) -> Gauge:
    return Gauge(name, text, labels, registry=REGISTRY)


def _histogram(name: str, text: str, *labels: str, buckets: tuple[float, ...] = SECONDS_BUCKETS) -> Histogram:
    return Histogram(name, text, labels, buckets=buckets, registry=REGISTRY)


# --- RPCs: names and labels of go-grpc-middleware, so that its dashboards and rules work ------------------------------------------------------
_RPC: Final = ("grpc_type", "grpc_service", "grpc_method")
GRPC_STARTED: Final = _counter("grpc_server_started_total", "RPCs that were started.", *_RPC)
GRPC_HANDLED: Final = _counter("grpc_server_handled_total", "RPCs that ended, whatever the outcome.", *_RPC, "grpc_code")
GRPC_HANDLING_SECONDS: Final = _histogram("grpc_server_handling_seconds", "Seconds from the start of an RPC to its end.", *_RPC)
REQUESTS_IN_FLIGHT: Final = _gauge("kb_requests_in_flight", "RPCs that were let in and have not ended.", "grpc_service", "grpc_method")
REQUESTS_WAITING: Final = _gauge("kb_requests_waiting", "RPCs that wait to be let in.", "grpc_service", "grpc_method")
REQUESTS_SHED: Final = _counter("kb_requests_shed_total", "RPCs that were refused because there was too much to do.", "grpc_service", "grpc_method")

# --- search ------------------------------------------------------------------------------------------------------------------------------
QUERY_DURATION: Final = _histogram(
    "kb_query_duration_seconds",
    "Seconds that answering a search took. mode: hybrid, vector, keyword; degraded: true, false.",
    "mode",
    "degraded",
)
DEGRADED_ANSWERS: Final = _counter(
    "kb_degraded_answers_total", "Degraded answers. reason: the Degradation.Reason without REASON_, lower case.", "reason"
)
_FALLBACK_STEPS: Final = ("replica_vectors", "last_answer", "keyword", "refused")
FALLBACK_ANSWERS: Final = _counter(
    "kb_fallback_answers_total",
    "Searches whose vector leg could not be run as it should, by what stood in. step: replica_vectors, last_answer, keyword; refused: nothing, the "
    "search failed.",
    "step",
)
LAST_ANSWERS_BYTES: Final = _gauge(
    "kb_last_answers_bytes", "Bytes that the answers take which are kept for when vectors cannot be searched, estimated."
)
VECTOR_SEARCH_DURATION: Final = _histogram("kb_vector_search_duration_seconds", "Seconds that the vector leg took.")
KEYWORD_SEARCH_DURATION: Final = _histogram("kb_keyword_search_duration_seconds", "Seconds that the keyword leg took.")
RESULT_CACHE_HITS: Final = _counter("kb_result_cache_hits_total", "Searches whose answer was in the cache.")
RESULT_CACHE_MISSES: Final = _counter("kb_result_cache_misses_total", "Searches whose answer was looked for in the cache and not found.")
RESULT_CACHE_BYTES: Final = _gauge("kb_result_cache_bytes", "Bytes that the cached answers take, estimated.")
SEARCHES_SHARED: Final = _counter("kb_searches_shared_total", "Searches that waited for an identical one under way instead of running themselves.")

# --- reranking ---------------------------------------------------------------------------------------------------------------------------
RERANKING_DURATION: Final = _histogram(
    "kb_reranking_duration_seconds", "Seconds that scoring the candidates of one search took, waiting for a core included."
)
RERANKER_LOADED: Final = _gauge("kb_reranker_loaded", "1 when the reranking model is loaded, else 0.")

# --- embedding ---------------------------------------------------------------------------------------------------------------------------
EMBEDDING_DURATION: Final = _histogram("kb_embedding_duration_seconds", "Seconds that embedding one batch took, waiting for a free core included.")
EMBEDDING_BATCH_SIZE: Final = _histogram("kb_embedding_batch_size", "Texts in an embedding batch.", buckets=COUNT_BUCKETS)
EMBEDDING_CACHE_HITS: Final = _counter("kb_embedding_cache_hits_total", "Texts whose vector was in the cache.")
EMBEDDING_CACHE_MISSES: Final = _counter("kb_embedding_cache_misses_total", "Texts that had to be embedded.")
MODEL_LOADED: Final = _gauge("kb_model_loaded", "1 when the embedding model is loaded, else 0.")

# --- catalog, projector, feed --------------------------------------------------------------------------------------------------------------
ACTIVE_PROJECTS: Final = _gauge("kb_active_projects", "Projects that exist now.")
# A gauge with a counter's suffix: the name was asked for. The one above follows the conventions and has the same value.
ACTIVE_PROJECTS_TOTAL: Final = _gauge("kb_active_projects_total", "Projects that exist now. The same as kb_active_projects.")
CATALOG_COMMIT_DURATION: Final = _histogram("kb_catalog_commit_duration_seconds", "Seconds that a commit of the catalog took, fsync included.")
CATALOG_COMMIT_SIZE: Final = _histogram("kb_catalog_commit_size", "Writes in one commit of the catalog.", buckets=COUNT_BUCKETS)
DOCUMENTS_WRITTEN: Final = _counter(
    "kb_documents_written_total", "Documents that were sent to be written. outcome: written, unchanged, deleted, refused.", "outcome"
)
PROJECTOR_LAG: Final = _gauge("kb_projector_lag_sequences", "Changes that are committed but not yet in the vector store, all projects together.")
PROJECTOR_CHUNKS: Final = _counter("kb_projector_chunks_total", "Chunks that the projector has written to the vector store.")
PROJECTOR_FAILURES: Final = _counter("kb_projector_failures_total", "Rounds of the projector that failed and are tried again.")
_QUARANTINE_STAGES: Final = ("embedding", "vector_store")
QUARANTINED_CHUNKS: Final = _gauge(
    "kb_quarantined_chunks", f"Chunks in quarantine, all projects together. stage: {', '.join(_QUARANTINE_STAGES)}.", "stage"
)
_QUARANTINE_EVENTS: Final = ("quarantined", "retried", "released")
QUARANTINE_EVENTS: Final = _counter(
    "kb_quarantine_events_total",
    "Chunks that were put into quarantine (quarantined), let out of it to be tried again (retried), and written after that (released). "
    f"event: {', '.join(_QUARANTINE_EVENTS)}.",
    "event",
)
_VECTOR_DIFFERENCES: Final = ("collection_missing", "vectors_missing", "vectors_extra")
RECONCILE_DIFFERENCES: Final = _counter(
    "kb_reconcile_differences_total",
    f"Vectors (of the first kind: collections) in which ChromaDB was found to differ from the catalog. kind: {', '.join(_VECTOR_DIFFERENCES)}.",
    "kind",
)
RECONCILE_REPAIRED: Final = _counter(
    "kb_reconcile_repaired_total", "Those of them that were mended, or whose mending was begun. kind: as in kb_reconcile_differences_total.", "kind"
)
RECONCILE_LAST_SUCCESS: Final = _gauge(
    "kb_reconcile_last_success_timestamp_seconds", "Seconds since 1970 at the end of the last comparison of all projects with ChromaDB; 0: none yet."
)
RECONCILE_DURATION: Final = _histogram(
    "kb_reconcile_duration_seconds",
    "Seconds that comparing one project with ChromaDB took, mending included.",
    buckets=(0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30, 60, 300, 1800),
)
DAMAGED_DOCUMENTS: Final = _gauge(
    "kb_catalog_damaged_documents", "Documents of the catalog that the last look at all of them found to be not what was written, or could not read."
)
FEED_LAG: Final = _gauge("kb_feed_lag_sequences", "Changes that this replica has heard of but not yet applied, all projects together.")
_REPLICA_DIFFERENCES: Final = ("documents_missing", "documents_extra", "documents_different", "keyword_index", "replica_vectors")
REPLICA_DIFFERENCES: Final = _counter(
    "kb_replica_differences_total",
    f"Documents (of the last two kinds: chunks) in which this replica was found to be wrong. kind: {', '.join(_REPLICA_DIFFERENCES)}.",
    "kind",
)
REPLICA_VERIFIED: Final = _gauge(
    "kb_replica_verified_timestamp_seconds", "Seconds since 1970 at the end of the last comparison of all projects of this replica; 0: none yet."
)
FEED_CONNECTED: Final = _gauge("kb_feed_connected", "1 when this replica hears from the indexer, else 0.")

# --- ChromaDB: it has no metrics of its own, so it is measured from outside -------------------------------------------------------------------
CHROMADB_UP: Final = _gauge("kb_chromadb_up", "1 when ChromaDB answered the last health check, else 0.")
CHROMADB_REQUEST_DURATION: Final = _histogram(
    "kb_chromadb_request_duration_seconds",
    "Seconds that one attempt at a call to ChromaDB took. operation: the port's method; "
    "outcome: ok, unavailable, rejected, not_found, refused, cancelled, error.",
    "operation",
    "outcome",
)
BREAKER_STATE: Final = _gauge("kb_breaker_state", "Circuit breaker around ChromaDB: 0 closed, 1 half-open, 2 open.")
BREAKER_TRANSITIONS: Final = _counter("kb_breaker_transitions_total", "Changes of the breaker's state. to: closed, half_open, open.", "to")
BREAKER_REJECTIONS: Final = _counter("kb_breaker_rejections_total", "Calls that the open breaker refused.")
_RETRY_OUTCOMES: Final = ("succeeded", "recovered", "not_retryable", "attempts_spent", "no_time", "no_budget", "cancelled")
RETRIES: Final = _counter("kb_retries_total", f"Calls to ChromaDB by how their retrying ended. outcome: {', '.join(_RETRY_OUTCOMES)}.", "outcome")
RETRY_BUDGET: Final = _gauge("kb_retry_budget", "Retries of calls to ChromaDB that could be made now; with less than 1 there are none.")

BUILD_INFO: Final = _gauge("kb_build_info", "Always 1; the labels say what runs.", "service", "version")


def describe_service(service: str) -> None:
    """States which service and version this process is."""
    BUILD_INFO.labels(service=service, version=VERSION).set(1)


def set_active_projects(count: int) -> None:
    """Sets both gauges of the number of projects."""
    ACTIVE_PROJECTS.set(count)
    ACTIVE_PROJECTS_TOTAL.set(count)


def _start_at_zero(counter: Counter, label: str, values: Iterable[str]) -> None:
    """Makes the series before anything is counted: a counter that is born at 1 shows no increase, so its first event would be lost."""
    for value in values:
        counter.labels(**{label: value})


_start_at_zero(
    DEGRADED_ANSWERS,
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
)
_start_at_zero(FALLBACK_ANSWERS, "step", _FALLBACK_STEPS)
_start_at_zero(QUARANTINE_EVENTS, "event", _QUARANTINE_EVENTS)
for _stage in _QUARANTINE_STAGES:
    QUARANTINED_CHUNKS.labels(_stage)
_start_at_zero(RECONCILE_DIFFERENCES, "kind", _VECTOR_DIFFERENCES)
_start_at_zero(RECONCILE_REPAIRED, "kind", _VECTOR_DIFFERENCES)
_start_at_zero(REPLICA_DIFFERENCES, "kind", _REPLICA_DIFFERENCES)
_start_at_zero(DOCUMENTS_WRITTEN, "outcome", ("written", "unchanged", "deleted", "refused"))
_start_at_zero(BREAKER_TRANSITIONS, "to", ("closed", "half_open", "open"))
_start_at_zero(RETRIES, "outcome", _RETRY_OUTCOMES)

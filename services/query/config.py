"""Settings of the query service."""

from __future__ import annotations

from pydantic import Field

from shared.config import CommonSettings, Port, Seconds
from shared.domain import PROJECT_ID


class QuerySettings(CommonSettings):
    """Settings of the query service."""

    query_host: str = Field(default="127.0.0.1", description="Address that the query service's gRPC and HTTP ports listen on.")
    query_port: Port = Field(default=50052, description="Port of the query service's gRPC services.")
    query_http_port: Port = Field(default=9102, description="Port of the query service's /metrics and /health.")
    query_health_port: Port = Field(default=50062, description="Port of the query service's gRPC health service alone, for probes.")
    query_name: str = Field(default="query", min_length=1, max_length=100, description="Name of this replica in the indexer's logs.")
    indexer_address: str = Field(default="127.0.0.1:50051", min_length=1, description="host:port of the indexer, whose change feed is followed.")
    replica_vectors_max: int = Field(
        default=200_000,
        ge=0,
        le=10_000_000,
        description="Chunks of a project whose vectors the replica keeps at most; a larger project's are in ChromaDB alone. 0: none are kept.",
    )
    search_timeout: Seconds = Field(default=10.0, description="Seconds that a search without a deadline gets.")
    search_timeout_max: Seconds = Field(default=30.0, description="Seconds that any search gets at most, whatever its deadline.")
    search_margin: float = Field(default=0.03, ge=0, le=1, description="Seconds of a deadline that are kept back to send the answer in.")
    search_concurrency: int = Field(
        default=0,
        ge=0,
        le=10_000,
        description="Searches that are worked on at a time; those that wait for ChromaDB do not count. 0: two for each core.",
    )
    search_queue: int = Field(
        default=4, ge=0, le=10_000, description="Searches that wait to be worked on at most; the rest is refused, to be retried."
    )
    search_queue_timeout: Seconds = Field(default=0.05, description="Seconds that a search waits to be worked on at most.")
    embed_timeout: Seconds = Field(default=1.0, description="Seconds that embedding a query may take; then the answer is degraded.")
    vector_timeout: Seconds = Field(default=1.0, description="Seconds that the vector leg may take; then the answer is degraded.")
    query_cache_bytes: int = Field(
        default=16 * 1024 * 1024, ge=0, le=16 * 1024**3, description="Bytes of query embeddings that are kept for queries that come again."
    )
    result_cache_bytes: int = Field(
        default=32 * 1024 * 1024, ge=0, le=16 * 1024**3, description="Bytes of answers that are kept for searches that come again. 0: none are kept."
    )
    result_cache_ttl: Seconds = Field(default=300.0, description="Seconds that an answer is kept at most.")
    fallback_replica_vectors: bool = Field(
        default=True,
        description="While ChromaDB does not answer, or has not all of a project, search the replica's own vectors instead, where it keeps them.",
    )
    fallback_last_answer: bool = Field(
        default=True, description="While vectors cannot be searched, give the last whole answer to the same search, if all its hits still stand."
    )
    fallback_keyword: bool = Field(
        default=True, description="While vectors cannot be searched, answer by keyword alone. If not: UNAVAILABLE, with the time to retry after."
    )
    last_answer_bytes: int = Field(
        default=32 * 1024 * 1024,
        ge=0,
        le=16 * 1024**3,
        description="Bytes of whole answers that are kept for KB_FALLBACK_LAST_ANSWER. 0: none are kept.",
    )
    last_answer_ttl: Seconds = Field(default=3600.0, description="Seconds after which a whole answer is too old to be given again.")
    replica_verify_interval: float = Field(
        default=3600.0,
        ge=0,
        le=30 * 24 * 3600,
        description="Seconds between two comparisons of the replica with the catalog, which mend what differs. 0: none.",
    )
    reranker_model: str = Field(
        default="",
        max_length=500,
        description="Cross-encoder for searches that ask for reranking (needs the `export` extra): path of its folder, or name of one that "
        "`hf download` has put on this machine. Empty: none.",
    )
    reranker_concurrency: int = Field(default=2, ge=1, le=64, description="Cores that reranking takes at most.")
    rerank_timeout: Seconds = Field(
        default=1.0, description="Seconds that reranking may take; then the order stays as it was and the answer says so."
    )
    slow_search: float = Field(
        default=0.5,
        ge=0,
        le=3600,
        description="Seconds from which a search is slow: it is logged as a warning with the time of each stage, without its text. 0: none is.",
    )
    canary_interval: float = Field(
        default=0.0,
        ge=0,
        le=24 * 3600,
        description="Seconds between two runs of the search canary, which asks golden queries and exports how good the answers were. "
        "0: there is none.",
    )
    canary_project: str = Field(
        default="kb-canary",
        pattern=f"^{PROJECT_ID.pattern}$",
        description="Project that belongs to the search canary alone. The first run makes it, and every run deletes what is not the canary's in it; "
        "a project of this name that something else has made is left as it is, and the run fails.",
    )
    feed_idle_timeout: float = Field(default=15.0, ge=6, le=3600, description="Seconds of silence after which a feed counts as broken.")
    stale_after: Seconds = Field(default=10.0, description="Seconds without a word from the indexer after which answers say that they may be stale.")
    ready_lag_timeout: Seconds = Field(
        default=120.0, description="Seconds at start that the replica may take to catch up before the service takes requests all the same."
    )

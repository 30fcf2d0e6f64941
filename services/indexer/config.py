"""Settings of the indexer."""

from __future__ import annotations

from pydantic import Field

from shared.config import CommonSettings, Port, Seconds


class IndexerSettings(CommonSettings):
    """Settings of the indexer."""

    indexer_host: str = Field(default="127.0.0.1", description="Address that the indexer's gRPC and HTTP ports listen on.")
    indexer_port: Port = Field(default=50051, description="Port of the indexer's gRPC services.")
    indexer_http_port: Port = Field(default=9101, description="Port of the indexer's /metrics and /health.")
    indexer_health_port: Port = Field(default=50061, description="Port of the indexer's gRPC health service alone, for probes.")
    feed_heartbeat: float = Field(default=2.0, gt=0, le=5, description="Seconds between two heartbeats of a feed on which nothing changes.")
    collection_check: Seconds = Field(
        default=15.0,
        description="Seconds between two looks at whether ChromaDB still has every collection, with as many vectors as there are chunks.",
    )
    verify_interval: float = Field(
        default=3600.0,
        ge=0,
        le=30 * 24 * 3600,
        description="Seconds between two comparisons of every chunk with ChromaDB, which mend what differs, and between two readings of every "
        "document, which tell what the disk has changed. 0: neither is done.",
    )
    projector_rate: float = Field(
        default=1500.0,
        gt=0,
        le=1_000_000,
        description="Chunks a second that are written to ChromaDB at most, so that catching up after an outage leaves it time for searches.",
    )
    disk_reserve_bytes: int = Field(
        default=256 * 1024 * 1024,
        ge=0,
        le=1024**4,
        description="Bytes that must be free on the catalog's disk for documents to be accepted; what is below is for everything else.",
    )
    write_queue_bytes: int = Field(
        default=128 * 1024 * 1024, ge=16 * 1024 * 1024, le=64 * 1024**3, description="Bytes of documents that wait to be committed, at most."
    )
    housekeeping_interval: Seconds = Field(default=60.0, description="Seconds between two clearings of deleted projects and old tombstones.")
    tombstone_retention: float = Field(
        default=7 * 24 * 3600.0,
        ge=60,
        le=366 * 24 * 3600,
        description="Seconds that the traces of deleted documents are kept: a replica that was away for longer starts again from nothing.",
    )

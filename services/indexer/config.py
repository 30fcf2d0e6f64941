"""Settings of the indexer."""

from __future__ import annotations

from pydantic import Field

from shared.config import CommonSettings, Port, Seconds


class IndexerSettings(CommonSettings):
    """Settings of the indexer."""

    indexer_host: str = Field(default="127.0.0.1", description="Address that the indexer's gRPC and HTTP ports listen on.")
    indexer_port: Port = Field(default=50051, description="Port of the indexer's gRPC services.")
    indexer_http_port: Port = Field(default=9101, description="Port of the indexer's /metrics and /health.")
    feed_heartbeat: float = Field(default=2.0, gt=0, le=5, description="Seconds between two heartbeats of a feed on which nothing changes.")
    collection_check: Seconds = Field(
        default=15.0,
        description="Seconds between two looks at whether ChromaDB still has every collection, with as many vectors as there are chunks.",
    )
    housekeeping_interval: Seconds = Field(default=60.0, description="Seconds between two clearings of deleted projects and old tombstones.")
    tombstone_retention: float = Field(
        default=7 * 24 * 3600.0,
        ge=60,
        le=366 * 24 * 3600,
        description="Seconds that the traces of deleted documents are kept: a replica that was away for longer starts again from nothing.",
    )

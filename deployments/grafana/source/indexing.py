"""From a write to a search that finds it."""

from __future__ import annotations

from deployments.grafana.source.style import ORANGE, QUANTILES, Limit, Panel, Section, lines, quantile, query


def section() -> Section:
    """The row."""
    return Section("Indexing", [*_lag(), *_speed(), *_storage()])


def _lag() -> list[Panel]:
    return [
        lines(
            "Projector Lag",
            "Age of the oldest change that is not in ChromaDB yet; 0 when there is none. It rises while much is written and during an outage; if it "
            "rises without either, look at Quarantine and at the indexer's log.",
            "s",
            query("max by (instance) (kb_projector_lag_seconds)", "oldest change, {{instance}}"),
        ),
        lines(
            "Changes Not Everywhere",
            "Changes that are committed but not yet in ChromaDB, and changes that a replica has heard of but not applied.",
            "short",
            query("sum(kb_projector_lag_sequences)", "not in ChromaDB"),
            query("kb_feed_lag_sequences", "not applied, {{instance}}"),
            query("max by (follower) (kb_feed_follower_lag_sequences)", "not sent to {{follower}}"),
        ),
        lines(
            "Feed Lag",
            "Seconds since each replica was last heard to have every change; 0 while it has. Searches of a replica that lags do not show the "
            "latest writes, and say so (replica_stale).",
            "s",
            query("kb_feed_lag_seconds", "{{instance}}"),
        ),
    ]


def _speed() -> list[Panel]:
    return [
        lines(
            "Indexing Throughput",
            "Documents that were sent to be written, by what became of them, and chunks that the projector has written to ChromaDB, a second.",
            "ops",
            query("sum by (outcome) (rate(kb_documents_written_total[$__rate_interval]))", "documents {{outcome}}"),
            query("sum(rate(kb_projector_chunks_total[$__rate_interval]))", "chunks to ChromaDB"),
        ),
        lines(
            "Ingest to Searchable P50/P95/P99",
            "From the commit of a change until searches find it: by keyword when a replica has it, by meaning when its vectors are in ChromaDB. "
            "Without writes there is nothing to show.",
            "s",
            *(
                query(quantile(share, "kb_ingest_to_searchable_seconds", by="leg"), f"{name}, by {{{{leg}}}}")
                for share, name in ((0.5, "P50"), (0.95, "P95"), (0.99, "P99"))
            ),
        ),
        lines(
            "Quarantine",
            "Chunks that ChromaDB or the model refuses for good. They are found by keyword alone. `kb quarantine list` shows why, `kb quarantine "
            "retry` tries them again.",
            "none",
            query("sum by (stage) (kb_quarantined_chunks)", "{{stage}}"),
            limits=[Limit(1, ORANGE)],
        ),
    ]


def _storage() -> list[Panel]:
    return [
        lines(
            "Catalog Commit Latency",
            "What a write waits for last: commit and fsync. If it grows, the disk is slow or shared with something that writes a lot.",
            "s",
            query(quantile(0.5, "kb_catalog_commit_duration_seconds"), "P50"),
            query(quantile(0.99, "kb_catalog_commit_duration_seconds"), "P99"),
            colours=QUANTILES,
        ),
        lines(
            "Catalog, WAL and Write Queue",
            "Bytes of the database file, of its write-ahead log, and of documents that wait to be committed. A log that only grows is not "
            "checkpointed: somebody holds a read transaction open.",
            "bytes",
            query("sum(kb_catalog_size_bytes)", "catalog"),
            query("sum(kb_catalog_wal_size_bytes)", "write-ahead log"),
            query("sum(kb_catalog_write_queue_bytes)", "write queue"),
        ),
        lines(
            "Differences Found",
            "What comparing has found in the last hour: vectors in which ChromaDB differed from the catalog, and documents in which a replica did. "
            "All 0 when all is well; what is found is mended, and if it comes back, something else writes there or the disk is bad.",
            "short",
            query("sum by (kind) (increase(kb_reconcile_differences_total[1h]))", "ChromaDB: {{kind}}"),
            query("sum by (kind) (increase(kb_replica_differences_total[1h]))", "replica: {{kind}}"),
        ),
    ]

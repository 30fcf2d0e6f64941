"""How many calls of each method the indexer takes at a time."""

from __future__ import annotations

from collections.abc import Mapping

from shared.resilience.admission import Limit

_PACKAGE = "knowledgebeast.indexer.v1"
# Writes that arrive together are committed together, so many at a time are of use; each holds its documents in memory (see KB_WRITE_QUEUE_BYTES).
_WRITES = Limit(concurrency=64, queue=64, patience=2.0)
# A stream may stay open while its client has nothing to send: it holds no place then, and up to 32 times as many may be open.
_STREAMS = Limit(concurrency=32, queue=32, patience=2.0, yields=True)
# One for each project and query service, open as long as the service runs.
_FEEDS = Limit(concurrency=10_000, queue=0, patience=1.0)
# Walks many chunks in one of the catalog's reading threads, one call after another.
_DIGESTS = Limit(concurrency=8, queue=16, patience=5.0)
# Walks every chunk of a project, and asks ChromaDB for all of them.
_VERIFICATIONS = Limit(concurrency=2, queue=2, patience=1.0)


def limits() -> Mapping[str, Limit]:
    """The limits by `service/method`."""
    return {
        f"{_PACKAGE}.IndexerService/UpsertDocuments": _WRITES,
        f"{_PACKAGE}.IndexerService/DeleteDocuments": _WRITES,
        f"{_PACKAGE}.IndexerService/IngestDocuments": _STREAMS,
        f"{_PACKAGE}.ChangeFeedService/WatchChanges": _FEEDS,
        f"{_PACKAGE}.ChangeFeedService/GetDigest": _DIGESTS,
        f"{_PACKAGE}.MaintenanceService/VerifyVectors": _VERIFICATIONS,
    }

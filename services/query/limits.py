"""How many calls of each method the query service takes at a time."""

from __future__ import annotations

from collections.abc import Mapping

from services.query.config import QuerySettings
from shared.resilience.admission import Limit
from shared.rpc.limits import cores

_SERVICE = "knowledgebeast.query.v1.QueryService"
# Two searches for each core keep it busy, with those beside them that wait for ChromaDB; more of them only wait for each other.
_SEARCHES_A_CORE = 2
# A batch holds up to a hundred searches and works on several at a time by itself.
_BATCHES = Limit(concurrency=2, queue=8, patience=2.0)
# Reads all of a project; the second one waits for the first.
_VERIFICATIONS = Limit(concurrency=2, queue=4, patience=2.0)


def limits(settings: QuerySettings) -> Mapping[str, Limit]:
    """The limits by `service/method`."""
    searches = settings.search_concurrency or _SEARCHES_A_CORE * cores()
    search = Limit(searches, settings.search_queue, settings.search_queue_timeout, yields=True)
    return {
        f"{_SERVICE}/Search": search,
        f"{_SERVICE}/FindSimilar": search,
        f"{_SERVICE}/BatchSearch": _BATCHES,
        "knowledgebeast.query.v1.ReplicaService/VerifyReplica": _VERIFICATIONS,
    }

"""The asyncio client: typed calls to both services, with a deadline each and errors of `shared.errors`.

async with KnowledgeBeast() as kb:
    await kb.create_project("notes")
    written = await kb.upsert("notes", [DocumentInput(DocumentId("a"), "Title", "Text", {})])
    found = await kb.search("notes", SearchQuery("some words", at_least_as_fresh=written.consistency_token))
"""

from shared.client.client import KnowledgeBeast
from shared.client.ingest import IngestLimits
from shared.client.types import (
    BatchSearchResult,
    ComponentState,
    Degradation,
    DegradationReason,
    DeleteResult,
    DocumentResult,
    Freshness,
    FusionMethod,
    HealthState,
    IngestResult,
    ItemError,
    LegScore,
    SearchHit,
    SearchMode,
    SearchQuery,
    SearchResult,
    ServiceState,
    Timings,
    UpsertResult,
)

__all__ = [
    "BatchSearchResult",
    "ComponentState",
    "Degradation",
    "DegradationReason",
    "DeleteResult",
    "DocumentResult",
    "Freshness",
    "FusionMethod",
    "HealthState",
    "IngestLimits",
    "IngestResult",
    "ItemError",
    "KnowledgeBeast",
    "LegScore",
    "SearchHit",
    "SearchMode",
    "SearchQuery",
    "SearchResult",
    "ServiceState",
    "Timings",
    "UpsertResult",
]

"""The asyncio client: typed calls to both services, with a deadline each and errors of `shared.errors`.

async with KnowledgeBeast() as kb:
    await kb.create_project("notes")
    written = await kb.upsert("notes", [DocumentInput(DocumentId("a"), "Title", "Text", {})])
    found = await kb.search("notes", SearchQuery("some words", at_least_as_fresh=written.consistency_token))
"""

from shared.client.client import KnowledgeBeast
from shared.client.ingest import IngestLimits
from shared.client.maintenance import VerifiedVectors, VerifyProgress
from shared.client.types import (
    BatchSearchResult,
    ComponentState,
    DeleteResult,
    DocumentResult,
    HealthState,
    IngestResult,
    ItemError,
    SearchQuery,
    ServiceState,
    UpsertResult,
)
from shared.observability.log_levels import LoggerLevel
from shared.quarantine import QuarantinedChunk, QuarantineStage
from shared.search import (
    Degradation,
    DegradationReason,
    Diversity,
    DiversityStep,
    Explanation,
    Freshness,
    FusionMethod,
    GroupedChunk,
    Grouping,
    Hit,
    LegContribution,
    LegScore,
    Reranking,
    RerankingStep,
    SearchAnswer,
    SearchMode,
    Snippet,
    Snippets,
    TextRange,
    Timings,
)
from shared.verification import Difference, DifferenceKind, Verification

__all__ = [
    "BatchSearchResult",
    "ComponentState",
    "Degradation",
    "DegradationReason",
    "DeleteResult",
    "Difference",
    "DifferenceKind",
    "Diversity",
    "DiversityStep",
    "DocumentResult",
    "Explanation",
    "Freshness",
    "FusionMethod",
    "GroupedChunk",
    "Grouping",
    "HealthState",
    "Hit",
    "IngestLimits",
    "IngestResult",
    "ItemError",
    "KnowledgeBeast",
    "LegContribution",
    "LegScore",
    "LoggerLevel",
    "QuarantineStage",
    "QuarantinedChunk",
    "Reranking",
    "RerankingStep",
    "SearchAnswer",
    "SearchMode",
    "SearchQuery",
    "ServiceState",
    "Snippet",
    "Snippets",
    "TextRange",
    "Timings",
    "UpsertResult",
    "Verification",
    "VerifiedVectors",
    "VerifyProgress",
]

"""What the indexer's own components have to say of their health."""

from __future__ import annotations

from services.indexer.application.followers import Followers
from services.indexer.application.scrubber import Damage
from services.indexer.ports import HealthCatalog
from shared.errors import ResourceExhaustedError
from shared.health import Degraded, Details
from shared.observability import metrics


async def check_database(catalog: HealthCatalog, damage: Damage, followers: Followers) -> Details | Degraded:
    """Whether the catalog takes writes, and has what was written.

    On a full disk, or with too much waiting, only writes are refused: reads, the feed and deletes go on, so that is no reason to send nobody here any
    more. Brings the metrics of what there is up to date, too, and tells how far followers could be.

    Raises UnavailableError (the disk has failed), CorruptionError.
    """
    refused = ""
    try:
        await catalog.probe()
    except ResourceExhaustedError as error:
        refused = error.message
    held = await catalog.figures()
    metrics.set_active_projects(len(held.heads))
    metrics.CATALOG_DOCUMENTS.set(held.documents)
    metrics.CATALOG_CHUNKS.set(held.chunks)
    followers.heads = held.heads
    figures: dict[str, int] = {"projects": len(held.heads)}
    messages = [refused] if refused else []
    if damage.count:
        figures["damaged_documents"] = damage.count
        messages.append(f"documents are not what was written, {', '.join(damage.examples)} among them: write them again, or restore a backup")
    if damage.unreadable:
        figures["unreadable"] = damage.unreadable
        messages.append("documents cannot be read: restore a backup, and see to the disk")
    return Degraded("; ".join(messages), figures) if messages else figures

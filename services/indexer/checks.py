"""What the indexer's own components have to say of their health."""

from __future__ import annotations

from services.indexer.application.scrubber import Damage
from services.indexer.ports import HealthCatalog
from shared.errors import ResourceExhaustedError
from shared.health import Degraded, Details
from shared.observability import metrics


async def check_database(catalog: HealthCatalog, damage: Damage) -> Details | Degraded:
    """Whether the catalog takes writes, and has what was written.

    On a full disk, or with too much waiting, only writes are refused: reads, the feed and deletes go on, so that is no reason to send nobody here any
    more. Raises UnavailableError (the disk has failed), CorruptionError.
    """
    refused = ""
    try:
        await catalog.probe()
    except ResourceExhaustedError as error:
        refused = error.message
    count = await catalog.count_projects()
    metrics.set_active_projects(count)
    figures: dict[str, int] = {"projects": count}
    messages = [refused] if refused else []
    if damage.count:
        figures["damaged_documents"] = damage.count
        messages.append(f"documents are not what was written, {', '.join(damage.examples)} among them: write them again, or restore a backup")
    if damage.unreadable:
        figures["unreadable"] = damage.unreadable
        messages.append("documents cannot be read: restore a backup, and see to the disk")
    return Degraded("; ".join(messages), figures) if messages else figures

"""Chunks in quarantine: listing them, and trying them again."""

from __future__ import annotations

from collections.abc import Sequence

from services.indexer.application import tokens
from services.indexer.application.signals import Signals
from services.indexer.application.subjects import Subject
from services.indexer.ports import QuarantineCatalog
from shared.domain import ChunkId, ProjectId
from shared.errors import InvalidArgumentError
from shared.quarantine import QuarantinedChunk

_PLACE_DIGITS = 18  # SQLite's integers have as many and a few more


class Quarantine:
    """The use cases of MaintenanceService about the quarantine."""

    def __init__(self, catalog: QuarantineCatalog, signals: Signals) -> None:
        self._catalog = catalog
        self._signals = signals

    async def page(self, project_id: ProjectId | None, size: int, token: str) -> tuple[Sequence[QuarantinedChunk], str]:
        """A page of chunks, of one project or of all, and the token of the next one, empty on the last.

        Raises NotFoundError, InvalidArgumentError for a wrong token.
        """
        after = tokens.page_start(token, "quarantine", project_id) or "0"
        if not (after.isascii() and after.isdigit() and len(after) <= _PLACE_DIGITS):
            raise InvalidArgumentError.of("page_token", "is not a token of this service: send next_page_token as it came")
        chunks, place = await self._catalog.quarantined_chunks(project_id, int(after), size)
        return chunks, "" if place is None else tokens.page_token(str(place), "quarantine", project_id)

    async def retry(self, project_id: ProjectId, chunk_ids: Sequence[ChunkId]) -> int:
        """Has chunks, all of the project if none are named, tried again; returns how many were in quarantine. Raises NotFoundError."""
        key, retried = await self._catalog.retry_quarantined(project_id, chunk_ids)
        if retried:
            self._signals.notify(key, Subject.COMMITTED)
        return retried

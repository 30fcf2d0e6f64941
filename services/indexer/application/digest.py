"""Telling what the catalog holds of a project, in a form that a copy can be compared with."""

from __future__ import annotations

import asyncio

from services.indexer.ports import FeedCatalog
from shared.digest import ProjectDigest, SequenceRange
from shared.domain import ProjectId


class Digests:
    """The use case behind ChangeFeedService.GetDigest.

    One walk at a time: however many replicas compare themselves at once, the catalog's other reading threads are for the feeds.
    """

    def __init__(self, catalog: FeedCatalog) -> None:
        self._catalog = catalog
        self._turn = asyncio.Semaphore(1)

    async def read(self, project_id: ProjectId, wanted: SequenceRange | None, parts: int, *, named: bool, unsent: bool) -> ProjectDigest:
        """The digests of a range of a project, or of all of it, cut into parts; see `FeedCatalog.digest`. Raises NotFoundError."""
        key, _ = await self._catalog.find_project(project_id)
        async with self._turn:
            return await self._catalog.digest(key, wanted, parts, named=named, unsent=unsent)

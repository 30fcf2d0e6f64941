"""Clears away what nobody needs any more: what is left of deleted projects, collections that projects have left, old tombstones and answers."""

from __future__ import annotations

from services.indexer.application.worker import for_each
from services.indexer.ports import HousekeepingCatalog
from services.indexer.records import DeletedProject
from shared.observability.logging import get_logger
from shared.ports import VectorWriter

_DOCUMENTS_A_COMMIT = 500
_REQUEST_WINDOW_SECONDS = 24 * 3_600.0


class Janitor:
    """Does its work in small commits, so that writes are not held up."""

    def __init__(self, catalog: HousekeepingCatalog, store: VectorWriter, *, tombstone_seconds: float, write_timeout: float) -> None:
        """A tombstone younger than `tombstone_seconds` is kept: so long may a replica be away and still continue."""
        self._catalog = catalog
        self._store = store
        self._tombstone_seconds = tombstone_seconds
        self._timeout = write_timeout
        self._log = get_logger(__name__)

    async def step(self) -> bool:
        """One round; False, because a round does everything there is. Raises VectorStoreUnavailableError."""
        removed = await self._catalog.compact(tombstones_older_than=self._tombstone_seconds, requests_older_than=_REQUEST_WINDOW_SECONDS)
        if removed:
            self._log.info("compacted the catalog", rows=removed)
        try:
            await for_each(await self._catalog.superseded_collections(), self._drop, lambda collection: {"collection": collection})
        finally:  # a collection that cannot be dropped must not keep deleted projects
            await for_each(await self._catalog.deleted_projects(), self._purge, lambda project: {"collection": project.collection})
        return False

    async def _drop(self, collection: str) -> None:
        """Drops a collection; it is forgotten last, so that a drop that fails is repeated."""
        await self._store.drop_collection(collection, timeout=self._timeout)
        await self._catalog.forget_collection(collection)
        self._log.info("dropped a superseded collection", collection=collection)

    async def _purge(self, project: DeletedProject) -> None:
        """Removes what is left of a deleted project; its rows last, so that a purge that fails is repeated."""
        await self._store.drop_collection(project.collection, timeout=self._timeout)
        while await self._catalog.purge_documents(project.key, _DOCUMENTS_A_COMMIT):
            pass
        await self._catalog.mark_purged(project.key)
        self._log.info("purged a deleted project", collection=project.collection)

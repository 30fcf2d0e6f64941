"""Managing projects."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from services.indexer.application import tokens
from services.indexer.application.signals import Signals
from services.indexer.application.subjects import Subject
from services.indexer.ports import Disk, ProjectCatalog
from services.indexer.records import NewProject, RequestKey
from shared.domain import Project, ProjectId


class Projects:
    """The use cases of ProjectService."""

    def __init__(self, catalog: ProjectCatalog, disk: Disk, signals: Signals) -> None:
        self._catalog = catalog
        self._disk = disk
        self._signals = signals

    async def create(self, project: NewProject, request_id: str) -> Project:
        """Creates a project. Raises AlreadyExistsError, ResourceExhaustedError while the disk is low."""
        await self._disk.require_room()
        request = RequestKey(request_id, hashlib.blake2b(repr(project).encode()).digest()) if request_id else None
        created = await self._catalog.create_project(project, request)
        self._signals.notify(Subject.PROJECT_LIST)
        return created

    async def get(self, project_id: ProjectId) -> Project:
        """One project. Raises NotFoundError."""
        return await self._catalog.get_project(project_id)

    async def page(self, size: int, token: str) -> tuple[Sequence[Project], str]:
        """A page of projects and the token of the next one, empty on the last. Raises InvalidArgumentError for a wrong token."""
        found, more = await self._catalog.list_projects(tokens.page_start(token, "projects"), size)
        return found, tokens.page_token(found[-1].id, "projects") if more else ""

    async def update(
        self, project_id: ProjectId, *, etag: str, display_name: str | None, description: str | None, labels: Mapping[str, str] | None
    ) -> Project:
        """Changes what is not None. Raises NotFoundError, ConflictError."""
        updated = await self._catalog.update_project(project_id, etag=etag, display_name=display_name, description=description, labels=labels)
        self._signals.notify(Subject.PROJECT_LIST)
        return updated

    async def delete(self, project_id: ProjectId, *, etag: str) -> int:
        """Deletes a project; returns how many documents it had. Raises NotFoundError, ConflictError."""
        key, documents = await self._catalog.delete_project(project_id, etag=etag)
        self._signals.notify(key, Subject.PROJECT_LIST, Subject.DELETED)
        return documents

    async def rebuild_vectors(self, project_id: ProjectId, *, again: bool = False) -> Project:
        """Has the project's vectors written to the vector store again; returns it as it is then. Raises NotFoundError.

        A rebuild that is under way goes on, unless the project is to be rebuilt `again`: its collection may be damaged, so that it never ends.

        Nothing is asked of the vector store here: the project gets a new, empty collection in the catalog, and the old one is noted to be
        dropped. The projector and the janitor do the rest when the vector store can be reached, after a crash too.
        """
        key, project = await self._catalog.rebuild_vectors(project_id, again=again)
        self._signals.notify(key, Subject.PROJECT_LIST, Subject.EMBEDDED, Subject.DELETED)
        return project

"""Calls to ProjectService."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Mapping

from google.protobuf import field_mask_pb2

from shared.client.endpoint import Endpoint
from shared.domain import ChunkingSettings, KeywordSettings, Project
from shared.gen.knowledgebeast.indexer.v1 import project_pb2, project_pb2_grpc
from shared.rpc import resources


class ProjectCalls:
    """Creates, reads, changes and deletes projects, and has their vectors written again. `timeout` is in seconds; None takes the client's."""

    _indexer: Endpoint

    async def create_project(  # noqa: PLR0913 - one a setting, all but one by name and with defaults
        self,
        project_id: str,
        *,
        display_name: str = "",
        description: str = "",
        labels: Mapping[str, str] | None = None,
        embedding_model: str = "",
        chunking: ChunkingSettings | None = None,
        keyword: KeywordSettings | None = None,
        request_id: str | None = None,
        timeout: float | None = None,
    ) -> Project:
        """Creates a project. What is empty or None is left to the service.

        `request_id` is a UUID that makes repeated calls one; a new one is made when it is None. Raises AlreadyExistsError.
        """
        project = project_pb2.Project(
            id=project_id,
            display_name=display_name,
            description=description,
            labels=labels or {},
            embedding_model=embedding_model,
            chunking=None if chunking is None else _chunking(chunking),
            keyword=None if keyword is None else _keyword(keyword),
        )
        request = project_pb2.CreateProjectRequest(project=project, request_id=request_id or str(uuid.uuid4()))
        response = await self._indexer.call(self._projects.CreateProject, request, timeout)
        return resources.project(response.project)

    async def get_project(self, project_id: str, *, timeout: float | None = None) -> Project:
        """A project as it is now. Raises NotFoundError."""
        request = project_pb2.GetProjectRequest(project_id=project_id)
        response = await self._indexer.call(self._projects.GetProject, request, timeout)
        return resources.project(response.project)

    async def list_projects(self, *, page_size: int = 0, timeout: float | None = None) -> AsyncIterator[Project]:
        """All projects in the order of their ids, a page a call; 0 is the service's page size. `timeout` is for each page."""
        token = ""
        while True:
            request = project_pb2.ListProjectsRequest(page_size=page_size, page_token=token)
            response = await self._indexer.call(self._projects.ListProjects, request, timeout)
            for project in response.projects:
                yield resources.project(project)
            token = response.next_page_token
            if not token:
                return

    async def update_project(
        self,
        project_id: str,
        *,
        display_name: str | None = None,
        description: str | None = None,
        labels: Mapping[str, str] | None = None,
        etag: str = "",
        timeout: float | None = None,
    ) -> Project:
        """Changes what is not None; without any change, the project as it is. Raises NotFoundError, and ConflictError if the etag is stale."""
        values = {"display_name": display_name, "description": description, "labels": labels}
        paths = [name for name, value in values.items() if value is not None]
        if not paths:  # an empty mask would mean all three
            return await self.get_project(project_id, timeout=timeout)
        project = project_pb2.Project(id=project_id, display_name=display_name or "", description=description or "", labels=labels or {}, etag=etag)
        request = project_pb2.UpdateProjectRequest(project=project, update_mask=field_mask_pb2.FieldMask(paths=paths))
        response = await self._indexer.call(self._projects.UpdateProject, request, timeout)
        return resources.project(response.project)

    async def delete_project(self, project_id: str, *, etag: str = "", timeout: float | None = None) -> int:
        """Deletes a project with all that is in it; how many documents went. Raises NotFoundError, and ConflictError if the etag is stale."""
        request = project_pb2.DeleteProjectRequest(project_id=project_id, etag=etag)
        response = await self._indexer.call(self._projects.DeleteProject, request, timeout)
        return response.deleted_documents

    async def rebuild_vectors(self, project_id: str, *, restart: bool = False, timeout: float | None = None) -> Project:
        """Has all vectors of a project written to the vector store again, from the catalog; returns at once, with the project as it is then.

        It is REBUILDING until its vector sequence is where it was; one that was REBUILDING already goes on unless it is to `restart`, one without
        vectors stays ACTIVE. Raises NotFoundError.
        """
        request = project_pb2.RebuildVectorsRequest(project_id=project_id, restart=restart)
        response = await self._indexer.call(self._projects.RebuildVectors, request, timeout)
        return resources.project(response.project)

    @property
    def _projects(self) -> project_pb2_grpc.ProjectServiceAsyncStub:
        return project_pb2_grpc.ProjectServiceStub(self._indexer.channel)


def _chunking(settings: ChunkingSettings) -> project_pb2.ChunkingSettings:
    return project_pb2.ChunkingSettings(max_tokens=settings.max_tokens, overlap_tokens=settings.overlap_tokens)


def _keyword(settings: KeywordSettings) -> project_pb2.KeywordSettings:
    return project_pb2.KeywordSettings(
        language=settings.language,
        stemming=settings.stemming,
        stop_words=settings.stop_words,
        more_stop_words=settings.more_stop_words,
    )

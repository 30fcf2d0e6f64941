"""ProjectService."""

from __future__ import annotations

from services.indexer.application.projects import Projects
from services.indexer.transport import convert, validate
from services.indexer.transport.binding import bound_project
from shared.gen.knowledgebeast.indexer.v1 import project_pb2 as pb
from shared.gen.knowledgebeast.indexer.v1 import project_pb2_grpc
from shared.rpc.access_log import bind_project
from shared.rpc.call import Context


class ProjectServicer(project_pb2_grpc.ProjectServiceServicer):
    """Manages projects."""

    def __init__(self, projects: Projects, *, model: str, model_tokens: int) -> None:
        """`model` is the embedding model of this service, which reads `model_tokens` tokens of a text."""
        self._projects = projects
        self._model = model
        self._model_tokens = model_tokens

    async def CreateProject(self, request: pb.CreateProjectRequest, context: Context) -> pb.CreateProjectResponse:
        """See the proto."""
        bind_project(request.project.id)
        project = validate.new_project(request.project, model=self._model, model_tokens=self._model_tokens)
        created = await self._projects.create(project, validate.request_id(request.request_id))
        return pb.CreateProjectResponse(project=convert.project(created))

    async def GetProject(self, request: pb.GetProjectRequest, context: Context) -> pb.GetProjectResponse:
        """See the proto."""
        project_id = bound_project(request.project_id)
        return pb.GetProjectResponse(project=convert.project(await self._projects.get(project_id)))

    async def ListProjects(self, request: pb.ListProjectsRequest, context: Context) -> pb.ListProjectsResponse:
        """See the proto."""
        projects, token = await self._projects.page(validate.page_size(request.page_size), request.page_token)
        return pb.ListProjectsResponse(projects=[convert.project(project) for project in projects], next_page_token=token)

    async def UpdateProject(self, request: pb.UpdateProjectRequest, context: Context) -> pb.UpdateProjectResponse:
        """See the proto."""
        project_id = bound_project(request.project.id, "project.id")
        name, description, labels = validate.project_changes(request.project, list(request.update_mask.paths))
        updated = await self._projects.update(project_id, etag=request.project.etag, display_name=name, description=description, labels=labels)
        return pb.UpdateProjectResponse(project=convert.project(updated))

    async def DeleteProject(self, request: pb.DeleteProjectRequest, context: Context) -> pb.DeleteProjectResponse:
        """See the proto."""
        project_id = bound_project(request.project_id)
        return pb.DeleteProjectResponse(deleted_documents=await self._projects.delete(project_id, etag=request.etag))

    async def RebuildVectors(self, request: pb.RebuildVectorsRequest, context: Context) -> pb.RebuildVectorsResponse:
        """See the proto."""
        project_id = bound_project(request.project_id)
        return pb.RebuildVectorsResponse(project=convert.project(await self._projects.rebuild_vectors(project_id, again=request.restart)))

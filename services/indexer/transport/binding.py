"""Takes the project of a request: checked, and bound to the log lines of the call."""

from __future__ import annotations

from services.indexer.transport import validate
from shared.domain import ProjectId
from shared.rpc.access_log import bind_project


def bound_project(value: str, field: str = "project_id") -> ProjectId:
    """The id of the project that the running call is about. Raises InvalidArgumentError."""
    project_id = validate.project_id(value, field)
    bind_project(project_id)
    return project_id

"""`kb status`."""

from __future__ import annotations

import asyncio
from typing import Literal

import typer

from services.cli import json_forms, options, render
from services.cli.console import OUT, json_document, result
from services.cli.explain import explain
from shared.client import HealthState, KnowledgeBeast, ServiceState
from shared.domain import Project
from shared.errors import KnowledgeBeastError

EXAMPLES = options.examples("kb status", "kb status --json | jq '.projects[] | select(.lag > 0)'")

_PROJECTS = 1000  # shown at most; `kb project list` has them all


def status(
    *,
    as_json: options.Json = False,
    indexer: options.Indexer = options.DEFAULT_INDEXER,
    query: options.Query = options.DEFAULT_QUERY,
    timeout: options.Timeout = options.DEFAULT_TIMEOUT,
) -> None:
    """Show both services, their components, and how far each project is searchable. Exits with 1 if a service is down or unhealthy."""

    async def work() -> tuple[list[ServiceState | KnowledgeBeastError], list[Project]]:
        async with KnowledgeBeast(indexer, query, timeout=timeout) as kb:
            names: tuple[Literal["indexer", "query"], ...] = ("indexer", "query")
            states = await asyncio.gather(*(_state(kb, name) for name in names))
            projects = [] if isinstance(states[0], KnowledgeBeastError) else await _projects(kb)
            return states, projects

    states, projects = options.run(work())
    healthy = all(isinstance(state, ServiceState) and state.state in {HealthState.HEALTHY, HealthState.DEGRADED} for state in states)
    if as_json:
        services = [
            {"service": name, "address": address, "answers": False, "error": explain(state)}
            if isinstance(state, KnowledgeBeastError)
            else {"address": address, "answers": True, **json_forms.service(state)}
            for name, address, state in zip(("indexer", "query"), (indexer, query), states, strict=True)
        ]
        json_document({"healthy": healthy, "services": services, "projects": [json_forms.project(project) for project in projects]})
    else:
        for address, state in zip((indexer, query), states, strict=True):
            if isinstance(state, KnowledgeBeastError):
                result(explain(state), style="red")
            else:
                render.service_state(state, address)
        if projects:
            OUT.print(render.project_table(projects))
    if not healthy:
        raise typer.Exit(1)


async def _state(kb: KnowledgeBeast, service: Literal["indexer", "query"]) -> ServiceState | KnowledgeBeastError:
    try:
        return await kb.status(service)
    except KnowledgeBeastError as error:
        return error


async def _projects(kb: KnowledgeBeast) -> list[Project]:
    projects: list[Project] = []
    async for project in kb.list_projects(page_size=_PROJECTS):
        projects.append(project)
        if len(projects) >= _PROJECTS:
            break
    return projects

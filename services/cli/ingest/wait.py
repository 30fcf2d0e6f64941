"""Waits until what was written is searchable by meaning, and says why when it does not get there."""

from __future__ import annotations

import asyncio
import time
from typing import Literal

from services.cli.console import line
from services.cli.explain import explain
from services.cli.progress import Meter
from shared.client import ComponentState, HealthState, KnowledgeBeast
from shared.errors import DeadlineExceededError, KnowledgeBeastError

_POLL = 0.25  # seconds between two looks at a project: the API has no call that waits for vectors
_SERVICES: tuple[Literal["indexer", "query"], ...] = ("indexer", "query")
_STATUS_TIMEOUT = 2.0  # seconds; a service answers from its last checks, in milliseconds


async def wait_for_vectors(
    kb: KnowledgeBeast, project: str, meter: Meter, *, timeout: float | None = None, patience: float = 120.0, explain_after: float = 10.0
) -> None:
    """Waits until every change committed up to now is embedded and in the vector store; `meter` counts changes.

    When nothing has moved for `explain_after` seconds, it says once which component is at fault, if one says so, and waits on.

    Raises DeadlineExceededError after `timeout` seconds in all (None: no limit), or when nothing moves for `patience` seconds.
    """
    try:
        async with asyncio.timeout(timeout):
            await _wait(kb, project, meter, patience, explain_after)
    except TimeoutError as error:
        raise DeadlineExceededError(
            f"not everything in {project} was searchable by meaning within {timeout:g} s; what is written stays, and `kb status` says how far it is"
        ) from error


async def _wait(kb: KnowledgeBeast, project: str, meter: Meter, patience: float, explain_after: float) -> None:
    current = await kb.get_project(project)
    target, began = current.head, current.vector_sequence
    moved_at, reached, explained = time.monotonic(), current.vector_sequence, False
    while current.vector_sequence < target:
        meter.set(current.vector_sequence - began, target - began)
        await asyncio.sleep(_POLL)
        current = await kb.get_project(project)
        still = time.monotonic() - moved_at
        if current.vector_sequence != reached:
            moved_at, reached = time.monotonic(), current.vector_sequence
        elif still > patience:
            raise DeadlineExceededError(f"no vector of {project} was written for {patience:g} s: `kb status` says which component is at fault")
        elif still > explain_after and not explained:
            explained = True
            await explain_standstill(kb)
    meter.set(target - began, target - began)


async def explain_standstill(kb: KnowledgeBeast) -> None:
    """Says what the services know of the components that vectors depend on; nothing if those are well."""
    states = await asyncio.gather(*(_components(kb, service) for service in _SERVICES))
    down = {part.name: part for components in reversed(states) for part in components if part.state is not HealthState.HEALTHY}
    if (model := down.get("embedding_model")) is not None:
        remedy = "" if "kb model" in model.message else "; run `kb model`"
        line(f"nothing is being embedded: {model.message or 'the embedding model is down'}{remedy}", style="yellow")
    if (store := down.get("chromadb")) is not None:
        line(f"no vector is being stored: {store.message or 'ChromaDB is down'}; it goes on when ChromaDB is back", style="yellow")


async def _components(kb: KnowledgeBeast, service: Literal["indexer", "query"]) -> tuple[ComponentState, ...]:
    try:
        return (await kb.status(service, timeout=_STATUS_TIMEOUT)).components
    except KnowledgeBeastError as error:
        line(explain(error), style="yellow")
        return ()

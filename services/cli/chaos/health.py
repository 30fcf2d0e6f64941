"""What the services say of themselves while a fault is on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from services.cli.chaos.serving import Serving, says
from services.cli.stack.stack import Stack
from shared.client import KnowledgeBeast
from shared.errors import KnowledgeBeastError

_TIMEOUT = 1.0  # seconds; they answer from their last checks, in milliseconds


@dataclass(frozen=True, slots=True)
class Health:
    """One service: what it says to probes on its health port, and the states of its components by name; None if it does not answer."""

    live: bool
    ready: bool
    components: Mapping[str, str] | None


async def look(stack: Stack, kb: KnowledgeBeast) -> Mapping[str, Health]:
    """Both services, by name."""
    return {"indexer": await _one(kb, "indexer", stack.ports.indexer_health), "query": await _one(kb, "query", stack.ports.query_health)}


async def _one(kb: KnowledgeBeast, service: Literal["indexer", "query"], port: int) -> Health:
    live, ready = [await says(f"127.0.0.1:{port}", probe, timeout=_TIMEOUT) is Serving.SERVING for probe in ("liveness", "readiness")]
    try:
        state = await kb.status(service, timeout=_TIMEOUT)
    except KnowledgeBeastError:
        return Health(live, ready, None)
    return Health(live, ready, {component.name: component.state.value for component in state.components})

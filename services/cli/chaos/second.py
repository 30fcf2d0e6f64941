"""A second replica of the query service beside a rig's own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from services.cli.chaos.proxy import Proxy
from services.cli.chaos.rig import Rig
from services.cli.stack.process import ManagedProcess, free_port

_START_TIMEOUT = 60.0  # seconds; it copies the catalog first
_GRACE = 25.0


@dataclass(frozen=True, slots=True)
class SecondQuery:
    """A query service that follows the same indexer, directly, and has a connection of its own to ChromaDB."""

    process: ManagedProcess
    address: str
    http_port: int
    chroma: Proxy


@asynccontextmanager
async def second_query(rig: Rig) -> AsyncIterator[SecondQuery]:
    """One that is ready, and is stopped at the end. Raises UnavailableError if it does not start."""
    port, http_port, health_port = free_port(), free_port(), free_port()
    address = f"127.0.0.1:{port}"
    async with Proxy(rig.stack.ports.chroma, seed=3) as chroma:
        variables = {
            "KB_DATA_DIR": str(rig.stack.data_dir / "second"),
            "KB_QUERY_PORT": str(port),
            "KB_QUERY_HTTP_PORT": str(http_port),
            "KB_QUERY_HEALTH_PORT": str(health_port),
            "KB_QUERY_NAME": "second",
            "KB_INDEXER_ADDRESS": rig.stack.indexer_address,
            "KB_CHROMA_URL": chroma.url,
        }
        process = rig.stack.another("query", "query-second", address, variables)
        try:
            await process.start(_START_TIMEOUT)
            yield SecondQuery(process, address, http_port, chroma)
        finally:
            await process.stop(_GRACE)

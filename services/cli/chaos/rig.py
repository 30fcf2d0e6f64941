"""A stack whose connections lead through proxies: each service has one to ChromaDB, and the query service one to the indexer's feed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from services.cli.chaos.plan import Plan
from services.cli.chaos.proxy import Proxy
from services.cli.chaos.wire_faults import Pass, WireFault
from services.cli.console import line
from services.cli.stack.stack import Ports, Stack
from services.cli.supervisor import start
from shared.client import KnowledgeBeast

# What takes minutes with the defaults, so that the whole table does not: looks at ChromaDB's collections, and noticing that the feed is silent.
_QUICK = {
    "KB_COLLECTION_CHECK": "1",
    "KB_FEED_HEARTBEAT": "0.5",
    "KB_FEED_IDLE_TIMEOUT": "6",
    "KB_STALE_AFTER": "2",
    "KB_READY_LAG_TIMEOUT": "20",
}
_TIMEOUT = 30.0  # seconds of a call that prepares or checks; calls under load have the plan's deadline


def quick_settings(plan: Plan) -> Mapping[str, str]:
    """Settings of every rig that are not the defaults."""
    return {**_QUICK, "KB_BREAKER_RECOVERY": f"{plan.recovery:g}"}


@dataclass(frozen=True, slots=True)
class Rig:
    """A running stack.

    Attributes:
        stack: The processes.
        chroma: Between the query service and ChromaDB.
        indexer_chroma: Between the indexer and ChromaDB.
        feed: Between the query service and the indexer.
        kb: A client that goes to the services directly.
    """

    stack: Stack
    chroma: Proxy
    indexer_chroma: Proxy
    feed: Proxy
    kb: KnowledgeBeast

    async def to_chroma(self, fault: WireFault) -> None:
        """Disturbs both services' connections to ChromaDB, or lets them be."""
        await self.chroma.set(fault)
        await self.indexer_chroma.set(fault)

    async def calm(self) -> None:
        """Ends every fault that is one of connections."""
        await self.to_chroma(Pass())
        await self.feed.set(Pass())


@asynccontextmanager
async def running(
    folder: Path,
    models: Path,
    plan: Plan,
    *,
    settings: Mapping[str, str] | None = None,
    indexer: Mapping[str, str] | None = None,
    query: Mapping[str, str] | None = None,
    direct: bool = False,
) -> AsyncIterator[Rig]:
    """A rig of its own in `folder`, stopped at the end.

    Args:
        folder: Where everything is kept.
        models: Folder of exported models.
        plan: How long the breaker stays open.
        settings: More variables of both services.
        indexer: Variables of the indexer alone; they win.
        query: Variables of the query service alone; they win.
        direct: The proxies are left out: they run in this process, and would slow down what has to be quick.

    Raises:
        UnavailableError: a process does not start; its last words have been written to stderr.
    """
    ports = Ports.free()
    async with Proxy(ports.chroma) as chroma, Proxy(ports.chroma, seed=2) as indexer_chroma, Proxy(ports.indexer) as feed:
        through_proxies = {
            "indexer": {"KB_CHROMA_URL": indexer_chroma.url},
            "query": {"KB_CHROMA_URL": chroma.url, "KB_INDEXER_ADDRESS": feed.address},
        }
        routes: Mapping[str, Mapping[str, str]] = {} if direct else through_proxies
        overrides = {"indexer": {**routes.get("indexer", {}), **(indexer or {})}, "query": {**routes.get("query", {}), **(query or {})}}
        stack = Stack(folder, models, ports, settings={**quick_settings(plan), **(settings or {})}, overrides=overrides)
        try:
            await start(stack, line, lambda _: None, logs_stay=False)
            async with KnowledgeBeast(stack.indexer_address, stack.query_address, timeout=_TIMEOUT) as kb:
                yield Rig(stack, chroma, indexer_chroma, feed, kb)
        finally:
            await stack.stop()

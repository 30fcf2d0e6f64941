"""Restarting one query service after another while clients search."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from services.cli.stack.health import is_ready
from services.cli.stack.process import ManagedProcess, free_port
from services.cli.stack.stack import Stack
from shared.client import KnowledgeBeast, SearchQuery
from shared.errors import KnowledgeBeastError
from tests.e2e.test_search import TEXTS, documents

REPLICAS = 3
SEARCHERS = 4
START_SECONDS = 60.0
GRACE_SECONDS = 25.0


def query_service(folder: Path, model_dir: Path, stack: Stack, port: int) -> ManagedProcess:
    """One more query service of the stack's indexer, with a replica of its own."""

    async def ready() -> bool:
        return await is_ready(f"127.0.0.1:{port}")

    environment = {
        **os.environ,
        "KB_DATA_DIR": str(folder),
        "KB_MODEL_DIR": str(model_dir),
        "KB_CHROMA_URL": stack.chroma_url,
        "KB_INDEXER_ADDRESS": stack.indexer_address,
        "KB_QUERY_PORT": str(port),
        "KB_QUERY_HTTP_PORT": "0",
        "KB_QUERY_HEALTH_PORT": "0",
        "KB_LOG_FORMAT": "json",
    }
    return ManagedProcess(f"query-{port}", (sys.executable, "-m", "services.query"), log=folder / "query.log", ready=ready, env=environment)


@pytest_asyncio.fixture
async def replicas(own_stack: Stack, tmp_path: Path, model_dir: Path) -> AsyncIterator[dict[int, ManagedProcess]]:
    """Three running query services by their ports."""
    running = {}
    try:
        for number in range(REPLICAS):
            port = free_port()
            running[port] = query_service(tmp_path / f"replica-{number}", model_dir, own_stack, port)
        await asyncio.gather(*(process.start(START_SECONDS) for process in running.values()))
        yield running
    finally:
        for process in running.values():
            process.kill()


class Load:
    """Clients that search without a pause."""

    def __init__(self, client: KnowledgeBeast) -> None:
        self._client = client
        self.answered = 0
        self.failures: list[str] = []
        self._stopping = False

    async def run(self) -> None:
        """Searches until it is told to stop."""
        number = 0
        while not self._stopping:
            number += 1
            try:
                answer = await self._client.search("docs", SearchQuery(f"a feline on a rug {number}"), timeout=20)
            except KnowledgeBeastError as error:
                self.failures.append(repr(error))
            else:
                assert answer.hits
                self.answered += 1

    def stop(self) -> None:
        """Ends after the searches that are under way."""
        self._stopping = True

    async def goes_on(self, searches: int) -> None:
        """Waits until that many more searches have ended."""
        target = self.answered + len(self.failures) + searches
        async with asyncio.timeout(60):
            while self.answered + len(self.failures) < target:
                await asyncio.sleep(0.01)


async def test_a_rolling_restart_of_the_query_services_fails_no_search(own_stack: Stack, replicas: dict[int, ManagedProcess]) -> None:
    """Clients that do what the shipped service config says hear nothing of it; each service ends in order."""
    addresses = "ipv4:" + ",".join(f"127.0.0.1:{port}" for port in replicas)
    async with KnowledgeBeast(own_stack.indexer_address, addresses) as client:
        await client.create_project("docs")
        token = (await client.upsert("docs", documents(TEXTS))).consistency_token
        for _ in range(2 * REPLICAS):  # whichever replica is asked has it now
            await client.search("docs", SearchQuery("yeast", at_least_as_fresh=token), timeout=30)
        load = Load(client)
        async with asyncio.TaskGroup() as group:
            for _ in range(SEARCHERS):
                group.create_task(load.run())
            for process in replicas.values():
                await load.goes_on(100)
                await process.stop(GRACE_SECONDS)
                assert process.returncode == 0
                await load.goes_on(100)
                await process.start(START_SECONDS)
            await load.goes_on(100)
            load.stop()
    assert load.failures == []
    assert load.answered > 500


async def test_a_query_service_that_is_killed_fails_no_search(own_stack: Stack, replicas: dict[int, ManagedProcess]) -> None:
    """The searches that it had are made again elsewhere."""
    addresses = "ipv4:" + ",".join(f"127.0.0.1:{port}" for port in replicas)
    async with KnowledgeBeast(own_stack.indexer_address, addresses) as client:
        await client.create_project("docs")
        token = (await client.upsert("docs", documents(TEXTS))).consistency_token
        for _ in range(2 * REPLICAS):
            await client.search("docs", SearchQuery("yeast", at_least_as_fresh=token), timeout=30)
        load = Load(client)
        async with asyncio.TaskGroup() as group:
            for _ in range(SEARCHERS):
                group.create_task(load.run())
            await load.goes_on(100)
            next(iter(replicas.values())).kill()
            await load.goes_on(300)
            load.stop()
    assert load.failures == []

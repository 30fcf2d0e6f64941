"""Reading threads of the catalog, each with a connection of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import apsw

from services.indexer.catalog.connection import open_connection, translated_errors

T = TypeVar("T")


class Readers:
    """Runs reads in a few threads. A read that its caller gave up goes on to its end and is thrown away."""

    def __init__(self, path: Path, threads: int) -> None:
        self._path = path
        self._local = threading.local()
        self._connections: list[apsw.Connection] = []
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="catalog-reader")

    def _connection(self) -> apsw.Connection:
        """That of this thread. Made by its first read and not by the thread's start: one that cannot be made fails that read, and not the pool."""
        connection: apsw.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = open_connection(self._path, read_only=True)
            self._connections.append(connection)
        return connection

    def _run(self, read: Callable[[apsw.Connection], T]) -> T:
        connection = self._connection()
        with translated_errors():
            connection.execute("BEGIN")
            try:
                return read(connection)
            finally:
                if connection.in_transaction:  # else SQLite has given it up itself, after a read that failed
                    connection.execute("ROLLBACK")

    async def run(self, read: Callable[[apsw.Connection], T]) -> T:
        """Runs a read in one transaction, so that all its queries see the same state."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, self._run, read)

    def close(self) -> None:
        """Waits for the reads that are under way, then closes. Blocks."""
        self._executor.shutdown()
        for connection in self._connections:
            connection.close()

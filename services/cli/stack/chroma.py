"""ChromaDB as a child process: `chroma run`, on the loopback interface alone, because it has no authentication."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path

import aiohttp
import psutil

from services.cli.stack.process import ManagedProcess

HOST = "127.0.0.1"
MAX_PAYLOAD_BYTES = 64 * 1024 * 1024  # a batch of 500 vectors of 4,096 numbers as JSON text is about 25 MB
_PROBE_TIMEOUT = aiohttp.ClientTimeout(total=2.0)
# Settings of the server (its environment overrides its file), of its Python part, and of OpenTelemetry: the caller's must not leak in.
_FOREIGN_SETTINGS = ("CHROMA_", "OTEL_", "IS_PERSISTENT", "PERSIST_DIRECTORY", "ANONYMIZED_TELEMETRY", "ALLOW_RESET")


def chroma_url(port: int) -> str:
    """Where a server started by `chroma_server` answers."""
    return f"http://{HOST}:{port}"


def chroma_server(data_dir: Path, port: int, log: Path) -> ManagedProcess:
    """A ChromaDB server that keeps its data in `data_dir`; its configuration is written beside the log.

    Uses the `chroma` executable of the environment that this program runs in. The YAML form, because `chroma run --path` logs 4 KB a request.
    It is ready when its heartbeat answers and the port is held by this process and no other.
    """
    data_dir.mkdir(parents=True, exist_ok=True)
    log.parent.mkdir(parents=True, exist_ok=True)
    configuration = log.with_suffix(".yaml")
    settings = {
        "persist_path": str(data_dir.resolve()),
        "port": port,
        "listen_address": HOST,
        "max_payload_size_bytes": MAX_PAYLOAD_BYTES,
        "allow_reset": False,
    }
    configuration.write_text("".join(f"{key}: {json.dumps(value)}\n" for key, value in settings.items()))

    async def ready() -> bool:
        return await _heartbeat(port) and await asyncio.to_thread(_listens, server.pid, port)

    server = ManagedProcess(
        "chromadb",
        (str(Path(sys.executable).with_name("chroma")), "run", str(configuration.resolve())),
        log=log,
        env=_environment(os.environ),
        ready=ready,
    )
    return server


def _environment(inherited: Mapping[str, str]) -> dict[str, str]:
    """The caller's environment without settings of ChromaDB, and with its product telemetry off."""
    return {key: value for key, value in inherited.items() if not key.upper().startswith(_FOREIGN_SETTINGS)} | {"ANONYMIZED_TELEMETRY": "False"}


async def _heartbeat(port: int) -> bool:
    try:
        async with (
            aiohttp.ClientSession(timeout=_PROBE_TIMEOUT) as session,
            session.get(f"{chroma_url(port)}/api/v2/heartbeat") as response,
        ):
            return response.status == 200
    except (aiohttp.ClientError, TimeoutError):
        return False


def _listens(pid: int | None, port: int) -> bool:
    """Whether the process itself listens on the port; without this, another server there would pass for it."""
    try:
        connections = psutil.Process(pid).net_connections(kind="tcp")
    except psutil.NoSuchProcess:
        return False
    return any(connection.status == psutil.CONN_LISTEN and connection.laddr.port == port for connection in connections)

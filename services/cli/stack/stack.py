"""ChromaDB, indexer and query service as three child processes on the loopback interface."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path

import services
from services.cli.stack.chroma import chroma_server
from services.cli.stack.health import is_ready
from services.cli.stack.process import ManagedProcess, check_port_free, free_port

_HOST = "127.0.0.1"
_CHROMA_START_TIMEOUT = 60.0  # seconds; 0.6 when idle, more on a busy machine
_SERVICE_START_TIMEOUT = 60.0  # seconds; the indexer checks its database, the query service catches up with the feed
_GRACE = 25.0  # seconds from SIGTERM to SIGKILL; more than the services' own KB_SHUTDOWN_GRACE (20)

# Folders above this one hold the packages `services` and `shared`, wherever the command is run from.
_ROOT = Path(services.__path__[0]).resolve().parent


@dataclass(frozen=True, slots=True)
class Ports:
    """Where the processes listen on the loopback interface. The `http` ports have /metrics and /health, the `health` ports grpc.health.v1."""

    indexer: int = 50051
    indexer_http: int = 9101
    indexer_health: int = 50061
    query: int = 50052
    query_http: int = 9102
    query_health: int = 50062
    chroma: int = 8000

    @classmethod
    def free(cls) -> Ports:
        """As many different ports that nothing listens on now."""
        found: list[int] = []
        while len(found) < len(fields(cls)):
            port = free_port()
            if port not in found:
                found.append(port)
        return cls(*found)

    def check_free(self) -> None:
        """Raises FailedPreconditionError, naming the port and its option, if something listens on one of them."""
        for field in fields(self):
            port: int = getattr(self, field.name)
            option = f"--{field.name.replace('_', '-')}-port"
            check_port_free(port, f"is another `kb up` running? Choose another with {option}")


class Stack:
    """The three processes, started in the order chroma → indexer → query and stopped in reverse.

    Each may be killed and started again alone, on the same port and data. What is left when the parent dies is killed by the kernel.

    Args:
        data_dir: Everything is kept here: `chroma/`, `indexer/`, `query/`, `logs/`.
        model_dir: Folder of exported models (`kb model`).
        ports: Where to listen.
        settings: More `KB_*` variables for both services; they win over the caller's environment, not over what this class sets.
        overrides: By name of a service (`indexer`, `query`), variables of its own that win over everything: where it finds the others, for example.
    """

    def __init__(
        self,
        data_dir: Path,
        model_dir: Path,
        ports: Ports,
        *,
        settings: Mapping[str, str] | None = None,
        overrides: Mapping[str, Mapping[str, str]] | None = None,
    ) -> None:
        self.data_dir = data_dir.resolve()
        self.model_dir = model_dir.resolve()
        self.ports = ports
        self._settings = dict(settings or {})
        self._overrides = {service: dict(variables) for service, variables in (overrides or {}).items()}
        self.indexer_address = f"{_HOST}:{ports.indexer}"
        self.query_address = f"{_HOST}:{ports.query}"
        self.chroma_url = f"http://{_HOST}:{ports.chroma}"
        self.chroma = chroma_server(self.data_dir / "chroma", ports.chroma, self._log("chroma"))
        self.indexer = self.another("indexer", "indexer", self.indexer_address, {})
        self.query = self.another("query", "query", self.query_address, {})

    @property
    def processes(self) -> tuple[ManagedProcess, ManagedProcess, ManagedProcess]:
        """In the order in which they are started."""
        return self.chroma, self.indexer, self.query

    async def start(self, on_ready: Callable[[ManagedProcess], None] | None = None) -> None:
        """Starts all three and waits until each is ready; `on_ready` is told of each. If one fails, none is left running.

        Raises UnavailableError with the last lines of the log of the one that failed.
        """
        try:
            for process, start in ((self.chroma, self.start_chroma), (self.indexer, self.start_indexer), (self.query, self.start_query)):
                await start()
                if on_ready is not None:
                    on_ready(process)
        except BaseException:
            self.kill()
            raise

    async def stop(self) -> None:
        """Stops all three, the query service first; a process that does not end within 25 s is killed. Cancelled, it kills the rest."""
        try:
            for process in reversed(self.processes):
                await process.stop(_GRACE)
        finally:
            self.kill()

    def kill(self) -> None:
        """Kills whatever runs of the three (SIGKILL)."""
        for process in reversed(self.processes):
            process.kill()

    async def start_chroma(self) -> None:
        """Starts ChromaDB and waits until it answers."""
        await self.chroma.start(_CHROMA_START_TIMEOUT)

    async def start_indexer(self) -> None:
        """Starts the indexer and waits until it is ready."""
        await self.indexer.start(_SERVICE_START_TIMEOUT)

    async def start_query(self) -> None:
        """Starts the query service and waits until it is ready."""
        await self.query.start(_SERVICE_START_TIMEOUT)

    async def restart_indexer(self) -> None:
        """Stops the indexer if it runs, in order, and starts it again."""
        await self.indexer.stop(_GRACE)
        await self.start_indexer()

    async def restart_query(self) -> None:
        """Stops the query service if it runs, in order, and starts it again."""
        await self.query.stop(_GRACE)
        await self.start_query()

    def kill_chroma(self) -> None:
        """Kills ChromaDB (SIGKILL)."""
        self.chroma.kill()

    def kill_indexer(self) -> None:
        """Kills the indexer (SIGKILL)."""
        self.indexer.kill()

    def kill_query(self) -> None:
        """Kills the query service (SIGKILL)."""
        self.query.kill()

    def another(self, service: str, name: str, address: str, variables: Mapping[str, str]) -> ManagedProcess:
        """One more process of a service, set up as this stack's own, for example a second replica; whoever asks for it starts and stops it.

        Args:
            service: `indexer` or `query`.
            name: What messages and its log call it.
            address: Where it says that it is ready, `host:port`.
            variables: What is different for it: its ports and its folder, at least.
        """

        async def ready() -> bool:
            return await is_ready(address)

        environment = {**self._environment(), **self._overrides.get(service, {}), **variables}
        return ManagedProcess(name, (sys.executable, "-m", f"services.{service}"), log=self._log(name), ready=ready, env=environment)

    def _log(self, name: str) -> Path:
        return self.data_dir / "logs" / f"{name}.log"

    def _environment(self) -> dict[str, str]:
        ports = self.ports
        python_path = os.pathsep.join(filter(None, (str(_ROOT), os.environ.get("PYTHONPATH"))))
        return {
            **os.environ,
            **self._settings,
            "PYTHONPATH": python_path,
            "KB_DATA_DIR": str(self.data_dir),
            "KB_MODEL_DIR": str(self.model_dir),
            "KB_CHROMA_URL": self.chroma_url,
            "KB_INDEXER_HOST": _HOST,
            "KB_INDEXER_PORT": str(ports.indexer),
            "KB_INDEXER_HTTP_PORT": str(ports.indexer_http),
            "KB_INDEXER_HEALTH_PORT": str(ports.indexer_health),
            "KB_INDEXER_ADDRESS": self.indexer_address,
            "KB_QUERY_HOST": _HOST,
            "KB_QUERY_PORT": str(ports.query),
            "KB_QUERY_HTTP_PORT": str(ports.query_http),
            "KB_QUERY_HEALTH_PORT": str(ports.query_health),
            "KB_LOG_FORMAT": self._settings.get("KB_LOG_FORMAT", os.environ.get("KB_LOG_FORMAT", "json")),
        }

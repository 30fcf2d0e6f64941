"""A real Prometheus and a real Alertmanager as child processes on the loopback interface, with the configuration of `deployments/`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from services.cli.observe.alertmanager_api import AlertmanagerApi
from services.cli.observe.configuration import Local, alertmanager_configuration, duration, prometheus_configuration, rule_files
from services.cli.observe.http_json import is_ready
from services.cli.observe.programs import find_programs
from services.cli.observe.prometheus_api import PrometheusApi
from services.cli.stack.process import ManagedProcess, check_port_free, free_port
from services.cli.stack.stack import Stack

_HOST = "127.0.0.1"
_START_TIMEOUT = 60.0  # seconds; both take less than one, Prometheus longer when it has much to read back
_GRACE = 20.0  # seconds from SIGTERM to SIGKILL; Prometheus writes what it has in memory
_PROBE_TIMEOUT = 2.0
RETENTION_SECONDS = 30 * 86400.0  # the objective's window


@dataclass(frozen=True, slots=True)
class MonitoringPorts:
    """Where the two listen on the loopback interface."""

    prometheus: int = 9090
    alertmanager: int = 9093

    @classmethod
    def free(cls) -> MonitoringPorts:
        """Two ports that nothing listens on now."""
        first = second = free_port()
        while second == first:
            second = free_port()
        return cls(first, second)

    def check_free(self) -> None:
        """Raises FailedPreconditionError, naming the port and its option, if something listens on one of them."""
        check_port_free(self.prometheus, "does a Prometheus run already? Choose another with --prometheus-port")
        check_port_free(self.alertmanager, "does an Alertmanager run already? Choose another with --alertmanager-port")


@dataclass(frozen=True, slots=True)
class Targets:
    """`host:port` of the /metrics of every query service and every indexer."""

    query: tuple[str, ...]
    indexer: tuple[str, ...]

    @classmethod
    def of(cls, *stacks: Stack) -> Targets:
        """Those of stacks on this machine."""
        return cls(tuple(f"{_HOST}:{stack.ports.query_http}" for stack in stacks), tuple(f"{_HOST}:{stack.ports.indexer_http}" for stack in stacks))


class Monitoring:
    """The two processes, Alertmanager started first. What is left when the parent dies is killed by the kernel.

    Args:
        folder: Configuration, data and logs are kept here; what an earlier run measured is still there.
        targets: What is scraped. They need not be up yet.
        ports: Where the two listen.
        scrape_seconds: Between two scrapes, and between two evaluations of the rules.
        wait_factor: What alerts (`for`) and Alertmanager's groups wait is multiplied by it, so that a test need not wait for minutes.
        retention_seconds: How long samples are kept.

    Raises FailedPreconditionError when a program, or the folder `deployments`, is missing.
    """

    def __init__(
        self,
        folder: Path,
        targets: Targets,
        ports: MonitoringPorts,
        *,
        scrape_seconds: float = 15.0,
        wait_factor: float = 1.0,
        retention_seconds: float = RETENTION_SECONDS,
    ) -> None:
        self.folder = folder.resolve()
        self.prometheus_url = f"http://{_HOST}:{ports.prometheus}"
        self.alertmanager_url = f"http://{_HOST}:{ports.alertmanager}"
        self.prometheus = PrometheusApi(self.prometheus_url)
        self.alertmanager = AlertmanagerApi(self.alertmanager_url)
        prometheus, alertmanager = f"{_HOST}:{ports.prometheus}", f"{_HOST}:{ports.alertmanager}"
        self._local = Local(
            {"kb-query": targets.query, "kb-indexer": targets.indexer, "prometheus": (prometheus,), "alertmanager": (alertmanager,)},
            alertmanager,
            scrape_seconds,
            wait_factor,
        )
        programs = find_programs()
        self.alertmanager_process = self._process(
            "alertmanager",
            self.alertmanager_url,
            (
                programs.alertmanager,
                f"--config.file={self.folder / 'alertmanager.yml'}",
                f"--storage.path={self.folder / 'alertmanager'}",
                f"--web.listen-address={alertmanager}",
                "--cluster.listen-address=",  # alone: it would listen for others on all interfaces
            ),
        )
        self.prometheus_process = self._process(
            "prometheus",
            self.prometheus_url,
            (
                programs.prometheus,
                f"--config.file={self.folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={self.folder / 'prometheus'}",
                f"--storage.tsdb.retention.time={duration(retention_seconds)}",
                f"--web.listen-address={prometheus}",
                "--enable-feature=exemplar-storage",
            ),
        )

    @property
    def processes(self) -> tuple[ManagedProcess, ManagedProcess]:
        """In the order in which they are started."""
        return self.alertmanager_process, self.prometheus_process

    async def start(self, on_ready: Callable[[ManagedProcess], None] | None = None) -> None:
        """Writes the configuration, starts both and waits until each serves; `on_ready` is told of each. If one fails, none is left running.

        Raises UnavailableError with the last lines of the log of the one that failed.
        """
        self._write([("prometheus.yml", prometheus_configuration(self._local)), ("alertmanager.yml", alertmanager_configuration(self._local))])
        self._write(rule_files(self._local).items())
        try:
            for process in self.processes:
                await process.start(_START_TIMEOUT)
                if on_ready is not None:
                    on_ready(process)
        except BaseException:
            self._kill()
            raise

    async def stop(self) -> None:
        """Stops both, Prometheus first; one that does not end within 20 s is killed. Cancelled, it kills the rest."""
        try:
            for process in reversed(self.processes):
                await process.stop(_GRACE)
        finally:
            self._kill()

    def _kill(self) -> None:
        for process in self.processes:
            process.kill()

    def _write(self, files: Iterable[tuple[str, str]]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        for name, text in files:
            (self.folder / name).write_text(text)

    def _process(self, name: str, url: str, command: tuple[str, ...]) -> ManagedProcess:
        async def ready() -> bool:
            return await is_ready(url, _PROBE_TIMEOUT)

        return ManagedProcess(name, command, log=self.folder / "logs" / f"{name}.log", ready=ready)

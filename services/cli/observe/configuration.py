"""The configuration that `deployments/` has for containers, with the addresses and intervals of this machine in it. Pure, but for reading."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

import services
from shared.errors import FailedPreconditionError

# Beside the packages, wherever the command is run from. A wheel does not have it.
DEPLOYMENTS = Path(services.__path__[0]).resolve().parent / "deployments"

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0, "y": 31536000.0}
_DURATION = re.compile(r"(\d+)(ms|[smhdwy])")
_WAITS = ("group_wait", "group_interval", "repeat_interval")


@dataclass(frozen=True, slots=True)
class Local:
    """What is different here: `host:port` of the targets by job, seconds between two scrapes, and by how much waits are shortened."""

    targets: Mapping[str, tuple[str, ...]]
    alertmanager: str
    scrape_seconds: float
    wait_factor: float


def prometheus_configuration(local: Local) -> str:
    """`prometheus.yml` for this machine. Raises FailedPreconditionError if a job has no targets here, so that none is scraped by mistake."""
    document = read("prometheus/prometheus.yml")
    interval = duration(local.scrape_seconds)
    document["global"] |= {"scrape_interval": interval, "scrape_timeout": interval, "evaluation_interval": interval}
    for job in document["scrape_configs"]:
        if job["job_name"] not in local.targets:
            raise FailedPreconditionError(f"prometheus.yml has a job that nothing here belongs to: {job['job_name']}")
        job["static_configs"] = [{"targets": list(local.targets[job["job_name"]])}]
    for alertmanager in document["alerting"]["alertmanagers"]:
        alertmanager["static_configs"] = [{"targets": [local.alertmanager]}]
    return _written(document)


def rule_files(local: Local) -> dict[str, str]:
    """The rules by the names that `prometheus.yml` calls them, with what they wait (`for`) shortened by the factor; expressions as they are."""
    files = {}
    for name in read("prometheus/prometheus.yml")["rule_files"]:
        document = read(f"prometheus/{name}")
        for group in document["groups"]:
            for rule in group["rules"]:
                if "for" in rule:
                    rule["for"] = duration(seconds(rule["for"]) * local.wait_factor)
        files[name] = _written(document)
    return files


def alertmanager_configuration(local: Local) -> str:
    """`alertmanager.yml` with its waits shortened by the factor."""
    document = read("alertmanager/alertmanager.yml")
    _shorten(document["route"], local.wait_factor)
    return _written(document)


def read(path: str) -> Any:  # noqa: ANN401 - YAML
    """A YAML file of `deployments`. Raises FailedPreconditionError if it is not there."""
    try:
        return yaml.safe_load((DEPLOYMENTS / path).read_text())
    except FileNotFoundError as error:
        raise FailedPreconditionError(
            f"{DEPLOYMENTS / path} is not there: this needs the project's folder, an installed package alone does not have it"
        ) from error


def seconds(text: str) -> float:
    """A duration as Prometheus writes it, `1h30m`, in seconds. Raises FailedPreconditionError if it is none."""
    parts = _DURATION.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise FailedPreconditionError(f"no duration: {text!r}")
    return sum(int(number) * _UNITS[unit] for number, unit in parts)


def duration(seconds: float) -> str:
    """Seconds as Prometheus writes them; at least a millisecond, because a wait of 0 means something else to Alertmanager."""
    return f"{max(1, round(seconds * 1000))}ms"


def _shorten(route: dict[str, Any], factor: float) -> None:
    for wait in _WAITS:
        if wait in route:
            route[wait] = duration(seconds(route[wait]) * factor)
    for child in route.get("routes", ()):
        _shorten(child, factor)


def _written(document: object) -> str:
    return yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=150)

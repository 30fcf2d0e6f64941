"""Programs of Prometheus and Alertmanager that tests call, and the files that they look at."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from services.cli.observe.configuration import DEPLOYMENTS, read
from services.cli.observe.programs import find_programs
from shared.errors import FailedPreconditionError

RULES = Path(__file__).parent / "rules"
ALERTS = "prometheus/alerts.yml"
RECORDING_RULES = "prometheus/recording_rules.yml"
ALERTMANAGER = DEPLOYMENTS / "alertmanager" / "alertmanager.yml"


@dataclass(frozen=True)
class Ended:
    """How a program ended, and all that it wrote."""

    status: int
    output: str


def require_programs() -> None:
    """Skips the test where Prometheus or Alertmanager is not installed, and says what to install."""
    try:
        find_programs()
    except FailedPreconditionError as error:
        pytest.skip(error.message)


def run(*command: str | Path) -> Ended:
    """Runs `promtool` or `amtool` (of the same packages) to its end."""
    require_programs()
    if shutil.which(str(command[0])) is None:
        pytest.skip(f"not in PATH: {command[0]}, which comes with the package")
    ended = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=120, check=False)
    return Ended(ended.returncode, ended.stdout + ended.stderr)


def alerts() -> list[dict[str, Any]]:
    """The alerts as they stand in the file."""
    return _rules(ALERTS)


def recordings() -> list[dict[str, Any]]:
    """The recording rules as they stand in the file."""
    return _rules(RECORDING_RULES)


def _rules(path: str) -> list[dict[str, Any]]:
    return [rule for group in read(path)["groups"] for rule in group["rules"]]

"""Where Prometheus and Alertmanager are on this machine."""

from __future__ import annotations

import shutil
from dataclasses import dataclass

from shared.errors import FailedPreconditionError

# Debian renames the second, because another package had its name.
_PACKAGES = {"prometheus": ("prometheus",), "prometheus-alertmanager": ("alertmanager", "prometheus-alertmanager")}


@dataclass(frozen=True, slots=True)
class Programs:
    """Paths of the programs."""

    prometheus: str
    alertmanager: str


def find_programs() -> Programs:
    """Looks for both in PATH. Raises FailedPreconditionError, which names the packages that are missing and how to install them."""
    found = {package: next(filter(None, map(shutil.which, names)), None) for package, names in _PACKAGES.items()}
    missing = [package for package, path in found.items() if path is None]
    if missing:
        raise FailedPreconditionError(
            f"not installed: {' '.join(missing)}. Debian: make system-packages, or apt-get install --no-install-recommends {' '.join(missing)}; "
            "elsewhere: Prometheus 2.42 or newer and Alertmanager 0.25 or newer, in PATH"
        )
    return Programs(*(path for path in found.values() if path is not None))

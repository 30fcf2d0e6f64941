"""Writes Prometheus' rules as PrometheusRule: `python -m deployments.kubernetes.rules`; `--check` only says whether that is out of date.

The rules stand in deployments/prometheus; kustomize cannot put a file's content under a key of a manifest.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Final

import yaml

_DEPLOYMENTS: Final = Path(__file__).resolve().parents[1]
_FILE: Final = _DEPLOYMENTS / "kubernetes" / "components" / "monitoring" / "prometheus-rules.yaml"
# One object for each file: group names must differ within an object, and both files have a group of the same name.
_SOURCES: Final = {"recording-rules": "recording_rules.yml", "alerts": "alerts.yml"}


def render() -> str:
    """The manifests, as YAML."""
    objects = [
        {
            "apiVersion": "monitoring.coreos.com/v1",
            "kind": "PrometheusRule",
            "metadata": {"name": f"knowledgebeast-{name}"},
            "spec": yaml.safe_load((_DEPLOYMENTS / "prometheus" / file).read_text(encoding="utf-8")),
        }
        for name, file in _SOURCES.items()
    ]
    return "# Made from deployments/prometheus by `make gen`; do not edit.\n" + yaml.safe_dump_all(objects, sort_keys=False, width=10_000)


def main() -> None:
    """Entry point of the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if the file is out of date")
    arguments = parser.parse_args()
    text = render()
    if not arguments.check:
        _FILE.write_text(text, encoding="utf-8")
    elif not _FILE.exists() or _FILE.read_text(encoding="utf-8") != text:
        sys.exit(f"out of date, run `make gen`: {_FILE.name}")


if __name__ == "__main__":
    main()

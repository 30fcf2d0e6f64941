"""Writes the dashboard's file: `python -m deployments.grafana.source`; with `--check` it writes nothing and exits 1 if the file is out of date."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from deployments.grafana.source import overview

_FILE = Path(__file__).resolve().parents[1] / "dashboards" / f"{overview.UID}.json"


def main() -> None:
    """Entry point of the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if the file is out of date")
    arguments = parser.parse_args()
    text = overview.render()
    if not arguments.check:
        _FILE.parent.mkdir(parents=True, exist_ok=True)
        _FILE.write_text(text, encoding="utf-8")
    elif not _FILE.exists() or _FILE.read_text(encoding="utf-8") != text:
        sys.exit(f"out of date, run `make gen`: {_FILE.name}")


if __name__ == "__main__":
    main()

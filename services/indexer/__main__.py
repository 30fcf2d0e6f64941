"""`python -m services.indexer`: runs the indexer until SIGTERM or SIGINT. Settings are `KB_*` variables: docs/configuration.md."""

from __future__ import annotations

import sys

from services.indexer import bootstrap
from services.indexer.config import IndexerSettings
from shared.process import run_service


def main() -> int:
    """Runs the service; returns its exit status."""
    return run_service("indexer", IndexerSettings, bootstrap.start)


if __name__ == "__main__":
    sys.exit(main())

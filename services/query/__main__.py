"""`python -m services.query`: runs the query service until SIGTERM or SIGINT. Settings are `KB_*` variables: docs/configuration.md."""

from __future__ import annotations

import sys

from services.query import bootstrap
from services.query.config import QuerySettings
from shared.process import run_service


def main() -> int:
    """Runs the service; returns its exit status."""
    return run_service("query", QuerySettings, bootstrap.start)


if __name__ == "__main__":
    sys.exit(main())

"""Writes the documents that are made from code: `python docs/generate.py`; with `--check` it writes nothing and exits 1 if one is out of date."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

DOCS = Path(__file__).resolve().parent
sys.path.insert(0, str(DOCS.parent))

from services.indexer.config import IndexerSettings  # noqa: E402 - the path must be set first
from services.query.config import QuerySettings  # noqa: E402 - same
from shared import config_docs  # noqa: E402 - same
from shared.config import CommonSettings  # noqa: E402 - same
from shared.observability import metrics_docs  # noqa: E402 - same
from shared.observability.metrics import DEFINITIONS  # noqa: E402 - same

_CONFIGURATION = """# Configuration

Every setting is an environment variable, read and checked once at start; a wrong value stops the service with a line that names the variable
and what is allowed. This page is made from the settings themselves by `make gen`.

`kb` reads `KB_INDEXER_ADDRESS` (127.0.0.1:50051) and `KB_QUERY_ADDRESS` (127.0.0.1:50052) to find the services.

"""


def documents() -> dict[Path, str]:
    """Each generated document and its text."""
    return {
        DOCS / "configuration.md": _CONFIGURATION + config_docs.render([CommonSettings, IndexerSettings, QuerySettings]).rstrip() + "\n",
        DOCS / "metrics.md": metrics_docs.render(DEFINITIONS).rstrip() + "\n",
    }


def main() -> None:
    """Entry point of the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a document is out of date")
    arguments = parser.parse_args()
    stale = [path for path, text in documents().items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    if arguments.check and stale:
        sys.exit(f"out of date, run `make gen`: {', '.join(path.name for path in stale)}")
    if not arguments.check:
        for path, text in documents().items():
            path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()

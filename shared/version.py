"""The version of KnowledgeBeast, for logs, metrics, traces and status answers."""

from __future__ import annotations

from typing import Final

# The project is run from its source tree, so there is no installed metadata to read; a test holds this equal to pyproject.toml.
VERSION: Final = "0.1.0"

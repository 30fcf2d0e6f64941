"""The subjects of `Signals` in the indexer."""

from __future__ import annotations

import enum


class Subject(enum.Enum):
    """What somebody may wait for, beside the single projects (a `ProjectKey` each)."""

    PROJECT_LIST = enum.auto()
    COMMITTED = enum.auto()  # documents of any project
    EMBEDDED = enum.auto()  # vectors of any project
    DELETED = enum.auto()  # a project, or what it had in the vector store

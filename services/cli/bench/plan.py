"""What a run of the benchmark is to do. Light, because the command line reads it for its help."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


class Section(enum.StrEnum):
    """The parts of the benchmark, in the order in which they run: those that disturb the stack come last."""

    SEARCH = "search"
    FILTERS = "filters"
    FLOOR = "floor"
    RECALL = "recall"
    MEMORY = "memory"
    COMPETITORS = "competitors"
    OVERHEAD = "overhead"
    INGEST = "ingest"
    OUTAGE = "outage"
    REBUILD = "rebuild"


@dataclass(frozen=True, slots=True)
class Plan:
    """What to run.

    Attributes:
        root: Folder that is kept for the next run: the corpus, and a stack's data for each size.
        model_dir: Folder of exported models.
        sizes: Documents, rising.
        sections: What is measured, in the order in which it runs.
        seconds: Load that each variant gets.
        slice_seconds: Of it in one turn.
    """

    root: Path
    model_dir: Path
    sizes: Sequence[int]
    sections: Sequence[Section]
    seconds: float
    slice_seconds: float = 1.0

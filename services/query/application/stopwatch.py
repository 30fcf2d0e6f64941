"""Where the time of a search goes."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Literal

from shared.search import Timings

Stage = Literal["wait", "embed", "vector", "keyword", "assemble", "rerank"]


class Stopwatch:
    """Runs from its creation; stages may overlap."""

    def __init__(self) -> None:
        self._started = time.perf_counter()
        self._stages: dict[Stage, float] = {}

    @contextlib.contextmanager
    def stage(self, name: Stage) -> Iterator[None]:
        """Adds the time of the block to a stage."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self._stages[name] = self._stages.get(name, 0.0) + time.perf_counter() - started

    @property
    def total(self) -> float:
        """Seconds since the creation."""
        return time.perf_counter() - self._started

    def read(self) -> Timings:
        """What has been measured so far."""
        return Timings(total=self.total, **self._stages)

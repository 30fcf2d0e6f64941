"""How far a long job has come: a bar on a terminal, a plain line every few seconds elsewhere."""

from __future__ import annotations

import time
from typing import Self

from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from services.cli.console import ERR, line

_PLAIN_INTERVAL = 2.0  # seconds between two plain lines


class _Rate(ProgressColumn):
    """How many a second, lately."""

    def render(self, task: Task) -> Text:
        """See rich."""
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.0f}/s")


class Meter:
    """Shows `completed of total unit`; a context manager.

    Args:
        description: What is going on.
        unit: What is counted, in the plural.
        total: How many there are; None when that is not known.
        rate: Also show how many a second, and on a plain line the seconds that are left at that rate.
    """

    def __init__(self, description: str, unit: str, total: int | None = None, *, rate: bool = False) -> None:
        self._description = description
        self._unit = unit
        self._total = total
        self._completed = 0
        self._rate = rate
        self._began_at = time.monotonic()
        self._shown_at = time.monotonic()
        self._said = ""
        self._bar: Progress | None = None
        if ERR.is_terminal:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn(unit),
                *((_Rate(),) if rate else ()),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
            )
            self._bar = Progress(*columns, console=ERR)
            self._task = self._bar.add_task(description, total=total)

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()
        else:
            self.show()

    @property
    def completed(self) -> int:
        """How many are done."""
        return self._completed

    def advance(self, count: int = 1) -> None:
        """Counts more as done."""
        self.set(self._completed + count)

    def set(self, completed: int, total: int | None = None) -> None:
        """Sets how many are done, and how many there are if that has changed."""
        self._completed = completed
        if total is not None:
            self._total = total
        if self._bar is not None:
            self._bar.update(self._task, completed=completed, total=self._total)
        elif time.monotonic() - self._shown_at >= _PLAIN_INTERVAL:
            self.show()

    def show(self) -> None:
        """Writes the plain line, unless it stands there already."""
        self._shown_at = time.monotonic()
        of = "" if self._total is None else f" of {self._total:,}"
        text = f"{self._description}: {self._completed:,}{of} {self._unit}{self._pace() if self._rate else ''}"
        if text != self._said:
            line(text)
        self._said = text

    def _pace(self) -> str:
        """`, 1,210/s, 15 s left` since the beginning; nothing before the first."""
        seconds = self._shown_at - self._began_at
        if not self._completed or seconds <= 0:
            return ""
        rate = self._completed / seconds
        left = 0 if self._total is None else self._total - self._completed
        return f", {rate:,.0f}/s" + (f", {left / rate:,.0f} s left" if left > 0 else "")

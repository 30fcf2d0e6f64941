"""Sends what is read, and counts and says what became of it."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator, Sequence

from services.cli.console import line
from services.cli.ingest.batch import Batch
from services.cli.ingest.items import Remark, Verdict
from services.cli.progress import Meter
from shared.client import DocumentResult, KnowledgeBeast
from shared.domain import DocumentInput

_STYLES = {Verdict.FAILED: "red", Verdict.SKIPPED: "dim", Verdict.NOTE: "dim"}


class Ingestion:
    """One run of `kb ingest`. The counts are right at any moment, also after an error.

    Attributes:
        written: Documents that were written.
        unchanged: Documents that were already there like this.
        skipped: Files that were left out on purpose, empty ones among them.
        empty: Files without text.
        failed: Files, lines and documents that could not be read or were refused.
        consistency_token: Covers everything acknowledged; empty before that.
    """

    def __init__(self, kb: KnowledgeBeast, project: str, meter: Meter) -> None:
        self.written = 0
        self.unchanged = 0
        self.skipped = 0
        self.empty = 0
        self.failed = 0
        self.consistency_token = ""
        self._kb = kb
        self._project = project
        self._meter = meter
        self._origins: deque[str] = deque()  # of the documents on the way, which the client bounds
        self._began = time.monotonic()

    async def run(self, batches: Iterator[Batch]) -> None:
        """Sends everything. Raises UnavailableError and the like when the stream breaks; single documents never end it."""
        async for answer in self._kb.ingest(self._project, self._source(batches)):
            for result in answer.results:
                self._count(result, self._origins.popleft())
            self.consistency_token = answer.consistency_token
        if self.empty:
            line("1 empty file skipped" if self.empty == 1 else f"{self.empty:,} empty files skipped", style=_STYLES[Verdict.SKIPPED])

    def summary(self) -> str:
        """One line: counts, seconds, documents a second."""
        seconds = time.monotonic() - self._began
        rate = (self.written + self.unchanged) / seconds if seconds else 0.0
        counts = f"{self.written:,} written, {self.unchanged:,} unchanged, {self.failed:,} failed, {self.skipped:,} skipped"
        return f"{counts} in {seconds:.1f} s ({rate:,.0f} documents/s)"

    async def _source(self, batches: Iterator[Batch]) -> AsyncIterator[Sequence[DocumentInput]]:
        while (batch := await asyncio.to_thread(next, batches, None)) is not None:
            for remark in batch.remarks:
                self._say(remark)
            if batch.documents:
                self._origins.extend(read.origin for read in batch.documents)
                yield [read.document for read in batch.documents]
            self._meter.advance(batch.files)

    def _count(self, result: DocumentResult, origin: str) -> None:
        if result.error is not None:
            # A violation's field is its place in the batch, which says nothing to the user; what is allowed does.
            reasons = "; ".join(f"{violation.field.rpartition('].')[2]}: {violation.description}" for violation in result.error.violations)
            self._say(Remark(Verdict.FAILED, origin, f"refused: {reasons or result.error.message}"))
        elif result.unchanged:
            self.unchanged += 1
        else:
            self.written += 1

    def _say(self, remark: Remark) -> None:
        match remark.verdict:
            case Verdict.FAILED:
                self.failed += 1
            case Verdict.SKIPPED:
                self.skipped += 1
            case Verdict.EMPTY:
                self.skipped += 1
                self.empty += 1
                return
            case Verdict.NOTE:
                pass
        line(f"{remark.verdict.value}: {remark.subject}: {remark.message}", style=_STYLES[remark.verdict])

"""What a section of the benchmark gets to work with."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from services.cli.bench.ask import Ask
from services.cli.bench.dataset import PROJECT, Dataset, size_name
from services.cli.bench.interleave import Fresh, Repeated, Variant, interleave
from services.cli.bench.load import LoadGenerator, TargetSpec
from services.cli.bench.queries import Queries
from services.cli.bench.records import Labels, Record
from services.cli.console import line
from services.cli.progress import Meter
from services.cli.stack.stack import Stack
from shared.errors import UnavailableError

CACHED_QUERIES = 50  # asked again and again where answers are to come from the cache
_SCRAPE_TIMEOUT = aiohttp.ClientTimeout(total=5.0)


@dataclass(slots=True)
class Bench:
    """One corpus in one running stack.

    Attributes:
        root: Folder of everything that the benchmark keeps.
        stack: The three processes.
        dataset: What is in them.
        generator: Makes load.
        queries: Searches that were never made before.
        seconds: Load that each variant gets.
        slice_seconds: Of it in one turn.
        records: What was found, in order.
        notes: What a reader should know to read the figures right.
        failures: What was to be measured and was not, or not wholly.
    """

    root: Path
    stack: Stack
    dataset: Dataset
    generator: LoadGenerator
    queries: Queries
    seconds: float
    slice_seconds: float = 1.0
    records: list[Record] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    @property
    def size(self) -> str:
        """`10k`."""
        return size_name(len(self.dataset.corpus.documents))

    @property
    def stub(self) -> TargetSpec:
        """The query service through a bare channel."""
        return TargetSpec("stub", {"query": self.stack.query_address, "project": PROJECT})

    @property
    def library(self) -> TargetSpec:
        """The query service through the client library."""
        return TargetSpec("library", {"query": self.stack.query_address, "project": PROJECT})

    @property
    def model(self) -> dict[str, str | int]:
        """What a target needs to embed as the query service does: an ONNX session, as many calls at once as there are cores."""
        return {"model_dir": str(self.stack.model_dir), "concurrency": os.cpu_count() or 1}

    @property
    def processes(self) -> dict[str, int]:
        """Name and id of the processes that answer searches."""
        return {process.name: process.pid for process in (self.stack.query, self.stack.chroma) if process.pid is not None and process.running}

    def fresh(self, mode: str = "hybrid", below: int | None = None) -> Fresh:
        """Searches that no cache has."""
        return Fresh(self.queries, lambda query: Ask(query, mode, below))

    def repeated(self, mode: str = "hybrid", below: int | None = None) -> Repeated:
        """A few searches again and again."""
        return Repeated([Ask(query, mode, below) for query in self.queries.take(CACHED_QUERIES)])

    async def measure(self, title: str, variants: Sequence[Variant], *, seconds: float | None = None) -> None:
        """Measures variants in turns, with a progress bar, and notes what failed."""
        total = self.seconds if seconds is None else seconds
        rounds = max(1, round(total / self.slice_seconds))
        with self.meter(title, "slices", rounds * len(variants)) as meter:
            await interleave(
                self.generator,
                variants,
                seconds=total,
                slice_seconds=self.slice_seconds,
                processes=self.processes,
                on_slice=meter.advance,
            )
        for variant in variants:
            if failed := sum(burst.failed for burst in variant.bursts):
                self.fail(f"{title}, {variant.name}: {failed} searches failed ({'; '.join(variant.errors())})")

    def meter(self, title: str, unit: str, total: int | None = None) -> Meter:
        """A progress bar that names the corpus."""
        return Meter(f"{self.size} {title}", unit, total)

    def record(self, section: str, name: str, values: dict[str, float], *, n: int = 0, labels: Labels | None = None) -> None:
        """Keeps what was found."""
        self.records.append(Record(section, self.size, name, labels or {}, n, values))

    def record_variant(self, section: str, variant: Variant, **more: float) -> None:
        """Keeps what a variant brought."""
        self.record(section, variant.name, {**variant.figures(), **more}, n=len(variant.latencies), labels=variant.labels)

    def fail(self, text: str) -> None:
        """Keeps what could not be measured, and shows it."""
        self.failures.append(f"{self.size}: {text}")
        line(text, style="red")

    def note(self, text: str) -> None:
        """Keeps a remark for the reader, and shows it."""
        self.notes.append(f"{self.size}: {text}")
        line(text, style="yellow")


async def scrape(port: int) -> dict[str, float]:
    """The metrics that a service serves on its HTTP port: name of the sample to value, samples of different labels added up.

    Raises UnavailableError if it does not answer.
    """
    totals: dict[str, float] = {}
    try:
        async with aiohttp.ClientSession(timeout=_SCRAPE_TIMEOUT) as session, session.get(f"http://127.0.0.1:{port}/metrics") as response:
            text = await response.text()
    except (aiohttp.ClientError, TimeoutError) as error:
        raise UnavailableError(f"no metrics on port {port}", component="bench") from error
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            totals[sample.name] = totals.get(sample.name, 0.0) + sample.value
    return totals

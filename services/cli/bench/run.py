"""Runs the benchmark: a stack for each size, the sections one after the other, results saved after each of them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from services.cli.bench import corpus, dataset, machine
from services.cli.bench.context import Bench
from services.cli.bench.load import LoadGenerator
from services.cli.bench.plan import Plan, Section
from services.cli.bench.queries import Queries
from services.cli.bench.records import Record, Report
from services.cli.bench.sections import competitors, filters, floor, ingest, memory, outage, overhead, rebuild, recall, search
from services.cli.console import line
from services.cli.explain import explain
from services.cli.stack import lock
from services.cli.stack.stack import Ports, Stack
from services.cli.supervisor import start
from shared.errors import KnowledgeBeastError

Measure = Callable[[Bench], Awaitable[None]]
OnReport = Callable[[Report], None]

_MEASURES: Mapping[Section, Measure] = {
    Section.SEARCH: search.run,
    Section.FILTERS: filters.run,
    Section.FLOOR: floor.run,
    Section.RECALL: recall.run,
    Section.MEMORY: memory.run,
    Section.COMPETITORS: competitors.run,
    Section.OVERHEAD: overhead.run,
    Section.INGEST: ingest.run,
    Section.OUTAGE: outage.run,
    Section.REBUILD: rebuild.run,
}
# A replica that has to be copied anew takes longer than a start may: `dataset.prepare` waits for it instead.
_SETTINGS = {"KB_READY_LAG_TIMEOUT": "10"}
# What they measure does not depend on the size, so they run with the first one alone.
_ONCE = frozenset({Section.OVERHEAD, Section.INGEST})
_SEED = 20_240_229  # of the queries: any fixed number


async def run(plan: Plan, on_progress: OnReport) -> Report:
    """Runs the plan; `on_progress` gets all that was found so far after each section.

    A section that fails is noted, and the others go on. Raises what keeps a stack from starting or a corpus from being written.
    """
    progress = _Progress(plan, on_progress)
    await asyncio.to_thread(corpus.load, plan.root / "corpus.jsonl", max(plan.sizes))  # made once at its full length; each size reads its part
    for place, size in enumerate(plan.sizes):
        sections = [section for section in plan.sections if place == 0 or section not in _ONCE]
        await _run_size(plan, size, sections, progress)
    return progress.report()


class _Progress:
    """What was found so far."""

    def __init__(self, plan: Plan, tell: OnReport) -> None:
        self.records: list[Record] = []
        self.notes: list[str] = []
        self.failures: list[str] = []
        self.corpora: dict[str, Any] = {}
        self._machine = machine.describe()
        self._options = {"sizes": list(plan.sizes), "sections": list(plan.sections), "seconds": plan.seconds, "slice_seconds": plan.slice_seconds}
        self._tell = tell

    def report(self) -> Report:
        return Report(self._machine, self.corpora, self._options, tuple(self.records), tuple(self.notes), tuple(self.failures))

    def add(self, bench: Bench) -> None:
        self.records += bench.records
        self.notes += bench.notes
        self.failures += bench.failures
        bench.records.clear()
        bench.notes.clear()
        bench.failures.clear()
        self._tell(self.report())


async def _run_size(plan: Plan, size: int, sections: Sequence[Section], progress: _Progress) -> None:
    found = await asyncio.to_thread(corpus.load, plan.root / "corpus.jsonl", size)
    folder = plan.root / dataset.size_name(size)
    with lock.exclusive(folder):
        stack = Stack(folder, plan.model_dir, Ports.free(), settings=_SETTINGS)
        await start(stack, line, lambda process: line(f"{process.name} is ready (process {process.pid})"))
        try:
            made = await dataset.prepare(stack, found)
            progress.corpora[dataset.size_name(size)] = _describe(made)
            async with LoadGenerator() as generator:
                queries = Queries(found.documents, _SEED)
                bench = Bench(plan.root, stack, made, generator, queries, plan.seconds, plan.slice_seconds)
                for section in sections:
                    await _run_section(section, bench)
                    progress.add(bench)
        finally:
            await stack.stop()


async def _run_section(section: Section, bench: Bench) -> None:
    line(f"{bench.size}: {section}", style="bold")
    began = time.monotonic()
    try:
        await _MEASURES[section](bench)
    except KnowledgeBeastError as error:
        bench.fail(f"the section {section} failed: {explain(error)}")
    except TimeoutError:
        bench.fail(f"the section {section} failed: something did not answer in time")
    line(f"{bench.size}: {section} took {time.monotonic() - began:.0f} s")


def _describe(made: dataset.Dataset) -> dict[str, Any]:
    """What a reader should know of a corpus."""
    kinds: dict[str, int] = {}
    for document in made.corpus.documents:
        kind = str(document.metadata["kind"])
        kinds[kind] = kinds.get(kind, 0) + 1
    characters = sorted(len(document.text) for document in made.corpus.documents)
    return {
        "fingerprint": made.corpus.fingerprint,
        "documents": made.project.document_count,
        "chunks": made.project.chunk_count,
        "kinds": kinds,
        "median_characters": characters[len(characters) // 2],
        "build_seconds": made.build_seconds,
    }

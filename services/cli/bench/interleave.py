"""Measures several variants in turns: short slices, one after the other, round after round, every second round in reverse.

What slows the machine for a while then slows neighbouring slices alike, and a ratio within a round hardly changes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import cycle, islice
from typing import Protocol

import psutil

from services.cli.bench.ask import Ask
from services.cli.bench.load import Burst, LoadGenerator, TargetSpec
from services.cli.bench.queries import Queries
from services.cli.bench.stats import Ratio, median, paired_ratio, percentiles

_FIRST_RATE = 500.0  # searches a second that a variant's first slice is expected to use at most; later ones get what its rate asks for
_SPARE = 1.6


class Source(Protocol):
    """Where a variant's searches come from."""

    def take(self, count: int) -> list[Ask]:
        """The next searches."""

    def used(self, count: int) -> None:
        """How many of those taken last were sent."""


class Fresh:
    """Searches that were never made before, so that no cache has them. Those that were not sent are given again."""

    def __init__(self, queries: Queries, make: Callable[[str], Ask]) -> None:
        self._queries = queries
        self._make = make
        self._left: list[Ask] = []

    def take(self, count: int) -> list[Ask]:
        """The next searches."""
        missing = count - len(self._left)
        self._left.extend(map(self._make, self._queries.take(max(0, missing))))
        return self._left[:count]

    def used(self, count: int) -> None:
        """Forgets those that were sent."""
        del self._left[:count]


class Repeated:
    """The same searches again and again."""

    def __init__(self, asks: Sequence[Ask]) -> None:
        self.asks = asks
        self._cycle = cycle(asks)

    def take(self, count: int) -> list[Ask]:
        """The next searches."""
        return list(islice(self._cycle, count))

    def used(self, count: int) -> None:
        """Nothing: all come again."""


@dataclass(slots=True)
class Variant:
    """Something to measure, and what its slices brought.

    Attributes:
        name: For tables; one within a comparison.
        target: What is called.
        source: What is searched for.
        concurrency: Searches that are always on the way.
        labels: What tells it from others, for results.
        bursts: Its slices, in the order of the rounds.
        cpu: For each slice and watched process the seconds of processor time that it took.
    """

    name: str
    target: TargetSpec
    source: Source
    concurrency: int = 1
    labels: Mapping[str, str | int | float] = field(default_factory=dict)
    bursts: list[Burst] = field(default_factory=list)
    cpu: list[dict[str, float]] = field(default_factory=list)

    @property
    def latencies(self) -> list[float]:
        """Seconds of all searches of all slices."""
        return [value for burst in self.bursts for value in burst.latencies]

    def medians(self) -> list[float]:
        """The median of each slice in seconds; 0 for one without an answer."""
        return [median(burst.latencies) if burst.latencies else 0.0 for burst in self.bursts]

    def ratio_to(self, other: Variant) -> Ratio | None:
        """How many times the other's median latency its own is, round by round."""
        return paired_ratio(self.medians(), other.medians())

    def figures(self) -> dict[str, float]:
        """Percentiles, throughput, processor time a search (`<process>_cpu_ms`, `all_cpu_ms` with the load generator's), and what was not right."""
        latencies = self.latencies
        elapsed = sum(burst.elapsed for burst in self.bursts)
        answered, sent = len(latencies), sum(burst.used for burst in self.bursts)
        figures = percentiles(latencies)
        if not answered or not elapsed:
            return {**figures, "failed": float(sent)}
        figures["per_second"] = answered / elapsed
        figures["failed"] = float(sum(burst.failed for burst in self.bursts))
        figures["degraded_share"] = sum(burst.degraded for burst in self.bursts) / answered
        figures["cached_share"] = sum(burst.cached for burst in self.bursts) / answered
        figures["client_cpu_ms"] = sum(burst.client_cpu for burst in self.bursts) / answered * 1e3
        for process in self.cpu[0] if self.cpu else ():
            figures[f"{process}_cpu_ms"] = sum(slice_[process] for slice_ in self.cpu) / answered * 1e3
        figures["all_cpu_ms"] = figures["client_cpu_ms"] + sum(sum(slice_.values()) for slice_ in self.cpu) / answered * 1e3
        stages = [burst.stages for burst in self.bursts if burst.stages]
        for stage, values in zip(("total", "embed", "vector", "keyword", "assemble"), zip(*stages, strict=True), strict=False):
            figures[f"service_{stage}_ms"] = median(values) * 1e3
        return figures

    def errors(self) -> list[str]:
        """A few of the errors."""
        return [error for burst in self.bursts for error in burst.errors][:3]


async def interleave(
    generator: LoadGenerator,
    variants: Sequence[Variant],
    *,
    seconds: float,
    slice_seconds: float = 1.0,
    processes: Mapping[str, int] | None = None,
    on_slice: Callable[[], None] = lambda: None,
) -> None:
    """Gives each variant `seconds` of load in slices of about `slice_seconds`; what came of them is kept in the variants.

    `processes` are watched for the processor time that each slice takes: name and process id. `on_slice` is called after each slice.
    """
    for variant in variants:  # connections, caches that are to be warm, and a first idea of the rate
        warm = variant.source.asks if isinstance(variant.source, Repeated) else variant.source.take(20)
        burst = await generator.run(variant.target, warm, concurrency=min(variant.concurrency, 8))
        variant.source.used(burst.used)
    rounds = max(1, round(seconds / slice_seconds))
    watched = {name: psutil.Process(pid) for name, pid in (processes or {}).items()}
    for number in range(rounds):
        for variant in variants if number % 2 == 0 else reversed(variants):
            asks = variant.source.take(_asks_for(variant, seconds / rounds))
            before = {name: _cpu(process) for name, process in watched.items()}
            burst = await generator.run(variant.target, asks, concurrency=variant.concurrency, seconds=seconds / rounds)
            variant.source.used(burst.used)
            variant.bursts.append(burst)
            variant.cpu.append({name: _cpu(process) - before[name] for name, process in watched.items()})
            on_slice()


def _asks_for(variant: Variant, seconds: float) -> int:
    """More than a slice is likely to use."""
    last = variant.bursts[-1] if variant.bursts else None
    rate = _FIRST_RATE if last is None else last.used / max(last.elapsed, 1e-3)
    return max(20, int(rate * seconds * _SPARE) + variant.concurrency)


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)

"""How the benchmark measures: percentiles, ratios of turns, closed loops."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import numpy as np
import pytest

from services.cli.bench.ask import Ask
from services.cli.bench.exact import StoredVectors, recall
from services.cli.bench.interleave import Fresh, Repeated, Variant, interleave
from services.cli.bench.load import Burst, LoadGenerator, TargetSpec
from services.cli.bench.queries import Queries
from services.cli.bench.stats import paired_ratio, percentiles
from services.cli.bench.targets import Outcome
from services.cli.bench.worker import run_job
from shared.domain import DocumentId, DocumentInput
from shared.errors import UnavailableError

_DOCUMENTS = [DocumentInput(DocumentId(str(i)), f"name{i}", f"some words of document number {i} to search for", {}) for i in range(20)]


class _Target:
    """Answers after it was let go; counts what is on the way."""

    def __init__(self, *, fails: bool = False) -> None:
        self.now = self.most = self.answered = 0
        self.gate, self.full = asyncio.Event(), asyncio.Event()
        self._fails = fails

    async def open(self) -> None:
        """Nothing to open."""

    async def prepare(self, ask: Ask) -> str:
        """The text."""
        return ask.query

    async def send(self, prepared: str) -> Outcome:
        """Waits for the gate."""
        self.now += 1
        self.most = max(self.most, self.now)
        if self.now == 4:
            self.full.set()
        await self.gate.wait()
        self.now -= 1
        self.answered += 1
        if self._fails:
            raise UnavailableError("down", component="query")
        return Outcome((prepared,), degraded=prepared == "0", cached=True, stages=(0.004, 0.001))

    async def close(self) -> None:
        """Nothing to close."""


def _job(count: int, concurrency: int, seconds: float | None = None) -> dict[str, object]:
    return {"asks": [Ask(str(i)).as_json() for i in range(count)], "concurrency": concurrency, "seconds": seconds, "collect": True}


async def test_a_closed_loop_keeps_so_many_searches_on_the_way() -> None:
    """With a concurrency of 4, four searches wait for an answer at a time and never more; all are used and told of in order."""
    target = _Target()
    job = asyncio.create_task(run_job(target, _job(20, 4)))
    async with asyncio.timeout(10):
        await target.full.wait()
    target.gate.set()
    found = await job
    assert (target.most, target.answered, found["used"], len(found["latencies"])) == (4, 20, 20, 20)
    assert (found["degraded"], found["cached"], found["stages"]) == (1, 20, [0.004, 0.001])
    assert sorted(found["ids"]) == sorted((str(i),) for i in range(20))


async def test_a_loop_ends_when_its_time_is_over() -> None:
    """What is on the way is still answered, nothing more is sent."""
    target = _Target()
    target.gate.set()
    found = await run_job(target, _job(5, 2, seconds=0.0))
    assert (found["used"], target.answered) == (0, 0)


async def test_searches_that_fail_are_counted_and_not_timed() -> None:
    """An error is no answer: it has no latency, and a few of them are told."""
    target = _Target(fails=True)
    target.gate.set()
    found = await run_job(target, _job(10, 2))
    assert (found["failed"], found["latencies"], len(found["errors"])) == (10, [], 3)
    assert found["errors"][0] == "UnavailableError: down"


class _Generator(LoadGenerator):
    """Plays load: each target has a speed of its own, and the machine gets slower with every round."""

    def __init__(self, seconds: dict[str, float]) -> None:
        super().__init__()
        self._seconds = seconds
        self.order: list[str] = []
        self.asked: list[str] = []

    async def run(
        self, target: TargetSpec, asks: Sequence[Ask], *, concurrency: int = 1, seconds: float | None = None, collect: bool = False
    ) -> Burst:
        """Uses all asks but one."""
        self.order.append(target.kind)
        used = asks[: max(1, len(asks) - 1)]
        self.asked += [ask.query for ask in used]
        slow = self._seconds[target.kind] * (1 + len(self.order) // 2)
        return Burst([slow] * len(used), slow * len(used), 0.001, len(used), 0, [], 0, 0, [], [])


async def test_variants_take_turns_and_every_second_round_is_reversed() -> None:
    """Warming first, then slices in the order ab ba ab, so that a machine that gets slower favours none of them."""
    generator = _Generator({"a": 0.010, "b": 0.005})
    variants = [Variant(name, TargetSpec(name), Repeated([Ask("x"), Ask("y")])) for name in "ab"]
    await interleave(generator, variants, seconds=3.0, slice_seconds=1.0)
    assert "".join(generator.order) == "ab" + "abbaab"
    assert [len(variant.bursts) for variant in variants] == [3, 3]


async def test_ratios_are_of_neighbouring_slices() -> None:
    """A machine that becomes several times slower during the run hardly changes the ratio."""
    generator = _Generator({"a": 0.010, "b": 0.005})
    variants = [Variant(name, TargetSpec(name), Repeated([Ask("x")])) for name in "ab"]
    await interleave(generator, variants, seconds=20.0, slice_seconds=1.0)
    ratio = variants[0].ratio_to(variants[1])
    assert ratio is not None
    assert ratio.pairs == 20
    assert ratio.median == pytest.approx(2.0, rel=0.15)
    assert variants[0].figures()["max_ms"] > 5 * variants[0].figures()["p50_ms"] / 3


async def test_fresh_searches_are_never_sent_twice() -> None:
    """What a slice did not use comes in the next one; what it used never again."""
    generator = _Generator({"a": 0.001})
    variant = Variant("a", TargetSpec("a"), Fresh(Queries(_DOCUMENTS, 1), Ask))
    await interleave(generator, [variant], seconds=5.0, slice_seconds=1.0)
    assert len(generator.asked) == len(set(generator.asked)) > 100


def test_percentiles_are_in_milliseconds() -> None:
    """Of 1 to 100 ms the median is 50.5 and the 99th percentile 99.01 (linear interpolation)."""
    found = percentiles([value / 1000 for value in range(1, 101)])
    assert found["p50_ms"] == pytest.approx(50.5)
    assert found["p99_ms"] == pytest.approx(99.01)
    assert percentiles([]) == {}


def test_a_ratio_tells_its_spread_and_leaves_out_what_has_no_denominator() -> None:
    """The median of the pairs, the middle half, and how many there were."""
    ratio = paired_ratio([2.0, 4.0, 6.0, 1.0], [1.0, 2.0, 2.0, 0.0])
    assert ratio is not None
    assert (ratio.median, ratio.low, ratio.high, ratio.pairs) == (2.0, 2.0, 2.5, 3)
    assert paired_ratio([1.0], [0.0]) is None


def test_recall_counts_ties_and_misses() -> None:
    """Half of two nearest found is 0.5; a chunk with the very vector of the last place counts as found."""
    vectors = np.array([[1, 0], [0.8, 0.6], [0.6, 0.8], [0.6, 0.8]], np.float32)
    stored = StoredVectors(["a", "b", "c", "d"], ["a", "b", "c", "d"], vectors)
    query = np.array([1, 0], np.float32)
    assert recall(stored, [query], [["a", "c"]], k=2) == 0.5
    assert recall(stored, [query], [["a", "b", "d"]], k=3) == 1.0

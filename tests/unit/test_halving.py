"""Finding the items for which a batch is refused, whichever they are."""

from __future__ import annotations

from math import ceil, log2

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.indexer.application.halving import Halved, halve, reason_of


class RefusedError(Exception):
    """The batch is refused."""


async def run(count: int, poison: set[int]) -> tuple[Halved[list[int]], int, int]:
    """What became of a batch, and how many attempts and probes that took."""
    attempts = probes = 0

    async def attempt(part: slice) -> list[int]:
        nonlocal attempts
        attempts += 1
        items = list(range(count))[part]
        if not poison.isdisjoint(items):
            raise RefusedError
        return items

    async def probe(_error: Exception) -> None:
        nonlocal probes
        probes += 1

    halved = await halve(count, attempt, is_refusal=lambda error: isinstance(error, RefusedError), probe=probe)
    return halved, attempts, probes


@given(st.integers(1, 200).flatmap(lambda count: st.tuples(st.just(count), st.sets(st.integers(0, count - 1)))))
async def test_exactly_the_items_at_fault_are_refused_and_all_others_taken_once_and_in_order(case: tuple[int, set[int]]) -> None:
    """Within a bounded number of attempts; where nothing is at fault, within one, and without a probe."""
    count, poison = case
    halved, attempts, probes = await run(count, poison)

    assert [place for place, _ in halved.refused] == sorted(poison)
    taken = [item for _, result in halved.taken for item in result]
    assert taken == [item for item in range(count) if item not in poison]
    assert [item for part, _ in halved.taken for item in range(count)[part]] == taken
    assert attempts <= 1 + 2 * len(poison) * ceil(log2(count) if count > 1 else 0)
    assert probes == (2 if poison else 0)


async def test_an_error_that_is_no_refusal_is_raised_at_once() -> None:
    """Nothing is looked for then."""

    async def attempt(_part: slice) -> None:
        raise TimeoutError

    async def probe(_error: Exception) -> None:
        raise AssertionError("nothing was refused")

    with pytest.raises(TimeoutError):
        await halve(4, attempt, is_refusal=lambda error: isinstance(error, RefusedError), probe=probe)


def test_a_reason_tells_the_error_and_its_cause_in_a_bounded_number_of_characters() -> None:
    """Also of an error that says nothing itself."""
    error = RefusedError("not now")
    error.__cause__ = ValueError()
    assert reason_of(error) == "not now: ValueError"
    assert len(reason_of(RefusedError("x" * 10_000))) == 500

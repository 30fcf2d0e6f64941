"""Finds the items for which a whole batch is refused, by halving it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Halved(Generic[R]):
    """What became of a batch.

    Attributes:
        taken: The parts that were taken, in order, and what came of each.
        refused: Places of the items that were refused alone, in order, and why.
    """

    taken: list[tuple[slice, R]]
    refused: list[tuple[int, Exception]]


async def halve(
    count: int, attempt: Callable[[slice], Awaitable[R]], *, is_refusal: Callable[[Exception], bool], probe: Callable[[Exception], Awaitable[None]]
) -> Halved[R]:
    """Attempts a batch of `count` items, and halves what is refused until the items at fault are alone.

    An item is at fault only if something else is taken at the same time. So `probe` tries something that is in order, once before the halving begins
    and once behind it if something was refused, and raises if that is refused, too: nothing is known of the items then. One item at fault among n
    costs about 2 log2(n) attempts. An error that is no refusal is raised at once.

    Args:
        count: Items of the batch.
        attempt: Tries a part.
        is_refusal: Whether an error of `attempt` may be the fault of an item.
        probe: Tries something else; takes the refusal, for the cause of what it raises.
    """
    halved: Halved[R] = Halved([], [])
    waiting = [slice(0, count)]
    while waiting:
        part = waiting.pop()
        try:
            result = await attempt(part)
        except Exception as error:
            if not is_refusal(error):
                raise
            if part == slice(0, count):
                await probe(error)
            if part.stop - part.start == 1:
                halved.refused.append((part.start, error))
                continue
            middle = (part.start + part.stop) // 2
            waiting += [slice(middle, part.stop), slice(part.start, middle)]
        else:
            halved.taken.append((part, result))
    if halved.refused:
        await probe(halved.refused[-1][1])
    return halved


def reason_of(error: Exception) -> str:
    """Why an item was refused, for people: the error, and what lies behind it."""
    causes = [error, *([error.__cause__] if error.__cause__ is not None else [])]
    return ": ".join(str(cause) or type(cause).__name__ for cause in causes)[:_LONGEST_REASON]


_LONGEST_REASON = 500  # characters

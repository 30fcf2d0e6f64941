"""How work is spread over time."""

from __future__ import annotations

from shared.resilience.pace import Pace


class Time:
    """A clock that stands still but for sleeping."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        """Seconds."""
        return self.now

    async def sleep(self, seconds: float) -> None:
        """Time passes."""
        assert seconds > 0
        self.now += seconds


async def test_pieces_go_as_fast_as_the_rate_and_no_faster() -> None:
    """The first one at once, each further one when those before it have had their time; the n-th is never later than that either."""
    time = Time()
    pace = Pace(100.0, clock=time, sleep=time.sleep)
    begun: list[float] = []
    for units in (50, 200, 10, 1):
        await pace.take(units)
        begun.append(round(time.now - 100.0, 6))
    assert begun == [0.0, 0.5, 2.5, 2.6]


async def test_a_pause_is_followed_by_no_burst() -> None:
    """An hour of an outage lets no more through behind it than a second does: the time is not saved up."""
    time = Time()
    pace = Pace(100.0, clock=time, sleep=time.sleep)
    await pace.take(100)
    time.now += 3_600.0
    begun = time.now
    for _ in range(5):
        await pace.take(100)
    assert time.now - begun == 4.0


async def test_work_that_takes_longer_than_its_share_is_not_held_up() -> None:
    """What is slower than the rate never waits."""
    time = Time()
    pace = Pace(100.0, clock=time, sleep=time.sleep)
    for _ in range(5):
        before = time.now
        await pace.take(100)
        assert time.now == before
        time.now += 1.5

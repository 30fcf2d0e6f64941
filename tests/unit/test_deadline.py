"""Deadlines, on a clock that the test moves."""

from __future__ import annotations

import pytest

from shared.resilience.deadline import Deadline


class Clock:
    """Monotonic seconds, moved by hand."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        """The time."""
        return self.now


class Context:
    """The one method of a servicer's context that counts."""

    def __init__(self, seconds: float | None) -> None:
        self.seconds = seconds

    def time_remaining(self) -> float | None:
        """As grpc.aio answers."""
        return self.seconds


def test_time_runs_out() -> None:
    """What remains falls with the clock and never below zero."""
    clock = Clock()
    deadline = Deadline.after(2.0, clock)
    assert (deadline.remaining(), deadline.expired) == (2.0, False)
    clock.now += 1.5
    assert (deadline.remaining(), deadline.expired) == (0.5, False)
    clock.now += 1.5
    assert (deadline.remaining(), deadline.expired) == (0.0, True)


@pytest.mark.parametrize(("cap", "remaining"), [(0.5, 0.5), (9.0, 2.0)])
def test_a_part_never_gets_more_than_the_whole(cap: float, remaining: float) -> None:
    """`within` takes the earlier end."""
    assert Deadline.after(2.0, Clock()).within(cap).remaining() == remaining


@pytest.mark.parametrize(
    ("client", "seconds"),
    [
        pytest.param(2.0, 1.72, id="the client's deadline, less gRPC's rounding (1.5 %) and the margin"),
        pytest.param(None, 4.75, id="the default, when the client set none"),
        pytest.param(3600.0, 9.75, id="the cap, when the client gives more"),
        pytest.param(0.1, 0.0, id="nothing, when the client gives less than the margin"),
        pytest.param(-1.0, 0.0, id="nothing, when the client's time is over"),
    ],
)
def test_an_rpc_sets_the_deadline(client: float | None, seconds: float) -> None:
    """The budget of a request is min(client, cap) less a margin to answer in."""
    deadline = Deadline.from_grpc(Context(client), default=5.0, cap=10.0, margin=0.25, clock=Clock())

    assert deadline.remaining() == pytest.approx(seconds)

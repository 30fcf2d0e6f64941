"""What a proxy may do to the traffic that goes through it. Data alone; proxy.py does it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Pass:
    """Everything goes through."""


@dataclass(frozen=True, slots=True)
class Refuse:
    """Nothing listens: connections are reset, new ones are refused. What the kernel does for a process that is gone."""


@dataclass(frozen=True, slots=True)
class BlackHole:
    """New connections are accepted, and nothing goes through them or through those that there are. They are reset when the fault ends."""


@dataclass(frozen=True, slots=True)
class Delay:
    """What is sent arrives `seconds` later, in each direction."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Reset:
    """Each answer is cut off by a reset (RST) after its first `after_bytes`."""

    after_bytes: int


@dataclass(frozen=True, slots=True)
class Answer:
    """HTTP/1.1: of the requests whose bytes contain `containing`, `share` (0 to 1) are answered with `status` and never reach the server."""

    status: int
    share: float = 1.0
    containing: bytes = b""


@dataclass(frozen=True, slots=True)
class Trickle:
    """Answers arrive at `bytes_per_second`."""

    bytes_per_second: float


WireFault = Pass | Refuse | BlackHole | Delay | Reset | Answer | Trickle

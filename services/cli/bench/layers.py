"""What each layer around an RPC costs by itself, in a hot loop: `python -m services.cli.bench.layers`.

The least that a call pays, without gRPC, sockets and the rest of a search, which leave the processor's caches to nobody: `kb bench --only overhead`
measures what a search really pays.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence
from typing import Any

import uvloop

from services.cli.console import result
from shared.observability import logging, tracing
from shared.rpc.call import Behaviour, Context, Method, Middleware
from shared.rpc.chain import middlewares

_METHOD = Method("knowledgebeast.query.v1.QueryService", "Search", request_streaming=False, response_streaming=False)
_CALLS = 2_000
_ROUNDS = 15


class _Context:
    """What the layers ask of a call."""

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return (("user-agent", "bench"),)

    def set_trailing_metadata(self, _metadata: object) -> None:
        return

    def time_remaining(self) -> float:
        return 5.0

    def peer(self) -> str:
        return "ipv4:127.0.0.1:5000"

    def code(self) -> None:
        return None


async def _answer(request: object, _context: Context) -> object:
    return request


def _wrapped(layers: Sequence[Middleware]) -> Behaviour:
    behaviour: Behaviour = _answer
    for layer in reversed(layers):
        behaviour = layer.wrap(_METHOD, behaviour)
    return behaviour


async def _microseconds(behaviour: Behaviour) -> float:
    """Of one call, in a task of its own, as gRPC runs each."""
    context: Any = _Context()
    began = time.perf_counter()
    for _ in range(_CALLS):
        await behaviour(b"", context)
    return (time.perf_counter() - began) / _CALLS * 1e6


async def measure() -> dict[str, float]:
    """Microseconds of the calls with the innermost layer, the innermost two, and so on; the name is that of the outermost of them."""
    layers = middlewares()
    behaviours = {"no layer": _wrapped(())}
    behaviours |= {type(layers[place]).__name__: _wrapped(layers[place:]) for place in reversed(range(len(layers)))}
    least: dict[str, float] = {}
    for _ in range(_ROUNDS):  # in turns, because the machine's speed changes
        for name, behaviour in behaviours.items():
            took = await asyncio.create_task(_microseconds(behaviour))
            least[name] = min(took, least.get(name, took))
    return least


def main() -> None:
    """Measures and prints."""
    with open(os.devnull, "w", encoding="utf-8") as nowhere:  # noqa: PTH123 - a device
        logging.configure("query", "info", "json", stream=nowhere)
        tracing.configure("query")
        before = 0.0
        for name, took in uvloop.run(measure()).items():
            result(f"{name:14} {took:6.1f} µs together, {took - before:5.1f} by itself")
            before = took


if __name__ == "__main__":
    main()

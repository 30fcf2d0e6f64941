"""Which of a service's health names say SERVING: the one truth behind every grpc.health.v1 of the process.

It is told from the event loop (readiness) and from a watchdog's thread (liveness), and read from both; so it is locked, and never for longer than
it takes to look at a dictionary.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Final

LIVENESS: Final = "liveness"
READINESS: Final = "readiness"
STARTUP: Final = "startup"

Listener = Callable[[], None]


class ServingStates:
    """`liveness` (the process runs), `startup` (was ready once), and as readiness: `readiness`, `""` and the full names of the gRPC services.

    It begins alive, neither started nor ready.

    Args:
        services: full names of the gRPC services.
    """

    def __init__(self, services: Collection[str] = ()) -> None:
        self._ready_names: Final = ("", READINESS, *services)
        self._lock = threading.Lock()
        self._serving = {LIVENESS: True, STARTUP: False, **dict.fromkeys(self._ready_names, False)}
        self._listeners: set[Listener] = set()

    def get(self, name: str) -> bool | None:
        """Whether the name says SERVING; None for a name that is not known."""
        with self._lock:
            return self._serving.get(name)

    def set_alive(self, alive: bool) -> None:
        """States whether the process gets on with its work."""
        self._update({LIVENESS: alive})

    def set_ready(self, ready: bool) -> None:
        """States whether requests can be taken; the first time that they can, the service has started."""
        self._update(dict.fromkeys(self._ready_names, ready) | ({STARTUP: True} if ready else {}))

    @contextmanager
    def listening(self, listener: Listener) -> Iterator[None]:
        """Within it, `listener` is called after every change, in the thread that made it: it must return at once and not raise."""
        with self._lock:
            self._listeners.add(listener)
        try:
            yield
        finally:
            with self._lock:
                self._listeners.discard(listener)

    def _update(self, states: Mapping[str, bool]) -> None:
        with self._lock:
            if all(self._serving[name] == state for name, state in states.items()):
                return
            self._serving.update(states)
            for listener in self._listeners:
                listener()

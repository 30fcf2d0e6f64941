"""Loads a model in the background, so that a service starts without it and takes it up when it is there."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Protocol

from prometheus_client import Gauge

from shared.errors import UnavailableError
from shared.observability import metrics
from shared.observability.logging import get_logger

_log = get_logger(__name__)


class Loadable(Protocol):
    """What is loaded after construction, so that a service can start, and say so, without it."""

    @property
    def model(self) -> str:
        """Name or path of the model."""

    async def load(self) -> None:
        """Loads the model unless it is loaded. May be tried again. Raises UnavailableError."""


class ModelLoader:
    """Tries to load a model until it is loaded.

    `settled` is set after the first attempt, whatever came of it: what waits for the model need wait no longer.

    Args:
        loadable: What is loaded.
        kind: What the log calls it.
        loaded: Shows 1 when the model is loaded, else 0.
        retry_seconds: Between attempts. A model that is missing is put there by a person: looking again this often is soon enough.
    """

    def __init__(
        self, loadable: Loadable, *, kind: str = "embedding model", loaded: Gauge = metrics.MODEL_LOADED, retry_seconds: float = 5.0
    ) -> None:
        self._loadable = loadable
        self._kind = kind
        self._loaded = loaded
        self._retry_seconds = retry_seconds
        self.settled = asyncio.Event()

    async def settle(self, seconds: float) -> None:
        """Returns after the first attempt to load, or when so much time has passed."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.settled.wait()

    async def run(self) -> None:
        """Runs until cancelled; rests once the model is loaded."""
        self._loaded.set(0)
        while True:
            try:
                await self._loadable.load()
            except UnavailableError as error:
                if not self.settled.is_set():
                    _log.error(
                        f"the {self._kind} cannot be loaded; trying again",
                        error=error.message,
                        cause=repr(error.__cause__),
                        retry_in_s=self._retry_seconds,
                    )
                self.settled.set()
                await asyncio.sleep(self._retry_seconds)
            else:
                break
        self._loaded.set(1)
        self.settled.set()
        _log.info(f"the {self._kind} is loaded", model=self._loadable.model)
        await asyncio.Event().wait()

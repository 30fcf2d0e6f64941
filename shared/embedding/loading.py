"""Loads the embedding model in the background, so that a service starts without it and takes it up when it is there."""

from __future__ import annotations

import asyncio
import contextlib

from shared.embedding.factory import LoadableEmbedder
from shared.errors import UnavailableError
from shared.observability import metrics
from shared.observability.logging import get_logger

# A model that is missing is put there by a person: looking again this often is soon enough.
_RETRY_SECONDS = 5.0

_log = get_logger(__name__)


class ModelLoader:
    """Tries to load the model until it is loaded.

    `settled` is set after the first attempt, whatever came of it: what waits for the model need wait no longer.
    """

    def __init__(self, embedder: LoadableEmbedder) -> None:
        self._embedder = embedder
        self.settled = asyncio.Event()

    async def settle(self, seconds: float) -> None:
        """Returns after the first attempt to load, or when so much time has passed."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.settled.wait()

    async def run(self) -> None:
        """Runs until cancelled; rests once the model is loaded."""
        metrics.MODEL_LOADED.set(0)
        while True:
            try:
                await self._embedder.load()
            except UnavailableError as error:
                if not self.settled.is_set():
                    _log.error("the embedding model cannot be loaded; trying again", error=error.message, retry_in_s=_RETRY_SECONDS)
                self.settled.set()
                await asyncio.sleep(_RETRY_SECONDS)
            else:
                break
        metrics.MODEL_LOADED.set(1)
        self.settled.set()
        _log.info("the embedding model is loaded", model=self._embedder.model)
        await asyncio.Event().wait()

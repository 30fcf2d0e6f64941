"""One stream of the feed: how it is doing, and following it again whenever it ends."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from services.query.replica.errors import FeedGapError
from shared.errors import KnowledgeBeastError, NotFoundError
from shared.observability.logging import get_logger
from shared.resilience.backoff import Backoff

# A stream that lived this many seconds, or brought something, was a good one: the failure that ended it counts as the first.
_GOOD_STREAM_SECONDS = 5.0
# The list of projects tells when a project is there again; this is only in case the list is interrupted too.
_NOT_FOUND_SECONDS = 30.0
# The first gap is healed by watching again from the replica's cursor; when that ends in a gap too, the copy is fetched from the beginning.
_GAPS_BEFORE_RESYNC = 2
_log = get_logger(__name__)


@dataclass(slots=True)
class StreamState:
    """How one stream is doing. Times are seconds since 1970.

    Attributes:
        connected: events are coming in.
        since: since when it has been connected, or not.
        last_contact: when the last event came; None when there was none.
        applied: batches that have been applied. A reset is not one: a stream that never gets beyond it brings nothing, and drops what there was.
        wake: set to try again at once.
        afresh: the copy is to be fetched from the beginning; until the reset that this begins with has been applied.
        mending: the copy is being fetched from the beginning because it was wrong; until it has caught up.
    """

    connected: bool = False
    since: float = field(default_factory=time.time)
    last_contact: float | None = None
    applied: int = 0
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    afresh: bool = False
    mending: bool = False
    _watch: asyncio.Timeout | None = None
    _heard: float = field(default_factory=time.monotonic)  # silence is measured on a clock that nobody sets

    def heard(self) -> None:
        """An event has come."""
        self.last_contact, self._heard = time.time(), time.monotonic()
        if not self.connected:
            self.connected, self.since = True, self.last_contact

    def lost(self) -> None:
        """The stream has ended."""
        if self.connected:
            self.connected, self.since = False, time.time()

    @contextmanager
    def watching(self, watch: asyncio.Timeout) -> Iterator[None]:
        """Within this block `interrupt` ends what runs in the scope of `watch`."""
        self._watch = watch
        try:
            yield
        finally:
            self._watch = None

    def interrupt(self) -> None:
        """Ends the stream, which is then followed again at once. From the event loop alone."""
        self.wake.set()
        if self._watch is not None and not self._watch.expired():
            self._watch.reschedule(asyncio.get_running_loop().time())

    @property
    def silence(self) -> float:
        """Seconds since it was last heard of, or else since it was first asked for."""
        return time.monotonic() - self._heard


async def keep_following(name: str, state: StreamState, backoff: Backoff, follow: Callable[[bool], Awaitable[None]]) -> None:
    """Calls `follow` again whenever it fails or ends, until the task is cancelled. What goes wrong is logged.

    Args:
        name: of the stream, for the log.
        state: is told when the stream is lost; `follow` tells it the rest.
        backoff: waits between attempts.
        follow: follows until it fails, with any error but TimeoutError; its argument says to begin from nothing, because the copy was found to be
            wrong, or has gaps that do not heal.
    """
    failures = gaps = 0
    while True:
        state.wake.clear()
        began, applied, gap, missing = time.monotonic(), state.applied, 0, False
        try:
            async with asyncio.timeout(None) as watch:
                with state.watching(watch):
                    await follow(state.afresh or gaps >= _GAPS_BEFORE_RESYNC)
        except TimeoutError:
            _log.info("feed_watched_again", stream=name, afresh=state.afresh)
        except FeedGapError as error:
            gap = 1
            _log.warning("feed_gap", stream=name, detail=error.message)
        except NotFoundError:
            missing = True
        except KnowledgeBeastError as error:
            _log.warning("feed_interrupted", stream=name, detail=error.message, cause=repr(error.__cause__))
        except Exception:  # noqa: BLE001 # a defect in following one project must not stop the others; it is logged with its stack
            _log.exception("feed_failed", stream=name)
        state.lost()
        gaps = gap + (gaps if state.applied == applied else 0)
        good = state.applied > applied or time.monotonic() - began >= _GOOD_STREAM_SECONDS
        failures = 1 if good else failures + 1
        with suppress(TimeoutError):
            async with asyncio.timeout(_NOT_FOUND_SECONDS if missing else backoff.seconds(failures)):
                await state.wake.wait()

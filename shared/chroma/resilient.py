"""Any vector store behind retry(breaker(timeout(call))), as the same port."""

from __future__ import annotations

import enum
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import TypeVar

from shared.domain import ChunkId, Vector, Vectors
from shared.errors import CircuitOpenError, CollectionNotFoundError, VectorStoreError, VectorStoreUnavailableError
from shared.ports import ScoredChunk, VectorStore
from shared.resilience.breaker import NO_TIME, TOO_HASTY, Breaker
from shared.resilience.deadline import Clock, Deadline
from shared.resilience.retry import RetryBudget, RetryPolicy

T = TypeVar("T")


class CallOutcome(enum.StrEnum):
    """How one attempt ended. The values serve as a metric's label."""

    OK = "ok"
    UNAVAILABLE = "unavailable"
    REJECTED = "rejected"  # by the open breaker, or for want of time: the store was not asked
    NOT_FOUND = "not_found"
    REFUSED = "refused"
    CANCELLED = "cancelled"
    ERROR = "error"  # none of the port's errors: a bug


OnCall = Callable[[str, CallOutcome, float], None]  # operation, outcome, seconds


class ResilientVectorStore:
    """Retries what is worth it, and asks a store that keeps failing only now and then.

    A `timeout` is of the whole operation: attempts and the waits between them. An attempt gets what is left of it, less a margin, so that a hung
    store is seen as one (and counted by the breaker) before the caller gives up and cancels.

    `ping` asks the store itself, once, whatever the breaker says, and the breaker does not hear of it: health checks want the truth, and a
    store that answers pings may still hang in queries.

    Args:
        inner: The store; keeps the time limits that it is given.
        breaker: Of this store, shared by all that call it.
        retry: When to try again.
        budget: Of retries, shared by all that call the store.
        on_call: Called after each attempt; must not raise.
        attempt_timeout: Seconds that one attempt gets at most; None leaves it all that is left.
        margin: Seconds kept back from an attempt, at most a quarter of what is left.
        min_attempt: Seconds below which an attempt is not made.
        min_telling: Seconds that a caller must give for a timeout to count: callers in a hurry must not open the breaker for those who are not.
        clock: Monotonic seconds.
    """

    def __init__(  # noqa: PLR0913 - the parts that are put together here
        self,
        inner: VectorStore,
        *,
        breaker: Breaker,
        retry: RetryPolicy,
        budget: RetryBudget,
        on_call: OnCall = lambda _operation, _outcome, _seconds: None,
        attempt_timeout: float | None = None,
        margin: float = 0.03,
        min_attempt: float = 0.01,
        min_telling: float = 0.25,
        clock: Clock = time.monotonic,
    ) -> None:
        self._inner = inner
        self._breaker = breaker
        self._retry = retry
        self._budget = budget
        self._on_call = on_call
        self._attempt_timeout = attempt_timeout
        self._margin = margin
        self._min_attempt = min_attempt
        self._min_telling = min_telling
        self._clock = clock

    async def query(self, collection: str, vector: Vector, limit: int, *, timeout: float) -> Sequence[ScoredChunk]:
        """See VectorReader."""
        return await self._guarded("query", timeout, lambda seconds: self._inner.query(collection, vector, limit, timeout=seconds))

    async def ping(self, *, timeout: float) -> None:
        """See VectorReader: one attempt, past the breaker."""
        await self._measured("ping", lambda: self._inner.ping(timeout=timeout))

    async def ensure_collection(self, collection: str, *, timeout: float) -> None:
        """See VectorWriter."""
        await self._guarded("ensure_collection", timeout, lambda seconds: self._inner.ensure_collection(collection, timeout=seconds))

    async def drop_collection(self, collection: str, *, timeout: float) -> None:
        """See VectorWriter."""
        await self._guarded("drop_collection", timeout, lambda seconds: self._inner.drop_collection(collection, timeout=seconds))

    async def add(self, collection: str, chunk_ids: Sequence[ChunkId], vectors: Vectors, *, timeout: float) -> None:
        """See VectorWriter."""
        await self._guarded("add", timeout, lambda seconds: self._inner.add(collection, chunk_ids, vectors, timeout=seconds))

    async def delete(self, collection: str, chunk_ids: Sequence[ChunkId], *, timeout: float) -> None:
        """See VectorWriter."""
        await self._guarded("delete", timeout, lambda seconds: self._inner.delete(collection, chunk_ids, timeout=seconds))

    async def count(self, collection: str, *, timeout: float) -> int:
        """See VectorWriter."""
        return await self._guarded("count", timeout, lambda seconds: self._inner.count(collection, timeout=seconds))

    async def existing(self, collection: str, chunk_ids: Sequence[ChunkId], *, timeout: float) -> Collection[ChunkId]:
        """See VectorWriter."""
        return await self._guarded("existing", timeout, lambda seconds: self._inner.existing(collection, chunk_ids, timeout=seconds))

    async def list_ids(self, collection: str, *, offset: int, limit: int, timeout: float) -> Sequence[ChunkId]:
        """See VectorWriter."""
        return await self._guarded("list_ids", timeout, lambda seconds: self._inner.list_ids(collection, offset=offset, limit=limit, timeout=seconds))

    async def list_collections(self, *, timeout: float) -> Sequence[str]:
        """See VectorWriter."""
        return await self._guarded("list_collections", timeout, lambda seconds: self._inner.list_collections(timeout=seconds))

    async def _guarded(self, operation: str, timeout: float, call: Callable[[float], Awaitable[T]]) -> T:
        deadline = Deadline.after(timeout, self._clock)

        async def attempt() -> T:
            if (left := deadline.remaining()) < self._min_attempt:
                raise VectorStoreUnavailableError("There is no time left to ask the vector store.", reason=NO_TIME)
            attempt_of = self._hasty if left < self._min_telling else _plain
            return await self._breaker.call_async(attempt_of, call, self._share(left))

        return await self._retry.call(lambda: self._measured(operation, attempt), deadline=deadline, budget=self._budget)

    async def _hasty(self, call: Callable[[float], Awaitable[T]], share: float) -> T:
        """An attempt for a caller in a hurry; if it runs out of time it says so, because that tells nothing of the store."""
        begin = self._clock()
        try:
            return await call(share)
        except VectorStoreUnavailableError as error:
            if self._clock() - begin >= share * 0.9:
                raise VectorStoreUnavailableError("The time given was too short for the vector store.", reason=TOO_HASTY) from error
            raise

    def _share(self, left: float) -> float:
        """Seconds of one attempt."""
        share = left - min(self._margin, left / 4)
        return share if self._attempt_timeout is None else min(share, self._attempt_timeout)

    async def _measured(self, operation: str, call: Callable[[], Awaitable[T]]) -> T:
        """Reports the attempt to `on_call`."""
        begin = self._clock()
        outcome = CallOutcome.CANCELLED
        try:
            result = await call()
        except Exception as error:
            outcome = _outcome(error)
            raise
        else:
            outcome = CallOutcome.OK
            return result
        finally:
            self._on_call(operation, outcome, self._clock() - begin)


async def _plain(call: Callable[[float], Awaitable[T]], share: float) -> T:
    return await call(share)


def _outcome(error: Exception) -> CallOutcome:
    match error:
        case CircuitOpenError() | VectorStoreUnavailableError(reason="NO_TIME"):
            return CallOutcome.REJECTED
        case VectorStoreUnavailableError():
            return CallOutcome.UNAVAILABLE
        case CollectionNotFoundError():
            return CallOutcome.NOT_FOUND
        case VectorStoreError():
            return CallOutcome.REFUSED
        case _:
            return CallOutcome.ERROR

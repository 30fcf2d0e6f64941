"""Keeps answers for searches that come again, in a bounded number of bytes and for a bounded time.

A hit can never be stale: the key holds everything of the project that an answer is made from (see `ResultKey`), so a change of any of it is another
key. Keyword scores also depend on how often words occur in all projects together; of that a kept answer has what was true when it was made.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, Protocol, TypeVar

from cachetools import TTLCache

from services.query.replica.model import ReplicaProject
from shared.domain import Cursor, KeywordSettings, ProjectId, ProjectState, VectorSequence
from shared.observability import metrics, tracing

_tracer = tracing.get_tracer(__name__)


class Question(NamedTuple):
    """What was asked, and of which incarnation of a project.

    `form` states the whole request, its project and its page included, without what the answer does not depend on: how fresh and how whole it must
    be.
    """

    epoch: str
    form: str


@dataclass(frozen=True, slots=True)
class ResultKey:
    """What an answer is made from: a project's copy at one moment, and what is asked of it.

    Two requests that differ in the type of a value alone (`1`, `1.0`, `True`) are equal and hash alike in Python, but a filter tells them apart.
    So the request's `repr` is a part of the key, too.

    Attributes:
        epoch: of the project, as its list tells.
        documents: how far the copy's documents have come; None before the first event.
        vectors: how far the copy's vectors have come; None before the first event or when they are not kept.
        vector_sequence: how far the vector store has come.
        version: of the copy's contents: it also tells apart two copies of the same sequence.
        request: a frozen value whose `repr` states all of it, without what the answer does not depend on, such as the deadline.
    """

    project_id: ProjectId
    epoch: str
    documents: Cursor | None
    vectors: Cursor | None
    vector_sequence: VectorSequence
    version: int
    vectors_available: bool
    generation: int
    state: ProjectState
    keyword: KeywordSettings
    request: Hashable
    _form: str = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_form", repr(self.request))

    def __hash__(self) -> int:
        """Of the fields that tell most keys apart; a key is hashed several times a search."""
        return hash((self.project_id, self.version, self._form))

    @classmethod
    def of(cls, copy: ReplicaProject, request: Hashable) -> ResultKey:
        """The key of a request to a project as it is now. Make it before the search reads anything, so that an answer is never older than its key."""
        project = copy.project
        return cls(
            project_id=project.id,
            epoch=project.epoch,
            documents=copy.documents_cursor,
            vectors=copy.vectors_cursor,
            vector_sequence=copy.vector_sequence,
            version=copy.version,
            vectors_available=copy.vectors_available,
            generation=project.generation,
            state=project.state,
            keyword=project.keyword,
            request=request,
        )

    @property
    def size_bytes(self) -> int:
        """Bytes that the key takes, estimated: its own fields, the request's form, and the request, whose text is about as long."""
        return 800 + 2 * len(self._form.encode())

    @property
    def question(self) -> Question:
        """What is asked, whatever the state of the project."""
        return Question(self.epoch, self._form)


class Result(Protocol):
    """What the cache must know of a value."""

    @property
    def degraded(self) -> bool:
        """Something is missing from it."""


KeyT = TypeVar("KeyT", bound=Hashable)
ResultT = TypeVar("ResultT", bound=Result)


class ResultCache(Generic[KeyT, ResultT]):
    """Complete results by key; the least recently used make room for new ones. Use it from one event loop.

    Args:
        max_bytes: Bound of the cache, keys included; 0 keeps nothing and counts nothing.
        ttl: Seconds that a result is kept at most, however often it is asked for.
        size_of: Bytes that an entry takes.
        timer: The clock, in seconds.
    """

    def __init__(self, max_bytes: int, ttl: float, size_of: Callable[[KeyT, ResultT], int], *, timer: Callable[[], float] = time.monotonic) -> None:
        self._size_of = size_of
        self._entries: TTLCache[KeyT, tuple[ResultT, int]] = TTLCache(max_bytes, ttl, timer, getsizeof=lambda entry: entry[1])
        metrics.RESULT_CACHE_BYTES.set(0)

    @property
    def size_bytes(self) -> int:
        """Bytes that the results take which are kept now, as `size_of` says."""
        return int(self._entries.currsize)

    def get(self, key: KeyT) -> ResultT | None:
        """The result that was kept under an equal key; None when there is none, or it is too old."""
        if not self._entries.maxsize:
            return None
        with _tracer.start_as_current_span("cache.get") as span:
            entry = self._entries.get(key)
            if span.is_recording():
                span.set_attributes({"kb.cache": "result", "kb.cache.hit": entry is not None})
        if entry is None:
            metrics.RESULT_CACHE_MISSES.inc()
            metrics.RESULT_CACHE_BYTES.set(self.size_bytes)
            return None
        metrics.RESULT_CACHE_HITS.inc()
        return entry[0]

    def put(self, key: KeyT, result: ResultT) -> None:
        """Keeps a result, unless it is degraded, or alone larger than the cache."""
        if result.degraded or not self._entries.maxsize:
            return
        with _tracer.start_as_current_span("cache.put") as span:
            size = self._size_of(key, result)
            kept = size <= self._entries.maxsize
            if kept:
                self._entries[key] = (result, size)
                metrics.RESULT_CACHE_BYTES.set(self.size_bytes)
            if span.is_recording():
                span.set_attributes({"kb.cache": "result", "kb.cache.kept": kept, "kb.cache.entry_bytes": size})

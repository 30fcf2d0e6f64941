"""The cache of answers: its bounds, its keys, and the estimate of what an answer takes."""

from __future__ import annotations

import gc
import random
import tracemalloc
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import pytest

from services.query.application.query import Query
from services.query.application.results import ResultCache, ResultKey
from services.query.application.sizes import size_of, size_of_entry
from services.query.replica.model import ReplicaProject
from shared.domain import (
    Chunk,
    ChunkId,
    ChunkingSettings,
    Cursor,
    DocumentId,
    KeywordSettings,
    Project,
    ProjectId,
    ProjectState,
    SequenceNumber,
    VectorSequence,
)
from shared.filters import AllOf, AnyOf, Comparison, Filter, Membership, Operator
from shared.observability import metrics
from shared.search import (
    Degradation,
    DegradationReason,
    DiversityStep,
    Explanation,
    Freshness,
    GroupedChunk,
    Hit,
    LegContribution,
    LegScore,
    RerankingStep,
    SearchAnswer,
    SearchMode,
    Snippet,
    TextRange,
    Timings,
)

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Value:
    """A result of a stated size."""

    name: str
    size: int = 100
    degraded: bool = False


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        """Seconds."""
        return self.now


def _cache(max_bytes: int = 1_000, ttl: float = 60.0, clock: Clock | None = None) -> ResultCache[str, Value]:
    return ResultCache(max_bytes, ttl, lambda _, value: value.size, timer=clock or Clock())


def _metric(name: str) -> float:
    return metrics.REGISTRY.get_sample_value(name) or 0.0


def test_what_was_put_is_got_under_its_key_alone() -> None:
    """An equal key finds the result, another finds nothing; a later result replaces the earlier."""
    cache = _cache()
    cache.put("a", Value("first"))
    assert (cache.get("a"), cache.get("b")) == (Value("first"), None)
    cache.put("a", Value("second"))
    assert (cache.get("a"), cache.size_bytes) == (Value("second"), 100)


def test_the_bound_in_bytes_holds_and_the_least_recent_goes_first() -> None:
    """A full cache gives up what was used longest ago, as many as the new result needs."""
    cache = _cache(max_bytes=400)
    for name in "abcd":
        cache.put(name, Value(name))
    cache.get("a")
    cache.put("e", Value("e", size=200))
    assert [name for name in "abcde" if cache.get(name)] == ["a", "d", "e"]
    assert cache.size_bytes == 400


def test_a_result_is_forgotten_when_its_time_is_over() -> None:
    """Being asked for does not make it stay longer, and its bytes are free again."""
    clock = Clock()
    cache = _cache(ttl=60.0, clock=clock)
    cache.put("a", Value("a"))
    clock.now += 59
    assert cache.get("a") == Value("a")
    clock.now += 1
    assert cache.get("a") is None
    assert (cache.size_bytes, _metric("kb_result_cache_bytes")) == (0, 0)


def test_a_degraded_result_is_not_kept() -> None:
    """What is missing now may be there the next time."""
    cache = _cache()
    cache.put("a", Value("a", degraded=True))
    assert cache.get("a") is None


def test_a_result_larger_than_the_cache_does_not_empty_it() -> None:
    """It is not kept, and the others stay."""
    cache = _cache(max_bytes=400)
    cache.put("a", Value("a"))
    cache.put("b", Value("b", size=401))
    assert (cache.get("a"), cache.get("b")) == (Value("a"), None)


def test_hits_misses_and_bytes_are_counted() -> None:
    """The three metrics tell what the cache does."""
    cache = _cache()
    hits, misses = _metric("kb_result_cache_hits_total"), _metric("kb_result_cache_misses_total")
    cache.get("a")
    cache.put("a", Value("a", size=300))
    cache.get("a")
    cache.get("a")
    assert (_metric("kb_result_cache_hits_total") - hits, _metric("kb_result_cache_misses_total") - misses) == (2, 1)
    assert _metric("kb_result_cache_bytes") == 300


def test_a_cache_of_no_bytes_is_off() -> None:
    """It keeps nothing, and a look into it is no miss."""
    cache = _cache(max_bytes=0)
    misses = _metric("kb_result_cache_misses_total")
    cache.put("a", Value("a"))
    assert cache.get("a") is None
    assert _metric("kb_result_cache_misses_total") == misses


# --- keys ---------------------------------------------------------------------------------------------------------------------------------


def _copy() -> ReplicaProject:
    project = Project(
        id=ProjectId("plants"),
        display_name="",
        description="",
        labels={},
        embedding_model="all-MiniLM-L6-v2",
        chunking=ChunkingSettings(),
        generation=1,
        epoch="e1",
        head=SequenceNumber(5),
        vector_sequence=VectorSequence(5),
        document_count=5,
        chunk_count=5,
        state=ProjectState.ACTIVE,
        create_time=NOW,
        update_time=NOW,
        etag="1",
    )
    cursor = Cursor("e1", SequenceNumber(5))
    return ReplicaProject(project, cursor, cursor, SequenceNumber(5), VectorSequence(5), NOW, vectors_available=True, version=3)


def _query(condition: Filter | None = None) -> Query:
    return Query(project_id=ProjectId("plants"), text="sugar", filter=condition)


def test_equal_requests_to_an_unchanged_copy_have_equal_keys() -> None:
    """What does not change an answer (when the feed was last heard, how far the head is) does not change the key."""
    copy = _copy()
    later = replace(copy, contact_time=datetime.now(UTC), head=SequenceNumber(6))
    condition = Comparison("year", Operator.EQUAL, 2020)
    assert ResultKey.of(copy, _query(condition)) == ResultKey.of(later, _query(condition))
    assert hash(ResultKey.of(copy, _query(condition))) == hash(ResultKey.of(later, _query(condition)))


def _changed() -> Iterator[ReplicaProject]:
    """The copy after each change that an answer may depend on."""
    copy = _copy()
    other = Cursor("e1", SequenceNumber(6))
    yield replace(copy, documents_cursor=other)
    yield replace(copy, documents_cursor=None)
    yield replace(copy, vectors_cursor=other)
    yield replace(copy, vector_sequence=VectorSequence(4))
    yield replace(copy, version=4)
    yield replace(copy, vectors_available=False)
    yield replace(copy, project=replace(copy.project, id=ProjectId("animals")))
    yield replace(copy, project=replace(copy.project, epoch="e2"))
    yield replace(copy, project=replace(copy.project, generation=2))
    yield replace(copy, project=replace(copy.project, state=ProjectState.REBUILDING))
    yield replace(copy, project=replace(copy.project, keyword=KeywordSettings(stemming=False)))


def test_every_change_of_the_copy_is_another_key() -> None:
    """An answer from before a change is never found after it."""
    keys = [ResultKey.of(copy, _query()) for copy in (_copy(), *_changed())]
    assert len(set(keys)) == len(keys) == 12


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Comparison("flag", Operator.EQUAL, 1), Comparison("flag", Operator.EQUAL, True)),
        (Membership("flag", (0, "x")), Membership("flag", (False, "x"))),
        (AllOf((Comparison("a", Operator.EQUAL, 1.0),)), AllOf((Comparison("a", Operator.EQUAL, True),))),
        (AllOf((Comparison("a", Operator.EQUAL, 1),)), AnyOf((Comparison("a", Operator.EQUAL, 1),))),
        (Comparison("a", Operator.EQUAL, "1"), Comparison("a", Operator.EQUAL, 1)),
        (None, AllOf(())),
    ],
)
def test_filters_that_match_differently_have_different_keys(one: Filter | None, other: Filter | None) -> None:
    """Also those that Python takes for equal: a number and a boolean."""
    assert ResultKey.of(_copy(), _query(one)) != ResultKey.of(_copy(), _query(other))


# --- sizes --------------------------------------------------------------------------------------------------------------------------------


def _text(rng: random.Random, alphabet: str, length: int) -> str:
    """A string of its own."""
    start = rng.randrange(length * (len(alphabet) - 1))
    return (alphabet * length)[start : start + length]


def _chunk(rng: random.Random, alphabet: str, length: int) -> Chunk:
    text = _text(rng, alphabet, length)
    return Chunk(ChunkId(_text(rng, "0123456789abcdef", 40)), rng.randint(300, 999), text, rng.randint(300, 9_999), rng.randint(300, 9_999))


def _leg(rng: random.Random) -> LegScore:
    return LegScore(rng.randint(300, 400), rng.random())


def _hit(rng: random.Random, alphabet: str, length: int, *, rich: bool) -> Hit:
    """A hit of which nothing is shared with another."""
    hit = Hit(
        DocumentId(_text(rng, "abcdef", 20)),
        _text(rng, alphabet, 30),
        {_text(rng, "abcdef", 8): value for value in (_text(rng, alphabet, 12), rng.random(), (_text(rng, alphabet, 5), _text(rng, alphabet, 6)))},
        _chunk(rng, alphabet, length),
        rng.random(),
        _leg(rng),
        _leg(rng),
    )
    if not rich:
        return hit
    matches = tuple(TextRange(rng.randint(300, 999), rng.randint(300, 999)) for _ in range(3))
    legs = [LegContribution(rng.randint(300, 400), rng.random(), rng.random(), rng.random(), rng.random()) for _ in range(2)]
    steps = DiversityStep(rng.random(), rng.random(), rng.random(), 300), RerankingStep(rng.random(), 300)
    return replace(
        hit,
        more_chunks=tuple(GroupedChunk(_chunk(rng, alphabet, length), rng.random(), _leg(rng), _leg(rng)) for _ in range(2)),
        snippets=(Snippet(_text(rng, alphabet, 240), rng.randint(300, 999), rng.randint(300, 999), matches),),
        explanation=Explanation(legs[0], legs[1], rng.random(), _text(rng, "abc", 60), *steps),
    )


def _answer(hits: int, alphabet: str, length: int, *, rich: bool) -> SearchAnswer:
    rng = random.Random(7)
    freshness = Freshness("e" * 32, SequenceNumber(rng.randint(300, 999)), VectorSequence(rng.randint(300, 999)), SequenceNumber(999), NOW)
    timings = Timings(*(rng.random() for _ in range(7)))
    return SearchAnswer(tuple(_hit(rng, alphabet, length, rich=rich) for _ in range(hits)), SearchMode.HYBRID, (), freshness, timings, "token")


@pytest.mark.parametrize("rich", [False, True])
@pytest.mark.parametrize(("alphabet", "length"), [("abc ", 100), ("abc ", 900), ("жук ", 900), ("漢字", 300), ("ab😀", 900)])
@pytest.mark.parametrize("hits", [1, 20])
def test_the_estimate_is_near_the_memory_that_an_answer_takes(hits: int, alphabet: str, length: int, *, rich: bool) -> None:
    """Never less than a tenth below what is allocated for it, nor more than one and a half times as much."""
    gc.collect()
    tracemalloc.start()
    try:
        answer = _answer(hits, alphabet, length, rich=rich)
        taken = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert 0.9 * taken < size_of(answer) < 1.5 * taken


def test_the_real_memory_of_a_full_cache_stays_near_its_bound() -> None:
    """Keys and the cache's own records included: what the bound promises is what the process pays."""
    bound = 400_000
    gc.collect()
    tracemalloc.start()
    try:
        cache: ResultCache[ResultKey, SearchAnswer] = ResultCache(bound, 60.0, size_of_entry)
        for number in range(100):
            condition = Comparison("year", Operator.EQUAL, number)
            key = ResultKey.of(_copy(), replace(_query(condition), text=f"{'how plants make sugar ' * 5}{number}"))
            cache.put(key, _answer(3, "abc ", 900, rich=False))
        taken = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert 0.95 * bound < cache.size_bytes <= bound
    assert taken < 1.1 * bound


def test_a_degraded_answer_is_refused_as_it_comes_from_a_search() -> None:
    """The answer itself says that something is missing from it."""
    cache: ResultCache[ResultKey, SearchAnswer] = ResultCache(1_000_000, 60.0, size_of_entry)
    key, answer = ResultKey.of(_copy(), _query()), _answer(1, "abc ", 100, rich=False)
    missing = Degradation(DegradationReason.VECTOR_LEG_MISSING, "chromadb", "no answer in time", None)
    cache.put(key, replace(answer, degradations=(missing,)))
    assert cache.get(key) is None
    cache.put(key, answer)
    assert cache.get(key) is answer

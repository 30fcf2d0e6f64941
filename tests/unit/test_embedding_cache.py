"""The cache of vectors, around the fake embedder."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Sequence

import numpy as np
import pytest

from shared.domain import Vectors
from shared.embedding.cache import CachingEmbedder
from shared.errors import UnavailableError
from tests.fakes.embedder import FakeEmbedder


class Counts:
    """What the cache reported."""

    def __init__(self) -> None:
        self.hits = 0
        self.misses = 0

    def hit(self, number: int) -> None:
        """Adds hits."""
        self.hits += number

    def miss(self, number: int) -> None:
        """Adds misses."""
        self.misses += number


async def test_a_text_is_embedded_once() -> None:
    """The second time the vector comes from the cache, and is the same."""
    inner = FakeEmbedder()
    cache = CachingEmbedder(inner, 1_000_000)
    first = await cache.embed(["a question"])
    np.testing.assert_array_equal(first, await cache.embed(["a question"]))
    assert inner.embedded == ["a question"]


async def test_hits_and_misses_are_counted_a_text() -> None:
    """Texts of one call that are the same are embedded once; the others of them are hits."""
    inner, counts = FakeEmbedder(), Counts()
    cache = CachingEmbedder(inner, 1_000_000, on_hit=counts.hit, on_miss=counts.miss)
    vectors = await cache.embed(["a", "b", "a"])
    await cache.embed(["b", "c"])
    assert (counts.hits, counts.misses) == (2, 3)
    assert inner.embedded == ["a", "b", "c"]
    np.testing.assert_array_equal(vectors, await FakeEmbedder().embed(["a", "b", "a"]))


async def test_spellings_that_look_the_same_share_a_vector() -> None:
    """Whitespace at the ends and the Unicode form make no difference; case does."""
    inner = FakeEmbedder()
    cache = CachingEmbedder(inner, 1_000_000)
    await cache.embed(["caf\u00e9", "  cafe\u0301\n", "Caf\u00e9"])
    assert inner.embedded == ["caf\u00e9", "Caf\u00e9"]


async def test_the_bound_in_bytes_holds_and_the_least_recent_goes_first() -> None:
    """The cache never holds more than its bound; a text that was used since stays longer than one that was not."""
    inner = FakeEmbedder()
    cache = CachingEmbedder(inner, 8_000)  # room for 4 vectors of 1,536 bytes with their keys
    for text in ("a", "b", "c", "d"):
        await cache.embed([text])
    await cache.embed(["a"])
    await cache.embed(["e"])
    assert 6_000 < cache.size_bytes <= 8_000
    inner.embedded.clear()
    await cache.embed(["a"])
    await cache.embed(["b"])
    assert inner.embedded == ["b"]


async def test_an_entry_larger_than_the_cache_is_answered_but_not_kept() -> None:
    """A huge text does not empty the cache."""
    inner = FakeEmbedder()
    cache = CachingEmbedder(inner, 5_000)
    await cache.embed(["small"])
    await cache.embed(["x" * 5_000])
    await cache.embed(["small"])
    assert inner.embedded == ["small", "x" * 5_000]


async def test_what_is_kept_does_not_hold_a_whole_batch() -> None:
    """Of a large batch only what is in the cache stays in memory, so the bound in bytes is true."""
    batches: list[weakref.ref[Vectors]] = []

    class Watched(FakeEmbedder):
        async def embed(self, texts: Sequence[str]) -> Vectors:
            vectors = await super().embed(texts)
            batches.append(weakref.ref(vectors))
            return vectors

    cache = CachingEmbedder(Watched(), 8_000)
    await cache.embed([str(number) for number in range(100)])
    gc.collect()
    assert cache.size_bytes > 6_000
    assert [batch() for batch in batches] == [None]


async def test_changing_an_answer_does_not_change_the_cache() -> None:
    """The caller owns the array that it gets."""
    cache = CachingEmbedder(FakeEmbedder(), 1_000_000)
    first = await cache.embed(["text"])
    wanted = first.copy()
    first[:] = 0
    second = await cache.embed(["text"])
    np.testing.assert_array_equal(wanted, second)
    second[:] = 0
    np.testing.assert_array_equal(wanted, await cache.embed(["text"]))


async def test_a_failure_is_passed_on_and_not_remembered() -> None:
    """While the model is away, known texts are answered and new ones fail; afterwards all are answered."""
    inner = FakeEmbedder()
    cache = CachingEmbedder(inner, 1_000_000)
    await cache.embed(["known"])
    inner.fail()
    assert (await cache.embed(["known"])).shape == (1, 384)
    with pytest.raises(UnavailableError):
        await cache.embed(["known", "new"])
    inner.recover()
    assert (await cache.embed(["known", "new"])).shape == (2, 384)


async def test_no_texts_are_no_call() -> None:
    """An empty list is answered without the model."""
    inner = FakeEmbedder()
    inner.fail()
    assert (await CachingEmbedder(inner, 1_000).embed([])).shape == (0, 384)

"""Estimates the memory that an answer takes, for the bound of the result cache. Pure.

Strings and mappings are asked for their size; the objects around them are counted with what CPython 3.11 takes for them on a 64-bit machine, their
numbers and the garbage collector's headers included, as measured with tracemalloc. What an answer shares with others is counted in full, so the
estimate is rather too large than too small.
"""

from __future__ import annotations

from sys import getsizeof

from services.query.application.results import ResultKey
from shared.domain import Chunk, MetadataValue
from shared.search import Explanation, Hit, LegScore, SearchAnswer, Snippet

_ANSWER = 900
_HIT = 250
_CHUNK = 170
_MORE = 120
_LEG = 110
_SNIPPET = 170
_MATCH = 130
_EXPLANATION = 130
_CONTRIBUTION = 200
_STEP = 150


def size_of_entry(key: ResultKey, answer: SearchAnswer) -> int:
    """Bytes of an answer and its key."""
    return key.size_bytes + size_of(answer)


def size_of(answer: SearchAnswer) -> int:
    """Bytes of an answer."""
    return _ANSWER + getsizeof(answer.next_page_token) + sum(map(_hit, answer.hits))


def _hit(hit: Hit) -> int:
    size = _HIT + getsizeof(hit.document_id) + getsizeof(hit.title) + getsizeof(hit.metadata) + _chunk(hit.chunk) + _legs(hit.vector, hit.keyword)
    for key, value in hit.metadata.items():
        size += getsizeof(key) + _value(value)
    for more in hit.more_chunks:
        size += _MORE + _chunk(more.chunk) + _legs(more.vector, more.keyword)
    return size + sum(map(_snippet, hit.snippets)) + (_explanation(hit.explanation) if hit.explanation else 0)


def _value(value: MetadataValue) -> int:
    return getsizeof(value) + (sum(map(getsizeof, value)) if isinstance(value, tuple) else 0)


def _chunk(chunk: Chunk) -> int:
    return _CHUNK + getsizeof(chunk.id) + getsizeof(chunk.text)


def _legs(*legs: LegScore | None) -> int:
    return _LEG * (len(legs) - legs.count(None))


def _snippet(snippet: Snippet) -> int:
    return _SNIPPET + getsizeof(snippet.text) + _MATCH * len(snippet.matches)


def _explanation(explanation: Explanation) -> int:
    legs = (explanation.vector, explanation.keyword)
    steps = (explanation.diversity, explanation.reranking)
    return _EXPLANATION + getsizeof(explanation.formula) + _CONTRIBUTION * (2 - legs.count(None)) + _STEP * (2 - steps.count(None))

"""Finds the parts of a text around the words that were looked for. Pure.

A word matches when a term that it gives, by the analysis of the keyword index, is among the query's terms; it matches as a whole, though a part of
it (`case` of `snake_case`) may be what was looked for. Scripts without spaces match by their characters and pairs. Offsets are code points of the
text as it is given: each word is brought to NFKC by itself, so nothing moves.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from services.query.replica.analysis import Span, characters, spans
from shared.search import Snippet, Snippets, TextRange


@dataclass(frozen=True, slots=True)
class _Match:
    start: int
    end: int
    terms: frozenset[str]


class _Common(dict[str, frozenset[str]]):
    """The terms of the query that each word gives; texts repeat their words."""

    def __init__(self, terms: AbstractSet[str], terms_of_word: Callable[[str], frozenset[str]]) -> None:
        super().__init__()
        self._terms = terms
        self._terms_of_word = terms_of_word

    def __missing__(self, word: str) -> frozenset[str]:
        common = self[word] = self._terms_of_word(word) & self._terms
        return common


def snippets(
    texts: Sequence[str], terms: AbstractSet[str], terms_of_word: Callable[[str], frozenset[str]], wanted: Snippets
) -> list[tuple[Snippet, ...]]:
    """For each text, its parts with the most of the query's terms, in the order of the text, without overlap.

    The first to be chosen is that with the most distinct terms, then with the most matches, then the earliest; the next one is chosen in the same
    way from what is left. A text that has none of the terms gives its beginning, without matches; an empty text gives nothing. Parts begin and end
    at the borders of words; a word that is longer than a part may be does not match.

    Args:
        texts: any texts.
        terms: the terms of the query.
        terms_of_word: the terms that a word of a text, or one or two characters of an unspaced script, is found by.
        wanted: how long, in code points, and how many a text.
    """
    common = _Common(terms, terms_of_word)
    return [_snippets(text, common, wanted) for text in texts]


def _snippets(text: str, common: _Common, wanted: Snippets) -> tuple[Snippet, ...]:
    found = spans(text)
    matches = [match for match in _matches(text, found, common) if match.end - match.start <= wanted.max_characters]
    borders = _Borders(text, found)
    if not matches:
        start, end = borders.widen(0, 0, (0, len(text)), wanted.max_characters)
        return (Snippet(text[start:end], start, end, ()),) if end > start else ()
    chosen: list[tuple[int, int]] = []
    rest: Sequence[_Match] = matches
    while rest and len(chosen) < wanted.max_snippets:
        first, last = _best_window(rest, wanted.max_characters)
        start, end = rest[first].start, rest[last].end
        room = max((to for _, to in chosen if to <= start), default=0), min((begin for begin, _ in chosen if begin >= end), default=len(text))
        start, end = borders.widen(start, end, room, wanted.max_characters)
        chosen.append((start, end))
        rest = [match for match in rest if match.end <= start or match.start >= end]
    return tuple(Snippet(text[start:end], start, end, _ranges(matches, start, end)) for start, end in sorted(chosen))


def _matches(text: str, found: Sequence[Span], common: _Common) -> Iterator[_Match]:
    """What matches, by rising start; pairs of characters overlap."""
    for start, end, unspaced in found:
        if unspaced:
            yield from _unspaced_matches(text, (start, end), common)
        elif terms := common[text[start:end]]:
            yield _Match(start, end, terms)


def _unspaced_matches(text: str, run: tuple[int, int], common: _Common) -> Iterator[_Match]:
    places = characters(text, *run)
    for index, (start, end) in enumerate(places):
        ends = (end, places[index + 1][1]) if index + 1 < len(places) else (end,)
        yield from (_Match(start, end, terms) for end in ends if (terms := common[text[start:end]]))


def _best_window(matches: Sequence[_Match], length: int) -> tuple[int, int]:
    """The first and the last match of the best part; each match is no longer than `length`."""
    counts: Counter[str] = Counter()
    best, best_value, last = (0, 0), (0, 0), -1
    for first, match in enumerate(matches):
        while last + 1 < len(matches) and (last < first or matches[last + 1].end - match.start <= length):
            last += 1
            counts.update(matches[last].terms)
        value = len(counts), last - first + 1
        if value > best_value:
            best, best_value = (first, last), value
        counts.subtract(match.terms)
        for term in match.terms:
            if not counts[term]:
                del counts[term]
    return best


class _Borders:
    """Where a text may be cut."""

    def __init__(self, text: str, found: Sequence[Span]) -> None:
        self._text = text
        self._spans = found
        self._starts = [start for start, _, _ in found]

    def widen(self, start: int, end: int, room: tuple[int, int], length: int) -> tuple[int, int]:
        """The part `start` to `end` with as much before and after it as fits into `room` and `length`, cut at borders of words."""
        floor, ceiling = room
        spare = length - (end - start)
        before = min(start - floor, max(spare // 2, spare - (ceiling - end)))
        begin = self._at_or_after(start - before, start) if start - before > floor else floor
        while begin < start and self._text[begin].isspace():
            begin += 1
        limit = min(ceiling, begin + length)
        finish = self._at_or_before(limit, end) if limit < ceiling else ceiling
        while finish > end and self._text[finish - 1].isspace():
            finish -= 1
        # A beginning that is one long word is cut within it.
        return (begin, finish) if finish > begin else (floor, limit)

    def _at_or_after(self, place: int, most: int) -> int:
        start, end, unspaced = self._around(place)
        if unspaced:
            return min([begin for begin, _ in characters(self._text, start, end) if begin >= place], default=most)
        return end

    def _at_or_before(self, place: int, least: int) -> int:
        start, end, unspaced = self._around(place)
        if unspaced:
            return max([begin for begin, _ in characters(self._text, start, end) if begin <= place], default=least)
        return start

    def _around(self, place: int) -> Span:
        """The span that a cut here would go through; an empty one where it would not go through any."""
        index = bisect_right(self._starts, place) - 1
        if index >= 0 and self._starts[index] < place < self._spans[index][1]:
            return self._spans[index]
        return place, place, False


def _ranges(matches: Sequence[_Match], start: int, end: int) -> tuple[TextRange, ...]:
    """The matches within a part, as ranges of it; those that overlap are one."""
    ranges: list[TextRange] = []
    for match in matches[bisect_left(matches, start, key=lambda match: match.start) :]:
        if match.start >= end:
            break
        if match.end > end:
            continue
        if ranges and ranges[-1].end > match.start - start:
            ranges[-1] = TextRange(ranges[-1].start, max(ranges[-1].end, match.end - start))
        else:
            ranges.append(TextRange(match.start - start, match.end - start))
    return tuple(ranges)

"""The part of a text that a query is about, with the words of the query in it. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

_WORD = re.compile(r"\w+")
_SUFFIXES = re.compile(r"(?:ing|ed|es|e|s)$")
_ELLIPSIS = "…"


@dataclass(frozen=True, slots=True)
class Excerpt:
    """Text on one line; `matches` are offsets (start, end) into it."""

    text: str
    matches: tuple[tuple[int, int], ...]


def _stem(word: str) -> str:
    """A word without case and without the commonest English endings: enough to highlight, never used to search."""
    folded = word.casefold()
    return _SUFFIXES.sub("", folded) if len(folded) > 3 else folded


def excerpt(text: str, query: str, width: int = 240) -> Excerpt:
    """At most about `width` characters of `text`, where most different words of the query are; its beginning if there are none."""
    line = " ".join(text.split())
    wanted = {_stem(word) for word in _WORD.findall(query)}
    found = [(match.start(), match.end(), stem) for match in _WORD.finditer(line) if (stem := _stem(match[0])) in wanted]
    start = _best_start(found, width)
    # Begin and end between words, unless a word is longer than the excerpt.
    if start > 0:
        start = line.rfind(" ", 0, start) + 1
    end = min(len(line), start + width)
    if end < len(line):
        end = max(line.rfind(" ", start, end + 1), start) if line.rfind(" ", start, end + 1) > start else end
    head, tail = (_ELLIPSIS if start else ""), (_ELLIPSIS if end < len(line) else "")
    shift = len(head) - start
    matches = tuple((first + shift, last + shift) for first, last, _ in found if first >= start and last <= end)
    return Excerpt(head + line[start:end] + tail, matches)


def _best_start(found: list[tuple[int, int, str]], width: int) -> int:
    """Where to begin so that `width` characters hold most different stems, a fifth of it before the first; a sliding window over the matches."""
    best, best_count, first, counts = 0, 0, 0, dict[str, int]()
    for start, end, stem in found:
        counts[stem] = counts.get(stem, 0) + 1
        while end - found[first][0] > width * 4 // 5 and found[first][0] < start:
            gone = found[first][2]
            counts[gone] -= 1
            if not counts[gone]:
                del counts[gone]
            first += 1
        if len(counts) > best_count:
            best, best_count = found[first][0], len(counts)
    return max(0, best - width // 5) if best_count else 0

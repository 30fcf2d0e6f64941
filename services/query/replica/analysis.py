"""Cuts text into the words of the keyword index. Pure.

Index and query go through the same rules, so that what a text contains is found by writing it the same way:

- Unicode is brought to NFKC and case-folded, combining marks stay with their letter.
- A word with inner dots or underscores (`snake_case`, `os.path`, `3.14`), in camel case (`CamelCase`, `HTTPServer2`) or with a suffix of a
  programming language (`C++`, `C#`) gives itself and its parts; English possessives lose their `'s`.
- Scripts that are written without spaces (Chinese, Japanese, Thai, Lao, Khmer, Burmese) give every character and every pair of neighbours; a
  query of two or more characters asks for the pairs alone.
- An emoji or other pictogram gives itself; a sequence (joined by U+200D, a flag, a skin tone) gives itself and its parts.

Stemming, accent folding and stop words are the index's own filters (see `keyword.py`); they apply to the words that come from here.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from itertools import pairwise

# Start and end of a word, or of a run of an unspaced script (then the third is true), in code points.
Span = tuple[int, int, bool]

# A longer run of letters is cut after every 100 characters: it is data, not a word, and a term has a bound in the index.
_LONGEST_WORD = 100
# Compounds up to this length are remembered once expanded; text repeats its words.
_LONGEST_REMEMBERED = 40


def _marks() -> str:
    """Ranges of the combining marks of the Basic Multilingual Plane, which `re` does not count as letters; without the variation selectors."""
    points = [point for point in range(0x300, 0xFE00) if unicodedata.category(chr(point)).startswith("M")]
    ranges: list[list[int]] = []
    for point in points:
        if ranges and ranges[-1][1] == point - 1:
            ranges[-1][1] = point
        else:
            ranges.append([point, point])
    return "".join(f"{chr(low)}-{chr(high)}" for low, high in ranges)


_MARKS = _marks()
# Thai, Lao, Burmese, Khmer; kana; Han with its extensions; iteration marks. Hangul is written with spaces and is left to the words.
_UNSPACED = (
    "\u0e01-\u0e3a\u0e40-\u0e4e\u0e81-\u0ece\u1000-\u109f\u1780-\u17d3"
    "\u3005-\u3007\u3041-\u3096\u309d\u309e\u30a1-\u30fa\u30fc-\u30fe\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\U0001b000-\U0001b16f\U00020000-\U0003ffff"
)
_PICTOGRAM = "\u203c\u2049\u2122\u2139\u2190-\u21ff\u2300-\u27bf\u2900-\u297f\u2b00-\u2bff\u3030\u303d\u3297\u3299\U0001f000-\U0001faff"
_SKIN_TONE = "\U0001f3fb-\U0001f3ff"
_FLAG_LETTER = "\U0001f1e6-\U0001f1ff"
_LETTER = rf"(?:(?![{_UNSPACED}])[\w{_MARKS}])"
_ASCII_TOKEN = re.compile(r"\w+(?:['.]\w+)*(?:\+\+|#)?")
_TOKEN = re.compile(
    rf"(?P<unspaced>[{_UNSPACED}][{_UNSPACED}{_MARKS}]*)"
    rf"|(?P<pictogram>[{_FLAG_LETTER}]{{2}}|[{_PICTOGRAM}][{_SKIN_TONE}]?(?:\ufe0f?\u200d[{_PICTOGRAM}][{_SKIN_TONE}]?)*)"
    rf"|(?P<word>{_LETTER}+(?:['’.]{_LETTER}+)*(?:\+\+|#)?)"
)
# What the general pattern comes to in a text without unspaced scripts and pictograms, in half the time.
_SPACED_TOKEN = re.compile(rf"[\w{_MARKS}]+(?:['’.][\w{_MARKS}]+)*(?:\+\+|#)?")
_UNSPACED_OR_PICTOGRAM = re.compile(rf"[{_UNSPACED}{_PICTOGRAM}]")
_CLUSTER = re.compile(rf".[{_MARKS}]*", re.DOTALL)
_SINGLE_PICTOGRAM = re.compile(rf"[{_PICTOGRAM}]")
_SPLIT = re.compile(r"[._'’+#]+")
# Where a camel-case word is cut: aB, ABc (before the B), and between a letter and a digit.
_HUMP = re.compile(r"(?<=[^\W\d_A-Z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|(?<=[^\W\d_])(?=\d)|(?<=\d)(?=[^\W\d_])")


def _cut(word: str) -> list[str]:
    """The word, in pieces of at most `_LONGEST_WORD` characters."""
    return [word] if len(word) <= _LONGEST_WORD else [word[start : start + _LONGEST_WORD] for start in range(0, len(word), _LONGEST_WORD)]


def _expand(token: str) -> str:
    """The words that a word or identifier gives, separated by spaces: itself, then its parts."""
    if token.isalpha() and (token.islower() or token.istitle()):
        return " ".join(_cut(token.casefold()))
    if token[-2:] in {"'s", "’s", "'S", "’S"}:
        token = token[:-2]
    words: list[str] = []
    sections = [section for section in _SPLIT.split(token) if section]
    whole = token.strip("_.").replace("'", "").replace("’", "").casefold()
    if whole and len(whole) <= _LONGEST_WORD:
        words.append(whole)
    for section in sections:
        pieces = _HUMP.split(section)
        words.extend(piece for part in {section: None, **dict.fromkeys(pieces)} for piece in _cut(part.casefold()))
    return " ".join(dict.fromkeys(words))


_expand_remembered = lru_cache(maxsize=65_536)(_expand)


def _word(token: str) -> str:
    return _expand_remembered(token) if len(token) <= _LONGEST_REMEMBERED else _expand(token)


def _unspaced(run: str, *, pairs_only: bool) -> list[str]:
    clusters = _CLUSTER.findall(run)
    pairs = [first + second for first, second in pairwise(clusters)]
    return pairs if pairs and pairs_only else [*clusters, *pairs]


def _pictogram(sequence: str) -> list[str]:
    whole = sequence.replace("\ufe0f", "")
    parts = _SINGLE_PICTOGRAM.findall(whole)
    return list(dict.fromkeys([whole, *parts]))


def spans(text: str) -> list[Span]:
    """Where the words of a text stand, as the text is: compatibility characters are not brought to NFKC before it is cut."""
    if text.isascii():
        return [(*match.span(), False) for match in _ASCII_TOKEN.finditer(text)]
    if _UNSPACED_OR_PICTOGRAM.search(text) is None:
        return [(*match.span(), False) for match in _SPACED_TOKEN.finditer(text)]
    return [(*match.span(), match.lastgroup == "unspaced") for match in _TOKEN.finditer(text)]


def characters(text: str, start: int, end: int) -> list[tuple[int, int]]:
    """Where each character, with its combining marks, of a run of an unspaced script stands."""
    return [match.span() for match in _CLUSTER.finditer(text, start, end)]


def words(text: str, *, query: bool = False) -> str:
    """The words of a text, in order, each followed by its parts, separated by single spaces; empty when there are none.

    Args:
        text: any text.
        query: the text is what somebody looks for: of unspaced scripts give the pairs alone.
    """
    if text.isascii():
        return " ".join(filter(None, map(_word, _ASCII_TOKEN.findall(text))))
    text = unicodedata.normalize("NFKC", text)
    if _UNSPACED_OR_PICTOGRAM.search(text) is None:
        return " ".join(filter(None, map(_word, _SPACED_TOKEN.findall(text))))
    found: list[str] = []
    for match in _TOKEN.finditer(text):
        token = match.group()
        if match.lastgroup == "word":
            found.append(_word(token))
        elif match.lastgroup == "unspaced":
            found.extend(_unspaced(token, pairs_only=query))
        else:
            found.extend(_pictogram(token))
    return " ".join(filter(None, found))

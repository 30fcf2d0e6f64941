"""Where a text may be cut, and how good a place each is. Pure.

Markdown headings, blank lines, line ends, sentence ends and word starts are found by regular expressions, each in one pass over the text. Plain
text is Markdown without headings. Scripts that are written without spaces (Chinese, Japanese) may be cut at every character.
"""

from __future__ import annotations

import enum
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Positions = NDArray[np.int64]


class Level(enum.IntEnum):
    """What begins at a position; the larger, the better a place to cut."""

    WORD = 1
    SENTENCE = 2
    LINE = 3
    PARAGRAPH = 4
    HEADING = 5


@dataclass(frozen=True, slots=True)
class Outline:
    """Positions are offsets in code points of non-whitespace characters, ascending.

    `levels[i]` belongs to `words[i]`. `headings` are the positions of level HEADING. `blocks` are where headings, paragraphs and the body below a
    heading begin. `end` is where the last non-whitespace character ends.
    """

    words: Positions
    levels: NDArray[np.uint8]
    headings: Positions
    blocks: Positions
    end: int


# Chinese characters, Japanese kana and full-width punctuation. Not U+3000, which is a space. Hangul is written with spaces.
_WIDE = "\u3001-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff01-\uff65\U00020000-\U0002fa1f"
_WORD = re.compile(rf"[{_WIDE}]|[^\s{_WIDE}]+")
_SENTENCE = re.compile(r"[.!?…][\"'”’)\]»]*+\s++|[。！？｡．][\"'”’)\]»」』）]*+\s*+")
_LINE = re.compile(r"[\n\r\v\f\x85\u2028\u2029]\s*+")
# Atomic groups: `\r\n` is one line end, never two.
_PARAGRAPH = re.compile(r"(?>\r\n|\n|\r)[^\S\r\n]*+(?>\r\n|\n|\r)\s*+|\u2029\s*+")
# CommonMark 0.31: ATX headings, setext headings (with one line of text), fenced code.
_HEADING = re.compile(r"^ {0,3}#{1,6}(?=[ \t\r]|$)[^\n]*+|^ {0,3}(?=\S)[^\n]++\n {0,3}(?:=+|-+)[ \t\r]*+$", re.MULTILINE)
_FENCE = re.compile(r"^ {0,3}(`{3,}|~{3,})[^\n]*+", re.MULTILINE)
_JOINERS = frozenset("\u200d\ufe0e\ufe0f")  # zero-width joiner and variation selectors hold an emoji together


def _fenced(text: str) -> Iterator[tuple[int, int]]:
    """Ranges of fenced code; a fence that is never closed reaches to the end."""
    opened, start = "", 0
    for match in _FENCE.finditer(text):
        fence = match.group(1)
        if not opened:
            opened, start = fence, match.start()
        elif fence.startswith(opened):
            yield start, match.end()
            opened = ""
    if opened:
        yield start, len(text)


def _headings(text: str) -> Iterator[tuple[int, int]]:
    """Where each heading begins and ends, fenced code left out."""
    fences = _fenced(text)
    fence = next(fences, None)
    for match in _HEADING.finditer(text):
        while fence is not None and fence[1] <= match.start():
            fence = next(fences, None)
        if fence is None or match.start() < fence[0]:
            yield match.start(), match.end()


def outline(text: str) -> Outline:
    """Finds every place where the text may be cut, in time linear in its length."""
    text = text.rstrip()  # so that something follows every run of whitespace
    words = np.fromiter((match.start() for match in _WORD.finditer(text)), np.int64)
    levels = np.full(len(words), Level.WORD, np.uint8)
    body = np.zeros(len(words), np.bool_)
    for level, pattern in ((Level.SENTENCE, _SENTENCE), (Level.LINE, _LINE), (Level.PARAGRAPH, _PARAGRAPH)):
        ends = np.fromiter((match.end() for match in pattern.finditer(text)), np.int64)
        levels[np.searchsorted(words, ends[ends < len(text)])] = level
    if len(words):
        body[0] = True
    headings = np.array(list(_headings(text)), np.int64).reshape(-1, 2)
    levels[np.searchsorted(words, headings[:, 0])] = Level.HEADING
    # A heading stays with what stands below it, be that another heading.
    below = np.searchsorted(words, headings[headings[:, 1] < len(text), 1])
    levels[below] = Level.WORD
    body[below] = True
    return Outline(words, levels, words[levels == Level.HEADING], words[body | (levels >= Level.PARAGRAPH)], len(text))


def whole_character(text: str, position: int, floor: int) -> int:
    r"""The last position in `(floor, position]` that is not inside a character as readers see it; `position` itself if there is none.

    Looks at most 16 code points back: combining marks, emoji sequences and `\r\n` are shorter.
    """
    for candidate in range(position, max(floor, position - 16), -1):
        after, before = text[candidate : candidate + 1], text[candidate - 1]
        inside = after and (unicodedata.combining(after) or after in _JOINERS or "\U0001f3fb" <= after <= "\U0001f3ff")
        if not inside and before != "\u200d" and before + after != "\r\n":
            return candidate
    return position

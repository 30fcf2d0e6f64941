"""Bytes to text, and text to a title. Pure."""

from __future__ import annotations

import codecs
import re

# The longer mark first: UTF-32's begins with UTF-16's.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
# Control characters that no text has; tab, line feed, form feed, carriage return and escape (terminal colours) are in text.
_BINARY = frozenset(range(32)) - frozenset(b"\t\n\f\r\x1b")
_SNIFFED = 8192  # bytes; the length that git looks at
_FENCE = re.compile(r" {0,3}(```|~~~)")
_HEADING = re.compile(r" {0,3}#{1,6}[ \t]+(?P<title>.*?)[ \t]*#*[ \t]*")
_TITLE_LENGTH = 1000  # characters, the service's limit


def is_binary(data: bytes) -> bool:
    """Whether the beginning of `data` has a control character that text does not have; never so after a byte order mark."""
    if any(data.startswith(mark) for mark, _ in _MARKS):
        return False
    return not _BINARY.isdisjoint(data[:_SNIFFED])


def decode(data: bytes) -> tuple[str, str | None]:
    """Text, and the encoding if it had to be guessed.

    A byte order mark decides; else UTF-8; else Latin-1, which reads every byte. Raises UnicodeDecodeError when what follows a mark is damaged.
    """
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return data.decode(encoding), None
    try:
        return data.decode("utf-8"), None
    except UnicodeDecodeError:
        return data.decode("latin-1"), "latin-1"


def heading(text: str) -> str:
    """The first Markdown heading (`# …`) outside fenced code, cut to 1,000 characters; empty if there is none."""
    fence = ""
    for line in text.splitlines():
        if mark := _FENCE.match(line):
            fence = "" if fence == mark[1] else (fence or mark[1])
        elif not fence and (match := _HEADING.fullmatch(line)) and match["title"]:
            return match["title"][:_TITLE_LENGTH]
    return ""

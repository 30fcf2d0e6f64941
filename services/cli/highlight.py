"""Parts of texts on one line, with the words that were looked for made visible. Pure."""

from __future__ import annotations

import re

from rich.text import Text

from shared.search import Snippet, TextRange

ELLIPSIS = "…"
_STYLE = "bold yellow"
_SPACES = re.compile(r"\s+")


def highlighted(snippet: Snippet, *, more_before: bool, more_after: bool) -> Text:
    """A snippet on one line, its matches highlighted; an ellipsis where the text goes on."""
    line, shifts = _one_line(snippet.text)
    text = Text(ELLIPSIS if more_before else "")
    begin = len(text)
    text.append(line)
    for match in snippet.matches:
        start, end = _shifted(match, shifts)
        text.stylize(_STYLE, begin + start, begin + end)
    if more_after:
        text.append(ELLIPSIS)
    return text


def beginning(text: str, width: int) -> str:
    """At most `width` characters of a text on one line, cut between words where there are any."""
    line, _ = _one_line(text.strip())
    if len(line) <= width:
        return line
    space = line.rfind(" ", 0, width)
    return line[: space if space > 0 else width - 1] + ELLIPSIS


def _one_line(text: str) -> tuple[str, list[tuple[int, int]]]:
    """The text with each run of white space made one space, and (where a run ends in the text, how many characters went up to there)."""
    parts, shifts, position, gone = list[str](), list[tuple[int, int]](), 0, 0
    for run in _SPACES.finditer(text):
        parts += (text[position : run.start()], " ")
        position = run.end()
        gone += len(run[0]) - 1
        shifts.append((position, gone))
    return "".join(parts) + text[position:], shifts


def _shifted(match: TextRange, shifts: list[tuple[int, int]]) -> tuple[int, int]:
    def place(offset: int) -> int:
        return offset - max((gone for position, gone in shifts if position <= offset), default=0)

    return place(match.start), place(match.end)

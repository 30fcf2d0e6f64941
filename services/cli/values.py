"""Values as people type them. Pure."""

from __future__ import annotations

import math
import re

from shared.domain import MetadataScalar

_INTEGER = re.compile(r"[+-]?[0-9]+")
_NUMBER = re.compile(r"[+-]?([0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))([eE][+-]?[0-9]+)?")
_EXACT = 2**53  # beyond it, a double and so a message cannot hold every integer


def parse_scalar(text: str) -> MetadataScalar:
    """`2020` is an integer, `0.5` a number, `true` a boolean; everything else, and everything in quotes, is text.

    Integers beyond ±2^53 and numbers beyond a double are text too: they could not be kept exactly.
    """
    text = text.strip()
    if len(text) >= 2 and text[0] == text[-1] and text[0] in "\"'":
        return text[1:-1]
    if text.casefold() in {"true", "false"}:
        return text.casefold() == "true"
    if _INTEGER.fullmatch(text) and abs(int(text)) <= _EXACT:
        return int(text)
    if _NUMBER.fullmatch(text) and math.isfinite(number := float(text)):
        return number
    return text

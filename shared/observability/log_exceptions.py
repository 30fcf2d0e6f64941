"""Exceptions as text for a log line: types, messages and stacks, never the values that the frames held; bounded in length."""

from __future__ import annotations

import sys
import traceback
from types import TracebackType
from typing import Final

from shared.errors import KnowledgeBeastError

# A recursion's stack has a thousand frames; a chain of causes may go round and round for as long as somebody retried.
_MAX_CHARACTERS: Final = 16_000
# Libraries put into their messages what they choked on, cut or whole. What is beyond this says little about the fault, and may be a document.
_MAX_MESSAGE: Final = 200

_ExcInfo = tuple[type[BaseException] | None, BaseException | None, TracebackType | None]


def exception_text(exc_info: BaseException | _ExcInfo | bool) -> str:
    """The stack as Python prints it, causes included; empty if there is no exception.

    Args:
        exc_info: as the standard library's logging takes it: an exception, a triple, or True for the one that is being handled.
    """
    error = _error_of(exc_info)
    if error is None:
        return ""
    stack = traceback.TracebackException.from_exception(error, compact=True)
    _shorten(stack)
    text = "".join(stack.format()).rstrip("\n")
    if len(text) <= _MAX_CHARACTERS:
        return text
    half = _MAX_CHARACTERS // 2
    return f"{text[:half]}\n… {len(text) - 2 * half:,} characters …\n{text[-half:]}"


def _error_of(exc_info: BaseException | _ExcInfo | bool) -> BaseException | None:
    if isinstance(exc_info, BaseException):
        return exc_info
    if isinstance(exc_info, tuple):
        return exc_info[1]
    return sys.exc_info()[1] if exc_info else None


def _shorten(outermost: traceback.TracebackException) -> None:
    """Cuts the messages of a chain of exceptions, except those of our own, which are written for people and name ids alone."""
    rest = [outermost]
    while rest:
        each = rest.pop()
        own = each.exc_type is not None and issubclass(each.exc_type, KnowledgeBeastError)
        message = str(each)
        if not own and len(message) > _MAX_MESSAGE:
            each._str = f"{message[:_MAX_MESSAGE]}… ({len(message):,} characters)"  # type: ignore[attr-defined] # no public way to change it
        each.__notes__ = None
        rest.extend(other for other in (each.__cause__, each.__context__, *(each.exceptions or ())) if other is not None)

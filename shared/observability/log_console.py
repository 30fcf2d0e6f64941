"""Log lines for a person at a terminal: coloured, in the order in which they were written, and short enough to read.

What a person does not look for on a screen is left out or cut, and stands in the JSON form whole: date, span, nulls, the ends of long ids.
"""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from typing import Any, Final

import structlog

_SHORT_ID: Final = 8  # characters that tell one request of a screenful from another, and find it with a search
_CUT: Final = frozenset({"request_id", "trace_id"})
_LEFT_OUT: Final = frozenset({"span_id"})
_EVENT_WIDTH: Final = 12
_PACKAGE: Final = "knowledgebeast."

Line = MutableMapping[str, Any]


def console_renderer(*, colours: bool) -> Callable[[object, str, Line], str]:
    """What makes a line of the fields of an event."""
    # Plain, because the stack is text already; the library's own form of it would show what the frames held.
    render = structlog.dev.ConsoleRenderer(
        colors=colours, sort_keys=False, pad_event_to=_EVENT_WIDTH, exception_formatter=structlog.dev.plain_traceback
    )
    return lambda logger, level, line: str(render(logger, level, dict(_for_people(line))))


def _for_people(line: Line) -> Line:
    shown = {key: value for key, value in line.items() if value is not None and key not in _LEFT_OUT}
    shown["timestamp"] = str(shown["timestamp"])[len("2026-01-01T") : -1]
    for key in _CUT & shown.keys():
        shown[key] = str(shown[key])[:_SHORT_ID]
    if "method" in shown:
        shown["method"] = str(shown["method"]).removeprefix(_PACKAGE)
    # The ids last: they are the same for a whole request.
    return shown | {key: shown.pop(key) for key in sorted(_CUT & shown.keys())}

"""What a child's log says to people: without noise, and the cause of its end. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

_SHOWN = 5  # lines, when no line is an error
_ESCAPE = re.compile(r"\x1b?\[[0-9;]*m")
# What `chroma run` prints at each start: its logo, its settings, where to read on, and advertisements.
_NOISE = re.compile(
    r"[\s(#=]*"
    r"|(persist_path|port|listen_address|max_payload_size_bytes|allow_reset): .*"
    r"|(Saving data to|Connect to Chroma at|Getting started guide): .*"
    r"|.*To deploy your DB - try Chroma Cloud!|- Sign up: .*|- Copy your data to Cloud: .*"
    r"|(No telemetry|OpenTelemetry) is .*"
)
_ERRORS = frozenset({"error", "critical"})
_MODULES = re.compile(r"^(?:\w+\.)+(?=\w+(:|$))")  # before the name of an exception
_CAUSES = ("reason", "error")
# Not worth a person's time on a screen; they stand in the log.
_ASIDE = frozenset({"timestamp", "level", "event", "logger", "service", "version", "exception", "trace_id", "span_id", "request_id", *_CAUSES})


def causes(lines: Iterable[str], *, killed: bool = False) -> list[str]:
    """Why a child ended, as lines for people, the cause last; at most five.

    The last JSON line of level error, and what came after it that is no JSON (a crash of native code); without one, the last lines that say
    something. If a signal has `killed` it, no event in its log was the cause: only what came after the last one is left, which a crash may print.
    """
    kept = [text for line in lines if not _NOISE.fullmatch(text := _ESCAPE.sub("", line).rstrip())]
    events = [_event(text) for text in kept]
    last = max((place for place, event in enumerate(events) if event is not None and event.get("level") in _ERRORS), default=None)
    if killed:
        last_event = max((place for place, event in enumerate(events) if event is not None), default=-1)
        return kept[last_event + 1 :][-_SHOWN:]
    if last is None:
        return [text if event is None else _for_people(event) for text, event in zip(kept, events, strict=True)][-_SHOWN:]
    after = [text for text, event in zip(kept[last + 1 :], events[last + 1 :], strict=True) if event is None]
    return [_for_people(events[last] or {}), *after[-(_SHOWN - 1) :]]


def _event(text: str) -> Mapping[str, Any] | None:
    """A line of structured log, None for any other line."""
    if not text.startswith("{"):
        return None
    try:
        value = json.loads(text)
    except ValueError:
        return None
    return value if isinstance(value, dict) and "event" in value else None


def _for_people(event: Mapping[str, Any]) -> str:
    """`cannot start: the disk is full (stage=catalog)`."""
    said = [str(event["event"]), *(str(event[key]) for key in _CAUSES if event.get(key))]
    if len(said) == 1 and (exception := str(event.get("exception") or "").strip()):
        said.append(_MODULES.sub("", exception.splitlines()[-1].strip()))
    details = ", ".join(f"{key}={value}" for key, value in event.items() if key not in _ASIDE)
    return ": ".join(said) + (f" ({details})" if details else "")

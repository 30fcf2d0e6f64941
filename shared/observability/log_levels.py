"""The least severe level of each logger: what the settings say, and what was changed since.

Levels live in the standard library's loggers, for our own and for third parties' alike; they are global to the process, so is this.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from shared.errors import InvalidArgumentError, ResourceExhaustedError

ROOT: Final = "root"
LEVELS: Final[Mapping[str, int]] = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "critical": logging.CRITICAL,
}
MAX_LOGGERS: Final = 100
_MAX_NAME: Final = 200
_NAME: Final = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")
_RETRY_AFTER: Final = 60.0  # seconds; nothing but a person's reset makes room


@dataclass(frozen=True, slots=True)
class LoggerLevel:
    """The level of a logger, which holds for those below it that have none. `changed`: it is not what the settings say."""

    logger: str
    level: str
    changed: bool


class LogLevels:
    """What `configure` has set, and changes to it. Safe to use from any thread.

    Args:
        defaults: levels of loggers of which the settings say nothing, from `configure` on. They are not among the `current` ones.
    """

    def __init__(self, defaults: Mapping[str, str] | None = None) -> None:
        self._defaults = dict(defaults or {})
        self._lock = threading.Lock()
        self._configured: dict[str, str] = {ROOT: "warning"}
        self._changed: dict[str, str] = {}
        # Names that no module uses. The standard library never forgets a logger, so each of them counts for as long as the process lives.
        self._made: set[str] = set()

    def configure(self, general: str, named: Mapping[str, str]) -> None:
        """Sets the level of all loggers and of single ones, and forgets everything that was set before."""
        with self._lock:
            for name in {*self._configured, *self._changed} - {ROOT}:
                _logger(name).setLevel(logging.NOTSET)
            self._configured, self._changed = {ROOT: general, **named}, {}
            for name, level in {**self._defaults, **self._configured}.items():
                _logger(name).setLevel(LEVELS[level])

    def current(self) -> list[LoggerLevel]:
        """Loggers that have a level of their own: the root first, the others by name."""
        with self._lock:
            levels = {**self._configured, **self._changed}
            return [LoggerLevel(name, level, name in self._changed) for name, level in sorted(levels.items(), key=_root_first)]

    def of(self, name: str) -> str | None:
        """The level that a logger has of its own; None if it has none."""
        with self._lock:
            return self._changed.get(name) or self._unchanged(name)

    def change(self, name: str, level: str | None) -> None:
        """Sets the level of a logger until the process ends; None gives it back what it had.

        Raises:
            InvalidArgumentError: if no logger can have that name.
            ResourceExhaustedError: if 100 loggers have a level already.
        """
        if not (1 <= len(name) <= _MAX_NAME and _NAME.fullmatch(name)):
            raise InvalidArgumentError.of("logger", f"must be the name of a logger, 1 to {_MAX_NAME} characters: `root`, `services.query`, `grpc`")
        with self._lock:
            if level is None:
                self._reset(name)
                return
            self._make_room(name)
            _logger(name).setLevel(LEVELS[level])
            if self._configured.get(name) == level:
                self._changed.pop(name, None)
            else:
                self._changed[name] = level

    def _reset(self, name: str) -> None:
        if self._changed.pop(name, None) is not None:
            before = self._unchanged(name)
            _logger(name).setLevel(logging.NOTSET if before is None else LEVELS[before])

    def _unchanged(self, name: str) -> str | None:
        return self._configured.get(name) or self._defaults.get(name)

    def _make_room(self, name: str) -> None:
        held = {*self._configured, *self._changed, *self._made}
        if name in held:
            return
        if len(held) >= MAX_LOGGERS:
            raise ResourceExhaustedError(
                f"{MAX_LOGGERS} loggers have a level of their own: reset one", retry_after=_RETRY_AFTER, reason="TOO_MANY_LOGGERS"
            )
        if name not in logging.Logger.manager.loggerDict:
            self._made.add(name)


def _logger(name: str) -> logging.Logger:
    return logging.getLogger(None if name == ROOT else name)


def _root_first(entry: tuple[str, str]) -> tuple[bool, str]:
    return entry[0] != ROOT, entry[0]

"""Reads deployments/docker/Dockerfile: instructions by stage, as they are written."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PATH = ROOT / "deployments" / "docker" / "Dockerfile"


@dataclass
class Stage:
    """One `FROM … AS name` and what follows it."""

    name: str
    base: str
    instructions: list[tuple[str, str]] = field(default_factory=list)

    def all(self, instruction: str) -> list[str]:
        """Arguments of every instruction of that kind, in order."""
        return [arguments for kind, arguments in self.instructions if kind == instruction]


def stages() -> dict[str, Stage]:
    """The stages by name."""
    text = re.sub(r"^\s*#.*\n", "", PATH.read_text(encoding="utf-8"), flags=re.MULTILINE).replace("\\\n", " ")
    found: dict[str, Stage] = {}
    current: Stage | None = None
    for line in filter(None, map(str.strip, text.splitlines())):
        kind, _, arguments = line.partition(" ")
        if kind == "FROM":
            base, _, name = arguments.partition(" AS ")
            current = found[name] = Stage(name, base)
        elif current is not None:
            current.instructions.append((kind, arguments.strip()))
    return found


def lineage(name: str) -> list[Stage]:
    """A stage and those that it begins with, the first one first."""
    known = stages()
    stage = known[name]
    return [*(lineage(stage.base) if stage.base in known else []), stage]


def environment(name: str) -> dict[str, str]:
    """What the image of a stage sets."""
    pairs = (pair for stage in lineage(name) for arguments in stage.all("ENV") for pair in arguments.split())
    return {key: value for key, _, value in (pair.partition("=") for pair in pairs)}


def last(name: str, instruction: str) -> str:
    """Arguments of the instruction of that kind that counts: the last one."""
    return [arguments for stage in lineage(name) for arguments in stage.all(instruction)][-1]


def words(arguments: str) -> list[str]:
    """An argument list in JSON form, which needs no shell."""
    found: list[str] = json.loads(arguments)
    return found

"""What comes out of reading files."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from pathlib import Path

from shared.domain import DocumentInput


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file to read. `name` is its relative path with `/`, which becomes the document's id."""

    path: Path
    name: str


class Verdict(enum.Enum):
    """What a remark means.

    Something is lost (FAILED), left out on purpose (SKIPPED), left out because it is empty (EMPTY: counted, not worth a line each), or merely worth
    knowing (NOTE).
    """

    FAILED = "failed"
    SKIPPED = "skipped"
    EMPTY = "empty"
    NOTE = "note"


@dataclass(frozen=True, slots=True)
class Remark:
    """One line for people about a file or a line of a file."""

    verdict: Verdict
    subject: str
    message: str


@dataclass(frozen=True, slots=True)
class ReadDocument:
    """A document, and where it came from (`docs/a.md`, `corpus.jsonl:17`)."""

    document: DocumentInput
    origin: str


@dataclass(frozen=True, slots=True)
class FileEnd:
    """A file is done with, whatever came out of it."""

    name: str


Item = ReadDocument | Remark | FileEnd

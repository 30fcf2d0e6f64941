"""A corpus of any size that every machine has: passages of the text that is installed with Python, in an order that does not change.

Files are visited in the order of a hash of their path, so a smaller corpus is the beginning of a larger one and as varied. The corpus is kept as
JSON Lines; a fingerprint of what it holds tells whether two measurements were made of the same text.
"""

from __future__ import annotations

import hashlib
import os
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import orjson

from services.cli.bench.passages import passages
from services.cli.progress import Meter
from shared.domain import DocumentId, DocumentInput, Metadata
from shared.errors import FailedPreconditionError

BUCKETS = 10_000  # values of the field `bucket`: `bucket < n` selects n / 10,000 of the documents
_FIRST_YEAR, _YEARS = 1990, 36
_SUFFIXES = frozenset({".py", ".md", ".rst", ".txt"})
_NAMES = frozenset({"METADATA"})  # the description of an installed package
_MAX_ID_BYTES = 256  # of a document


@dataclass(frozen=True, slots=True)
class Corpus:
    """Documents in their order, and the fingerprint of exactly these."""

    documents: Sequence[DocumentInput]
    fingerprint: str


def load(path: Path, size: int) -> Corpus:
    """The first `size` documents of the corpus kept at `path`; it is made, or made anew, when it is not there or too small.

    Raises FailedPreconditionError if the installed text does not give so many.
    """
    lines = _read(path, size)
    if len(lines) < size:
        _write(path, size)
        lines = _read(path, size)
    digest = hashlib.blake2b(digest_size=8)
    for line in lines:
        digest.update(line)
    return Corpus([_decode(line) for line in lines], digest.hexdigest())


def documents() -> Iterator[DocumentInput]:
    """All there are, without two of the same text."""
    seen: set[bytes] = set()
    for path, package, module in _files():
        for number, passage in enumerate(passages(path, module)):
            digest = hashlib.blake2b(passage.text.encode(errors="replace"), digest_size=8).digest()
            identity = f"{module}#{number}"
            if digest in seen or len(identity.encode()) > _MAX_ID_BYTES:
                continue
            seen.add(digest)
            yield DocumentInput(DocumentId(identity), passage.name[:200], passage.text, _metadata(package, passage.kind, passage.line, digest))


def _metadata(package: str, kind: str, line: int, digest: bytes) -> Metadata:
    """Fields to filter by. `bucket` and `year` come from a hash of the text, so what they select is spread evenly and known beforehand."""
    number = int.from_bytes(digest, "big")
    return {"package": package, "kind": kind, "line": line, "bucket": number % BUCKETS, "year": _FIRST_YEAR + number // BUCKETS % _YEARS}


def _files() -> Iterator[tuple[Path, str, str]]:
    """Path, package and dotted name of each file, the hash of its relative path deciding the order."""
    stdlib = Path(sysconfig.get_path("stdlib"))
    installed = {Path(sysconfig.get_path(name)) for name in ("purelib", "platlib")}
    found: list[tuple[bytes, Path, str, str]] = []
    for root in (stdlib, *sorted(installed)):
        # `os.walk`, which takes a fifth of the time of `Path.rglob` for these 60,000 files.
        for folder, folders, names in os.walk(root):
            folders[:] = [name for name in folders if name != "__pycache__" and not (root == stdlib and name == "site-packages")]
            for path in (Path(folder, name) for name in names):
                if path.suffix not in _SUFFIXES and path.name not in _NAMES:
                    continue
                relative = path.relative_to(root)
                package = relative.parts[0].removesuffix(".py").split("-", 1)[0]
                module = ".".join(relative.with_suffix("").parts if path.suffix == ".py" else relative.parts).removesuffix(".__init__")
                found.append((hashlib.blake2b(relative.as_posix().encode(errors="replace"), digest_size=8).digest(), path, package, module))
    return ((path, package, module) for _, path, package, module in sorted(found))


def _read(path: Path, size: int) -> list[bytes]:
    if not path.is_file():
        return []
    with path.open("rb") as file:
        return list(islice(file, size))


def _write(path: Path, size: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file, Meter("collecting text", "documents", size) as meter:
        for document in islice(documents(), size):
            file.write(_encode(document))
            meter.advance()
        count = meter.completed
    if count < size:
        raise FailedPreconditionError(f"the text installed with this Python makes {count:,} documents, fewer than {size:,}: choose a smaller --size")
    partial.replace(path)


def _encode(document: DocumentInput) -> bytes:
    value = {"id": document.id, "title": document.title, "text": document.text, "metadata": dict(document.metadata)}
    return orjson.dumps(value, option=orjson.OPT_APPEND_NEWLINE)


def _decode(line: bytes) -> DocumentInput:
    value = orjson.loads(line)
    return DocumentInput(DocumentId(value["id"]), value["title"], value["text"], value["metadata"])

"""Labelled collections: passages, questions, and which passages answer which question.

A collection is a folder with three files, as those of BEIR (Thakur et al. 2021): `corpus.jsonl` (`_id`, `title`, `text`), `queries.jsonl`
(`_id`, `text`, and, if questions are of several kinds, `kind`), and `qrels.tsv` with a header and the columns question, passage, gain.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared.domain import DocumentId, DocumentInput
from shared.errors import InvalidArgumentError, NotFoundError

_GOLDEN_FOLDER = Path(__file__).resolve().parent
GOLDEN = _GOLDEN_FOLDER.name
CANARY = "canary"
_CORPUS, _QUERIES, _QRELS = "corpus.jsonl", "queries.jsonl", "qrels.tsv"
_PART = "canary.json"
# What the services take; collections of others may have more.
_LONGEST_TITLE = 1_000
_LONGEST_QUERY = 4_000

# Gains by passage, those above 0, for each question.
Judgements = Mapping[str, Mapping[str, int]]


@dataclass(frozen=True, slots=True)
class Topic:
    """A question. `kind` is empty where a collection has no kinds."""

    id: str
    text: str
    kind: str = ""


@dataclass(frozen=True, slots=True)
class Collection:
    """Passages, the questions that somebody judged, and the judgements."""

    name: str
    documents: tuple[DocumentInput, ...]
    topics: tuple[Topic, ...]
    judgements: Judgements

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kinds of questions, in the order of their first question; none when questions have no kind."""
        return tuple(dict.fromkeys(topic.kind for topic in self.topics if topic.kind))

    @property
    def fingerprint(self) -> str:
        """Eight hexadecimal digits that change with the passages."""
        digest = hashlib.sha256()
        for document in self.documents:
            digest.update(f"{document.id}\0{document.title}\0{document.text}\0".encode())
        return digest.hexdigest()[:8]


def golden() -> Collection:
    """The collection that comes with the project."""
    return load(_GOLDEN_FOLDER)


def canary() -> Collection:
    """40 passages of the golden set and 25 of its questions, which both legs are needed for (docs/adr/0022-search-canary.md)."""
    whole, part = golden(), json.loads((_GOLDEN_FOLDER / _PART).read_bytes())
    passages, questions = set(part["passages"]), set(part["questions"])
    return Collection(
        CANARY,
        tuple(document for document in whole.documents if document.id in passages),
        tuple(topic for topic in whole.topics if topic.id in questions),
        {topic: gains for topic, gains in whole.judgements.items() if topic in questions},
    )


def below(folder: Path) -> list[Collection]:
    """The collections in the folders below `folder`, by name. Raises NotFoundError if there are none."""
    found = [load(path) for path in sorted(folder.iterdir()) if (path / _CORPUS).is_file()] if folder.is_dir() else []
    if not found:
        raise NotFoundError(f"no collection in {folder}: it needs folders with {_CORPUS}, {_QUERIES} and {_QRELS}")
    return found


def load(folder: Path) -> Collection:
    """Reads a collection; its name is the folder's.

    Left out are passages without a word, which cannot be written, and questions for which no passage has a gain, for which no measure is defined.
    Titles and questions are cut to the length that the services take (1,000 and 4,000 characters).

    Raises InvalidArgumentError, naming the file and line, if a file is not as it should be.
    """
    judgements = _judgements(folder / _QRELS)
    documents = tuple(
        DocumentInput(DocumentId(entry["_id"]), entry.get("title", "")[:_LONGEST_TITLE], entry["text"].strip() or entry["title"], {})
        for entry in _entries(folder / _CORPUS)
        if f"{entry.get('title', '')}{entry['text']}".strip()
    )
    topics = tuple(
        Topic(entry["_id"], entry["text"][:_LONGEST_QUERY], entry.get("kind", ""))
        for entry in _entries(folder / _QUERIES)
        if entry["_id"] in judgements
    )
    return Collection(folder.name, documents, topics, judgements)


def _entries(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as lines:
        for number, text in enumerate(lines, 1):
            if not text.strip():
                continue
            try:
                entry = json.loads(text)
                entry["_id"], entry["text"]
            except (ValueError, KeyError, TypeError) as error:
                raise InvalidArgumentError(f"{path}:{number}: not a JSON object with _id and text") from error
            yield entry


def _judgements(path: Path) -> Judgements:
    gains: dict[str, dict[str, int]] = {}
    with path.open(encoding="utf-8") as lines:
        for number, text in enumerate(lines, 1):
            if number == 1 or not text.strip():
                continue
            try:
                topic, document, gain = text.split()
                if int(gain) > 0:
                    gains.setdefault(topic, {})[document] = int(gain)
            except ValueError as error:
                raise InvalidArgumentError(f"{path}:{number}: not a question, a passage and a whole number") from error
    return gains

"""What is searched for: phrases, questions and identifiers out of a corpus, none the same as another or as a document's text.

A seed makes the sequence repeatable. There is no end to it: when the simple forms are used up, phrases of two documents are joined.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence

from shared.domain import DocumentInput

_WORD = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_SENTENCE_END = re.compile(r"(?<=[.!?:])\s|\n\s*\n")
_SHORTEST, _LONGEST = 3, 8  # words of a phrase
_SIMPLE_SHARE = 0.9  # the others are joined from two documents
_TRIES = 50  # without a new one, before only joined phrases are tried


class Queries(Iterator[str]):
    """Distinct queries.

    Args:
        documents: The corpus; at least one with a few words.
        seed: The same seed gives the same queries.
    """

    def __init__(self, documents: Sequence[DocumentInput], seed: int) -> None:
        self._documents = documents
        # Choices of what to measure, not secrets.
        self._random = random.Random(seed)  # noqa: S311
        self._given = {document.text for document in documents}

    def __next__(self) -> str:
        for attempt in range(1_000_000):
            simple = attempt < _TRIES and self._random.random() < _SIMPLE_SHARE
            query = (self._simple() if simple else f"{self._phrase()} {self._phrase()}").strip()
            if query and query not in self._given:
                self._given.add(query)
                return query
        raise StopIteration

    def take(self, count: int) -> list[str]:
        """The next queries."""
        return [next(self) for _ in range(count)]

    def _simple(self) -> str:
        form = self._random.randrange(4)
        if form == 0:
            return f"how to {self._phrase().lower()}"
        if form == 1:
            return f"what does {self._identifier()} do with {self._phrase(longest=4).lower()}?"
        if form == 2:
            return f"{self._identifier()} {self._phrase(longest=3)}"
        return self._phrase()

    def _phrase(self, longest: int = _LONGEST) -> str:
        """Neighbouring words of a document's first sentence."""
        sentence = _SENTENCE_END.split(self._random.choice(self._documents).text.strip(), maxsplit=1)[0]
        words = sentence.split()[:40]
        length = min(len(words), self._random.randint(_SHORTEST, longest))
        start = self._random.randint(0, len(words) - length)
        return " ".join(words[start : start + length]).strip(".,:;")

    def _identifier(self) -> str:
        """The last part of a dotted name."""
        names = _WORD.findall(self._random.choice(self._documents).title)
        return str(names[-1]) if names else "it"

"""What is written and searched for while faults are on: small texts, each with a word of its own, and questions that no cache has seen. Pure."""

from __future__ import annotations

from shared.client import SearchMode, SearchQuery
from shared.domain import DocumentId, DocumentInput

_SUBJECTS = ("rivers", "violins", "volcanoes", "satellites", "bakeries", "glaciers", "locomotives", "butterflies")
_QUESTIONS = ("how did they come to be", "who looks after them", "what do people tell of them", "where does one find the oldest")


def word(number: int) -> str:
    """A word that only note `number` has: letters alone, with an ending that no stemmer cuts off, or it would make two of them equal."""
    return "q" + "".join(chr(ord("a") + int(digit)) for digit in str(number)) + "k"


def note(number: int) -> DocumentInput:
    """A document of one chunk."""
    subject = _SUBJECTS[number % len(_SUBJECTS)]
    text = f"Note {word(number)}: everything about {subject}, how they came to be, and who looks after them."
    return DocumentInput(note_id(number), f"About {subject}", text, {"number": number})


def note_id(number: int) -> DocumentId:
    """The id of a note."""
    return DocumentId(f"note-{number}")


def question(number: int) -> SearchQuery:
    """A hybrid search that differs from every other, so that neither answers nor embeddings come from a cache."""
    subject, rest = _SUBJECTS[number % len(_SUBJECTS)], _QUESTIONS[number // len(_SUBJECTS) % len(_QUESTIONS)]
    return SearchQuery(f"{subject}, {rest}, asked for the time {word(number)}", SearchMode.HYBRID)


def by_word(number: int) -> SearchQuery:
    """A keyword search that finds note `number` alone."""
    return SearchQuery(word(number), SearchMode.KEYWORD, top_k=1)


def by_words(number: int, unique: int) -> SearchQuery:
    """A keyword search of several words for notes of a subject, which differs from every other by a word that nothing has."""
    return SearchQuery(f"everything about {_SUBJECTS[number % len(_SUBJECTS)]} {word(unique)}", SearchMode.KEYWORD)

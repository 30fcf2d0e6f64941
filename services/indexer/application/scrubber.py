"""Reads every document of the catalog again, and says which are not what was written.

SQLite's own check, at start, finds pages whose structure is wrong. A bit that a disk turns inside a text is none of its business; but each document
was stored with the hash of its content. A document that is found damaged is reported until it has been written or deleted, and its hash is forgotten,
so that the same content is not taken for unchanged when it is written again. What cannot be read at all is counted and passed over: one bad place of
the disk keeps nothing behind it from being looked at.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import orjson

from services.indexer.application.ingest import content_hash
from services.indexer.ports import ScrubCatalog
from services.indexer.records import StoredDocument
from shared.domain import DocumentId, DocumentInput
from shared.errors import CorruptionError
from shared.observability import metrics
from shared.observability.logging import get_logger
from shared.resilience.pace import Pace

# What is in memory at a time, unless one document has more: it may have 7 MB.
_PAGE_BYTES = 4_000_000
# What a document costs beside its own bytes, so that many small ones are looked at no faster than a thousand a second.
_BYTES_A_DOCUMENT = 8_000
# Hashing a megabyte takes about 2 ms, so this is a fiftieth of a core; a gigabyte takes two minutes.
BYTES_A_SECOND = 8e6
_EXAMPLES = 5
_LAST_KEY = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Damage:
    """Documents that are not what was written.

    Attributes:
        count: How many have other content than their hash says.
        examples: Some of those, as `project/document`.
        unreadable: Documents, or places with some of them, that cannot be read.
    """

    count: int = 0
    examples: tuple[str, ...] = ()
    unreadable: int = 0

    def __add__(self, other: Damage) -> Damage:
        examples = (*self.examples, *other.examples)[:_EXAMPLES]
        return Damage(self.count + other.count, examples, self.unreadable + other.unreadable)

    @property
    def total(self) -> int:
        """All that is known to be wrong."""
        return self.count + self.unreadable


class Scrubber:
    """Looks at all documents, one after another.

    Args:
        catalog: What is looked at.
        pace: In bytes.

    Attributes:
        damage: What the last whole look has found, or the one that is under way if that has found more.
    """

    def __init__(self, catalog: ScrubCatalog, pace: Pace) -> None:
        self._catalog = catalog
        self._pace = pace
        self._log = get_logger(__name__)
        self.damage = Damage()
        # Of the look that is under way, which a failure interrupts and does not end.
        self._position = 0
        self._found = Damage()
        self._stride = 1

    async def step(self) -> bool:
        """Looks at everything, or at what was left when the last call failed. False: that is all. Raises UnavailableError, ResourceExhaustedError."""
        while await self._look_on():
            if self._found.total > self.damage.total:
                self._tell()
        self._tell()
        self._position, self._found = 0, Damage()
        return False

    async def _look_on(self) -> bool:
        """Looks at the next page; False if there is none."""
        try:
            page = await self._catalog.stored_page(self._position, _PAGE_BYTES)
        except CorruptionError as error:
            return self._skip(error)
        self._stride = 1
        if page is None:
            return False
        await self._pace.take(page.size + _BYTES_A_DOCUMENT * max(1, len(page.documents)))
        damaged = await asyncio.to_thread(_damaged, page.documents)
        if damaged:
            damaged = await self._catalog.mark_damaged(damaged)  # without those that have been written meanwhile
            names = [document.name for document in damaged]
            self._found += Damage(len(names), tuple(names[:_EXAMPLES]))
            self._log.error("documents are not what was written", examples=names[:_EXAMPLES], count=len(names))
        if page.unreadable:
            self._found += Damage(unreadable=page.unreadable)
            self._log.error("documents cannot be read", count=page.unreadable, before_key=page.position)
        self._position = page.position
        return True

    def _skip(self, error: CorruptionError) -> bool:
        """Passes over a place where it cannot even be read which documents there are, however large; False behind the last key there can be."""
        if self._stride == 1:
            self._found += Damage(unreadable=1)
            self._log.error("a place of the catalog cannot be read", behind_key=self._position, error=error.message)
        self._position += self._stride
        self._stride *= 2
        return self._position < _LAST_KEY

    def _tell(self) -> None:
        self.damage = self._found
        metrics.DAMAGED_DOCUMENTS.set(self.damage.total)


def _damaged(documents: Sequence[StoredDocument]) -> Sequence[StoredDocument]:
    return [document for document in documents if not _is_sound(document)]


def _is_sound(document: StoredDocument) -> bool:
    """Whether the content has the hash with which it was stored."""
    try:
        source = DocumentInput(
            id=DocumentId(document.id.decode()), title=document.title.decode(), text=document.text.decode(), metadata=orjson.loads(document.metadata)
        )
        return content_hash(source).encode() == document.content_hash
    except (ValueError, TypeError):  # no UTF-8, no JSON, or JSON of another kind
        return False

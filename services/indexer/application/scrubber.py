"""Reads every document of the catalog again, and says which are not what was written.

SQLite's own check, at start, finds pages whose structure is wrong. A bit that a disk turns inside a text is none of its business; but each document
was stored with the hash of its content. A document that is found damaged is reported until it has been written or deleted, and its hash is forgotten,
so that the same content is not taken for unchanged when it is written again.
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
from shared.observability import metrics
from shared.observability.logging import get_logger
from shared.resilience.pace import Pace

# A document may have 7 MB.
_DOCUMENTS_A_PAGE = 20
_EXAMPLES = 5
# A second. Reading and hashing a small document takes about 30 µs, so this is a thirtieth of a core at most.
DOCUMENTS_A_SECOND = 1_000.0


@dataclass(frozen=True, slots=True)
class Damage:
    """Documents that are not what was written: how many, and some of them as `project/document`."""

    count: int = 0
    examples: tuple[str, ...] = ()


class Scrubber:
    """Looks at all documents, one after another.

    Args:
        catalog: What is looked at.
        pace: In documents.

    Attributes:
        damage: What the last look has found.
    """

    def __init__(self, catalog: ScrubCatalog, pace: Pace) -> None:
        self._catalog = catalog
        self._pace = pace
        self._log = get_logger(__name__)
        self.damage = Damage()

    async def step(self) -> bool:
        """One look at everything. False: a look does it all. Raises CorruptionError if a page cannot be read, UnavailableError."""
        names: list[str] = []
        after = 0
        while documents := await self._catalog.stored_page(after, _DOCUMENTS_A_PAGE):
            after = documents[-1].key
            await self._pace.take(len(documents))
            damaged = await asyncio.to_thread(_damaged, documents)
            if damaged:
                await self._catalog.mark_damaged([document.key for document in damaged])
                names += [document.name for document in damaged]
                self._log.error("documents are not what was written", documents=[document.name for document in damaged])
        self.damage = Damage(len(names), tuple(names[:_EXAMPLES]))
        metrics.DAMAGED_DOCUMENTS.set(len(names))
        return False


def _damaged(documents: Sequence[StoredDocument]) -> list[StoredDocument]:
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

"""Documents into batches that fit a message. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from services.cli.ingest.items import FileEnd, Item, ReadDocument, Remark

# A service receives at most 16 MB by default. One document has at most 8 MB of UTF-8, so a batch that is closed at 4 MB stays below.
_MAX_BYTES = 4 * 1024 * 1024
_MAX_REMARKS = 1000  # so that a batch is bounded when nothing but remarks comes


@dataclass(slots=True)
class Batch:
    """Documents to send together, remarks made while they were read, and how many files were finished."""

    documents: list[ReadDocument] = field(default_factory=list)
    remarks: list[Remark] = field(default_factory=list)
    files: int = 0


def batches(items: Iterable[Item], size: int) -> Iterator[Batch]:
    """Batches of at most `size` documents, and of little more than 4 MB of text. The last one may have no documents."""
    batch, total = Batch(), 0
    for item in items:
        match item:
            case FileEnd():
                batch.files += 1
            case Remark():
                batch.remarks.append(item)
            case ReadDocument(document):
                batch.documents.append(item)
                total += len(document.text.encode(errors="replace"))
        if len(batch.documents) >= size or total >= _MAX_BYTES or len(batch.remarks) >= _MAX_REMARKS:
            yield batch
            batch, total = Batch(), 0
    if batch.documents or batch.remarks or batch.files:
        yield batch

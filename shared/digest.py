"""What the documents of a range of sequences come to, so that a copy can be compared with the catalog. Pure.

Both sides compute it: the indexer over its catalog, the query service over its replica. `change_feed.proto` says what it is made of.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from shared.domain import ChunkId, DocumentId, SequenceNumber, VectorSequence

# A walk ends with the part that brings it to this many chunks: a fifth of a second's work for either side.
MAX_CHUNKS = 200_000
# What may be asked for at a time: parts, and sequences whose documents are named.
MAX_PARTS = 1_000
MAX_NAMED_SEQUENCES = 10_000
DEFAULT_PARTS = 64
MAX_UNSENT = 10_000
_NOTHING = VectorSequence(0)

_MODULUS = 1 << 64
_CHECKSUM_BYTES = 8


@dataclass(frozen=True, slots=True)
class SequenceRange:
    """Sequences after `start` up to and including `end`."""

    start: SequenceNumber
    end: SequenceNumber

    @property
    def width(self) -> int:
        """How many sequences."""
        return self.end - self.start

    def split(self, parts: int) -> tuple[SequenceRange, ...]:
        """At most so many ranges of equal width (the last one may be shorter) that together are this one; none when it is empty."""
        width = max(1, -(-self.width // parts))
        return tuple(
            SequenceRange(SequenceNumber(start), SequenceNumber(min(start + width, self.end))) for start in range(self.start, self.end, width)
        )


@dataclass(frozen=True, slots=True)
class DocumentDigest:
    """A document: the sequence of its last change, the number of its chunks, and what it adds to a checksum."""

    id: DocumentId
    sequence: SequenceNumber
    chunk_count: int
    checksum: int


@dataclass(frozen=True, slots=True)
class Digest:
    """The documents whose last change is in a range, in sum."""

    range: SequenceRange
    document_count: int
    chunk_count: int
    checksum: int


@dataclass(frozen=True, slots=True)
class ProjectDigest:
    """Digests of ranges that follow each other, as of one moment.

    Attributes:
        epoch: incarnation of the project's feed.
        head: sequence of the last change.
        parts: in the order of the sequences.
        documents: those of the parts, in the order of their sequences, if they were asked for.
        embedded: every change up to here has its vectors; 0 where that is not known.
        unsent: chunks whose vectors the feed does not send, because they are newer than that, or cannot be embedded, if they were asked for; at most
            `MAX_UNSENT`.
    """

    epoch: str
    head: SequenceNumber
    parts: Sequence[Digest]
    documents: Sequence[DocumentDigest] = ()
    embedded: VectorSequence = _NOTHING
    unsent: Sequence[ChunkId] = ()


def document_digest(document_id: DocumentId, sequence: int, chunk_ids: Sequence[str]) -> DocumentDigest:
    """The digest of one document; `chunk_ids` in the order of the text."""
    text = "\0".join((document_id, str(sequence), *chunk_ids))
    checksum = int.from_bytes(hashlib.blake2b(text.encode()).digest()[:_CHECKSUM_BYTES], "big")
    return DocumentDigest(document_id, SequenceNumber(sequence), len(chunk_ids), checksum)


def digest(covered: SequenceRange, documents: Iterable[DocumentDigest]) -> Digest:
    """The digest of the documents of a range, in any order."""
    count = chunks = checksum = 0
    for document in documents:
        count += 1
        chunks += document.chunk_count
        checksum = (checksum + document.checksum) % _MODULUS
    return Digest(covered, count, chunks, checksum)


def documents_of(rows: Iterable[tuple[str, int, str | None]]) -> Iterator[DocumentDigest]:
    """The digests of documents from rows of (document, sequence, chunk), the chunks of a document together and in the order of the text.

    A document without chunks is one row without a chunk.
    """
    for (document_id, sequence), chunks in groupby(rows, key=lambda row: row[:2]):
        yield document_digest(DocumentId(document_id), sequence, [chunk_id for *_, chunk_id in chunks if chunk_id is not None])


def walk(
    parts: Sequence[SequenceRange], read: Callable[[SequenceRange], Iterable[DocumentDigest]], *, named: bool
) -> tuple[list[Digest], list[DocumentDigest]]:
    """The digests of ranges, up to the one that brings them to `MAX_CHUNKS`; and their documents, if these are to be named.

    Args:
        parts: ranges that follow each other.
        read: the documents of a range.
        named: the documents are wanted, too.
    """
    digests: list[Digest] = []
    documents: list[DocumentDigest] = []
    chunks = 0
    for part in parts:
        found = list(read(part))
        digests.append(digest(part, found))
        if named:
            documents += found
        chunks += digests[-1].chunk_count
        if chunks >= MAX_CHUNKS:
            break
    return digests, documents

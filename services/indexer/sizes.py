"""How large a document is on the wire and in memory, and how large one may be. Pure.

A document goes through messages of at most KB_MAX_MESSAGE_BYTES (16 MB or more) with all its chunks, and in GetDocument with its text beside
them. What could not be sent to the replicas must not be acknowledged, or it would hold up every change behind it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable

from services.indexer.records import PreparedDocument
from shared.domain import Chunk

MAX_DOCUMENT_BYTES = 7_000_000
# Tags, lengths, ordinal and offsets of a chunk.
_CHUNK_OVERHEAD = 32
# `[1,2,…]` takes 2 bytes a number as JSON and 13 as google.protobuf.Struct: the worst there is.
_STRUCT_FACTOR = 7


def metadata_bytes(metadata_json: bytes) -> int:
    """At most so many bytes does metadata take as google.protobuf.Struct."""
    return _STRUCT_FACTOR * len(metadata_json)


def message_bytes(chunks: Iterable[Chunk], metadata_json: bytes) -> int:
    """About the size of a document with its chunks in a message; not less than it is, but for its id and title."""
    return metadata_bytes(metadata_json) + sum(len(chunk.text.encode()) + len(chunk.id.encode()) + _CHUNK_OVERHEAD for chunk in chunks)


def memory_bytes(document: PreparedDocument) -> int:
    """About what a document that waits to be committed holds in memory: its text, and once more as chunks."""
    return sys.getsizeof(document.input.text) + sum(sys.getsizeof(chunk.text) for chunk in document.chunks)

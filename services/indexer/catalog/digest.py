"""SQL of digests: what a project's documents come to, for a copy to be compared with."""

from __future__ import annotations

import apsw

from services.indexer.catalog.feed import position
from services.indexer.catalog.rows import each
from services.indexer.records import ProjectKey
from shared.digest import MAX_UNSENT, ProjectDigest, SequenceRange, documents_of, walk
from shared.domain import ChunkId, SequenceNumber, VectorSequence


def digest(connection: apsw.Connection, key: ProjectKey, wanted: SequenceRange | None, parts: int, *, named: bool, unsent: bool) -> ProjectDigest:
    """The digests of a range, or of everything, cut into at most so many parts; fewer when they have many chunks (`MAX_CHUNKS`).

    100,000 chunks take a tenth of a second: no column is read that is not in a leaf, and no text.
    """
    here = position(connection, key)
    covered = wanted or SequenceRange(SequenceNumber(0), here.head)
    digests, documents = walk(
        covered.split(parts),
        lambda part: documents_of(
            (row[0], row[1], row[2])
            for row in each(
                connection,
                "SELECT document.id, document.sequence, chunk.id FROM document"
                " LEFT JOIN chunk ON chunk.document_key = document.key AND chunk.live"
                " WHERE document.project_key = ? AND document.sequence > ? AND document.sequence <= ? AND document.deleted = 0"
                " ORDER BY document.sequence, chunk.ordinal",
                (key.value, part.start, part.end),
            )
        ),
        named=named,
    )
    held_back = _unsent(connection, key, here.embedded_sequence) if unsent else []
    return ProjectDigest(here.epoch, here.head, digests, documents, here.embedded_sequence, held_back)


def _unsent(connection: apsw.Connection, key: ProjectKey, up_to: VectorSequence) -> list[ChunkId]:
    """Live chunks that have no vector, or are newer than a sequence."""
    rows = each(
        connection,
        "SELECT chunk.id FROM chunk LEFT JOIN embedding ON embedding.chunk_key = chunk.key"
        " WHERE chunk.project_key = ? AND chunk.live AND (embedding.chunk_key IS NULL OR chunk.sequence > ?) LIMIT ?",
        (key.value, up_to, MAX_UNSENT),
    )
    return [ChunkId(row[0]) for row in rows]

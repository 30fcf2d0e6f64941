"""SQL of the quarantine: chunks that cannot be embedded, or that the vector store refuses, while it takes others.

A chunk that is held is left out of the projection, so that it does not hold up its project. Trying it again gives it a new sequence, as a chunk has
that comes back to life: then the vectoriser, the projector and the change feed take it up as they do every change, and the vector reaches the
replicas, too. Its document keeps its sequence, since nothing of it has changed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import apsw

from services.indexer.catalog import clock
from services.indexer.catalog.rows import each, every, one
from services.indexer.records import Failure, ProjectKey
from shared.domain import ChunkId, DocumentId, ProjectId
from shared.quarantine import QuarantinedChunk, QuarantineStage

_IN_QUARANTINE = (
    "SELECT quarantine.key, project.id, document.id, chunk.id, chunk.ordinal, quarantine.stage, quarantine.reason, quarantine.failures,"
    " quarantine.quarantine_time FROM quarantine JOIN chunk ON chunk.key = quarantine.chunk_key JOIN document ON document.key = chunk.document_key"
    " JOIN project ON project.key = quarantine.project_key WHERE quarantine.held AND project.deleted = 0"
)


def hold(connection: apsw.Connection, key: ProjectKey, stage: QuarantineStage, failures: Iterable[Failure]) -> int:
    """Puts live chunks into quarantine, again if they were there before; returns how many."""
    held = 0
    for failure in failures:
        connection.execute(
            "INSERT INTO quarantine (chunk_key, project_key, held, stage, reason, failures, quarantine_time)"
            " SELECT key, project_key, 1, ?3, ?4, 1, ?5 FROM chunk WHERE project_key = ?1 AND id = ?2 AND live"
            " ON CONFLICT (chunk_key) DO UPDATE SET held = 1, stage = excluded.stage, reason = excluded.reason, failures = failures + 1,"
            " quarantine_time = excluded.quarantine_time",
            (key.value, failure.chunk_id, stage.value, failure.reason, clock.now()),
        )
        held += connection.changes()
    return held


def page(connection: apsw.Connection, key: ProjectKey | None, after: int, limit: int) -> tuple[list[QuarantinedChunk], int | None]:
    """Chunks in quarantine, of one project or of all, behind a place in the order in which they came there; and the next place, if there is one."""
    rows = every(
        connection,
        f"{_IN_QUARANTINE} AND quarantine.key > ?1 AND (?2 IS NULL OR quarantine.project_key = ?2) ORDER BY quarantine.key LIMIT ?3",
        (after, None if key is None else key.value, limit + 1),
    )
    more = len(rows) > limit
    found = [
        QuarantinedChunk(
            ProjectId(row[1]), DocumentId(row[2]), ChunkId(row[3]), row[4], QuarantineStage(row[5]), row[6], row[7], clock.to_datetime(row[8])
        )
        for row in rows[:limit]
    ]
    return found, rows[limit - 1][0] if more else None


def counts(connection: apsw.Connection) -> Mapping[QuarantineStage, int]:
    """How many chunks are in quarantine, by where they failed."""
    rows = each(
        connection,
        "SELECT stage, count(*) FROM quarantine JOIN project ON project.key = quarantine.project_key WHERE held AND project.deleted = 0"
        " GROUP BY stage",
    )
    return {QuarantineStage(stage): number for stage, number in rows}


def retry(connection: apsw.Connection, key: ProjectKey, chunk_ids: Sequence[ChunkId]) -> int:
    """Lets chunks, or all of the project if none are named, out of quarantine to be tried again; returns how many were in it."""
    if chunk_ids:
        keys: list[tuple[int]] = [
            row
            for chunk_id in dict.fromkeys(chunk_ids)
            for row in each(
                connection,
                "SELECT chunk_key FROM quarantine JOIN chunk ON chunk.key = chunk_key WHERE chunk.project_key = ? AND chunk.id = ? AND held",
                (key.value, chunk_id),
            )
        ]
    else:
        keys = list(each(connection, "SELECT chunk_key FROM quarantine WHERE project_key = ? AND held", (key.value,)))
    if not keys:
        return 0
    head = one(connection, "UPDATE project SET head = head + 1 WHERE key = ? RETURNING head", (key.value,))[0]
    connection.executemany("UPDATE chunk SET sequence = ? WHERE key = ?", [(head, chunk_key) for (chunk_key,) in keys])
    connection.executemany("UPDATE quarantine SET held = 0 WHERE chunk_key = ?", keys)
    return len(keys)


def try_again_in_new_collection(connection: apsw.Connection, key: ProjectKey) -> None:
    """Another collection may take what the one before has refused: a rebuild writes everything, these chunks too."""
    connection.execute("UPDATE quarantine SET held = 0 WHERE project_key = ? AND stage = ?", (key.value, QuarantineStage.VECTOR_STORE.value))


def release(connection: apsw.Connection, key: ProjectKey, up_to: int) -> int:
    """The chunks that were tried again, and whose changes up to a sequence are in the vector store, are well; returns how many."""
    connection.execute(
        "DELETE FROM quarantine WHERE project_key = ?1 AND NOT held AND (SELECT sequence FROM chunk WHERE chunk.key = quarantine.chunk_key) <= ?2",
        (key.value, up_to),
    )
    return connection.changes()

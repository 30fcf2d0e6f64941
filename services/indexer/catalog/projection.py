"""SQL of the projection: which chunks have no vector yet, which the vector store does not know of, and how far both have come."""

from __future__ import annotations

from collections.abc import Sequence

import apsw
import numpy as np

from services.indexer.catalog import quarantine
from services.indexer.catalog.projects import begin_rebuild, by_key, key_of, next_generation, set_state
from services.indexer.catalog.rows import Row, each, every, first, one
from services.indexer.catalog.salvage import readable
from services.indexer.catalog.writes import recorded_writes
from services.indexer.records import Advance, CompletedChange, Failure, LaggingProject, ProjectionPage, ProjectKey, UnembeddedChunk
from shared.domain import (
    ChunkId,
    ChunkingSettings,
    Project,
    ProjectId,
    ProjectState,
    SequenceNumber,
    TraceContext,
    Vectors,
    VectorSequence,
    collection_name,
)
from shared.observability.tracing import MAX_LINKS
from shared.quarantine import QuarantineStage

# Changes of a page that are told one by one: more than it has chunks, unless thousands of documents without any were written at once.
_COMPLETED_A_PAGE = 1_000
_PROJECT = (
    "SELECT key, id, generation, epoch, embedding_model, max_tokens, overlap_tokens, chunk_count, head, embedded_sequence, vector_sequence,"
    " (SELECT count(*) FROM quarantine WHERE quarantine.project_key = project.key AND quarantine.held) FROM project"
)


def _lagging(row: Row) -> LaggingProject:  # a row of _PROJECT
    return LaggingProject(
        key=ProjectKey(row[0]),
        id=ProjectId(row[1]),
        generation=row[2],
        epoch=row[3],
        embedding_model=row[4],
        chunking=ChunkingSettings(row[5], row[6]),
        chunk_count=row[7],
        held_count=row[11],
        head=SequenceNumber(row[8]),
        embedded_sequence=VectorSequence(row[9]),
        vector_sequence=VectorSequence(row[10]),
    )


def projects_to_embed(connection: apsw.Connection) -> list[LaggingProject]:
    """Projects with changes that are not embedded."""
    return [_lagging(row) for row in each(connection, f"{_PROJECT} WHERE deleted = 0 AND embedded_sequence < head")]


def projects_to_project(connection: apsw.Connection) -> list[LaggingProject]:
    """Projects with embedded changes that are not in the vector store."""
    return [_lagging(row) for row in each(connection, f"{_PROJECT} WHERE deleted = 0 AND vector_sequence < embedded_sequence")]


def projected_projects(connection: apsw.Connection) -> list[LaggingProject]:
    """Projects that have something in the vector store."""
    return [_lagging(row) for row in each(connection, f"{_PROJECT} WHERE deleted = 0 AND vector_sequence > 0")]


def projected_project(connection: apsw.Connection, project_id: ProjectId) -> LaggingProject:
    """One project, whether it has something in the vector store or not. Raises NotFoundError."""
    return _lagging(one(connection, f"{_PROJECT} WHERE key = ?", (key_of(connection, project_id).value,)))


def unembedded(connection: apsw.Connection, project: LaggingProject, limit: int, after: tuple[int, int]) -> list[UnembeddedChunk]:
    """Live chunks without a vector behind a position `(sequence, chunk key)`, the oldest first; those in quarantine are left out.

    Of a document that the disk has damaged comes what can be read.
    """
    rows = every(
        connection,
        "SELECT chunk.sequence, chunk.key, chunk.id, chunk.document_key, chunk.start_offset, chunk.end_offset"
        " FROM chunk LEFT JOIN embedding ON embedding.chunk_key = chunk.key"
        " WHERE chunk.project_key = ? AND (chunk.sequence, chunk.key) > (?, ?) AND chunk.live AND embedding.chunk_key IS NULL"
        " AND NOT EXISTS (SELECT 1 FROM held_chunk WHERE held_chunk.chunk_key = chunk.key) ORDER BY chunk.sequence, chunk.key LIMIT ?",
        (project.key.value, *max(after, (int(project.embedded_sequence) + 1, 0)), limit),
    )
    sources = {key: _source(connection, key) for key in {row[3] for row in rows}}
    return [
        UnembeddedChunk(sequence, key, ChunkId(chunk_id), sources[document_key][0], sources[document_key][1][start:end])
        for sequence, key, chunk_id, document_key, start, end in rows
    ]


def _source(connection: apsw.Connection, document_key: int) -> tuple[str, str]:
    """Title and text. Read as bytes, because one that is damaged must not hold up those behind it."""
    title, text = one(connection, "SELECT CAST(title AS BLOB), CAST(text AS BLOB) FROM document WHERE key = ?", (document_key,))
    return readable(title), readable(text)


def store_embeddings(
    connection: apsw.Connection, project: LaggingProject, chunk_keys: Sequence[int], vectors: Vectors, failures: Sequence[Failure] = ()
) -> VectorSequence:
    """Keeps vectors, puts what could not be embedded into quarantine, and moves the embedded sequence as far as it is complete.

    Chunks that were purged meanwhile are passed over.
    """
    quarantine.hold(connection, project.key, QuarantineStage.EMBEDDING, failures)
    rows = [(key, vector.astype("<f4").tobytes()) for key, vector in zip(chunk_keys, vectors, strict=True)]
    connection.executemany("INSERT INTO embedding (chunk_key, vector) SELECT key, ?2 FROM chunk WHERE key = ?1 ON CONFLICT DO NOTHING", rows)
    missing = first(
        connection,
        "SELECT chunk.sequence FROM chunk LEFT JOIN embedding ON embedding.chunk_key = chunk.key"
        " WHERE chunk.project_key = ? AND chunk.sequence > ? AND chunk.live AND embedding.chunk_key IS NULL"
        " AND NOT EXISTS (SELECT 1 FROM held_chunk WHERE held_chunk.chunk_key = chunk.key) ORDER BY chunk.sequence LIMIT 1",
        (project.key.value, project.embedded_sequence),
    )
    row = one(
        connection,
        "UPDATE project SET embedded_sequence = max(embedded_sequence, coalesce(?, head)) WHERE key = ? RETURNING embedded_sequence",
        (None if missing is None else missing[0] - 1, project.key.value),
    )
    return VectorSequence(row[0])


def projection_page(connection: apsw.Connection, project: LaggingProject, position: tuple[int, int], limit: int) -> ProjectionPage:
    """What comes after `position`, at most `limit` chunks, no further than the embedded sequence; chunks in quarantine are passed over."""
    rows = every(
        connection,
        "SELECT chunk.id, chunk.live, chunk.sequence, chunk.key, embedding.vector,"
        " EXISTS (SELECT 1 FROM held_chunk WHERE held_chunk.chunk_key = chunk.key)"
        " FROM chunk LEFT JOIN embedding ON embedding.chunk_key = chunk.key"
        " WHERE chunk.project_key = ? AND (chunk.sequence, chunk.key) > (?, ?) AND chunk.sequence <= ? ORDER BY chunk.sequence, chunk.key LIMIT ?",
        (project.key.value, *position, project.embedded_sequence, limit),
    )
    live = [row for row in rows if row[1] and not row[5]]
    complete = len(rows) < limit
    last = (int(rows[-1][2]), int(rows[-1][3])) if rows else position
    complete_to = SequenceNumber(project.embedded_sequence if complete else last[0] - 1)
    return ProjectionPage(
        added=[ChunkId(row[0]) for row in live],
        vectors=np.frombuffer(b"".join(row[4] for row in live), dtype="<f4").reshape(len(live), -1) if live else np.empty((0, 0), dtype=np.float32),
        removed=[ChunkId(row[0]) for row in rows if not row[1]],
        complete_to=complete_to,
        position=last,
        completed=_completed(connection, project, SequenceNumber(position[0] - 1), complete_to),
        writes=recorded_writes(connection, project, SequenceNumber(position[0] - 1), complete_to, MAX_LINKS),
    )


def _completed(connection: apsw.Connection, project: LaggingProject, after: SequenceNumber, up_to: SequenceNumber) -> list[CompletedChange]:
    """Changes of documents in `(after, up_to]`, the oldest first, without those that an earlier collection of the project had already."""
    rows = each(
        connection,
        "SELECT update_time, CAST(traceparent AS BLOB) FROM document WHERE project_key = ?1 AND sequence <= ?3"
        " AND sequence > max(?2, (SELECT rebuild_target FROM project WHERE key = ?1)) ORDER BY sequence LIMIT ?4",
        (project.key.value, after, up_to, _COMPLETED_A_PAGE),
    )
    return [CompletedChange(microseconds / 1e6, TraceContext(readable(traceparent))) for microseconds, traceparent in rows]


def advance(connection: apsw.Connection, project: LaggingProject, sequence: SequenceNumber) -> tuple[Advance, int]:
    """Every change up to `sequence` is in the vector store: says so, and drops the chunks that were only kept to be deleted there.

    Nothing of that happens if the project's collection is another one by now. The end of a rebuild is told by the project list's feed. The second
    value is how many chunks have been written with that which had been in quarantine.
    """
    row = first(
        connection,
        "SELECT vector_sequence, state, rebuild_target FROM project WHERE key = ? AND generation = ?",
        (project.key.value, project.generation),
    )
    if row is None:
        return Advance.SUPERSEDED, 0
    before, state, target = row
    connection.execute("UPDATE project SET vector_sequence = max(vector_sequence, ?) WHERE key = ?", (sequence, project.key.value))
    # Those before were dropped when the sequence was moved there: looking at them again with every page would take the longer the more there are.
    connection.execute(
        "DELETE FROM chunk WHERE project_key = ? AND sequence > ? AND sequence <= ? AND live = 0", (project.key.value, before, sequence)
    )
    released = quarantine.release(connection, project.key, sequence)
    if state == ProjectState.REBUILDING.value and sequence >= target:
        set_state(connection, project.key, ProjectState.ACTIVE)
        return Advance.REBUILT, released
    return Advance.DONE, released


def restart(connection: apsw.Connection, key: ProjectKey, generation: int) -> bool:
    """Everything is to be written to the vector store again, to a new collection, without embedding it again.

    The old collection is noted to be dropped. Returns False, and changes nothing, if the project's collection is another one than that of
    `generation` by now.
    """
    row = first(connection, "SELECT id, epoch FROM project WHERE key = ? AND generation = ? AND deleted = 0", (key.value, generation))
    if row is None:
        return False
    connection.execute("INSERT INTO superseded_collection (name) VALUES (?)", (collection_name(ProjectId(row[0]), generation, row[1]),))
    connection.execute("UPDATE project SET generation = ? WHERE key = ?", (next_generation(connection), key.value))
    begin_rebuild(connection, key)
    return True


def rebuild(connection: apsw.Connection, project_id: ProjectId, *, again: bool) -> tuple[ProjectKey, Project]:
    """Restarts a project, one that is being rebuilt only `again`; returns it as it is then. Raises NotFoundError."""
    key = key_of(connection, project_id)
    project = by_key(connection, key)
    if again or project.state is not ProjectState.REBUILDING:
        restart(connection, key, project.generation)
    return key, by_key(connection, key)

"""From the indexer's domain to messages. Pure."""

from __future__ import annotations

from services.indexer.application.ingest import Batch
from services.indexer.application.reconciler import Findings, Progress
from services.indexer.records import Written
from shared.digest import ProjectDigest
from shared.domain import (
    Chunk,
    Document,
    DocumentBatch,
    DocumentChange,
    FeedEvent,
    FeedStream,
    Heartbeat,
    Project,
    ProjectBatch,
    ProjectChange,
    ProjectState,
    Range,
    Reset,
    ResetReason,
    VectorBatch,
)
from shared.gen.knowledgebeast.common.v1 import types_pb2
from shared.gen.knowledgebeast.indexer.v1 import change_feed_pb2, indexer_pb2, maintenance_pb2, project_pb2
from shared.quarantine import QuarantinedChunk, QuarantineStage
from shared.rpc import verification
from shared.rpc.convert import struct_from_metadata, timestamp
from shared.rpc.status import item_error

_STATES = {
    ProjectState.ACTIVE: project_pb2.Project.STATE_ACTIVE,
    ProjectState.REBUILDING: project_pb2.Project.STATE_REBUILDING,
}
_REASONS = {
    ResetReason.NO_CURSOR: change_feed_pb2.Reset.REASON_NO_CURSOR,
    ResetReason.EPOCH_CHANGED: change_feed_pb2.Reset.REASON_EPOCH_CHANGED,
    ResetReason.AHEAD_OF_HEAD: change_feed_pb2.Reset.REASON_AHEAD_OF_HEAD,
    ResetReason.COMPACTED: change_feed_pb2.Reset.REASON_COMPACTED,
}
_STAGES = {
    QuarantineStage.EMBEDDING: maintenance_pb2.QuarantinedChunk.STAGE_EMBEDDING,
    QuarantineStage.VECTOR_STORE: maintenance_pb2.QuarantinedChunk.STAGE_VECTOR_STORE,
}
_STREAMS = {
    FeedStream.PROJECTS: change_feed_pb2.Reset.STREAM_PROJECTS,
    FeedStream.DOCUMENTS: change_feed_pb2.Reset.STREAM_DOCUMENTS,
    FeedStream.VECTORS: change_feed_pb2.Reset.STREAM_VECTORS,
}


def project(value: Project) -> project_pb2.Project:
    """A project."""
    return project_pb2.Project(
        id=value.id,
        display_name=value.display_name,
        description=value.description,
        labels=value.labels,
        embedding_model=value.embedding_model,
        chunking=project_pb2.ChunkingSettings(max_tokens=value.chunking.max_tokens, overlap_tokens=value.chunking.overlap_tokens),
        document_count=value.document_count,
        chunk_count=value.chunk_count,
        epoch=value.epoch,
        head_sequence=value.head,
        vector_sequence=value.vector_sequence,
        state=_STATES[value.state],
        create_time=timestamp(value.create_time),
        update_time=timestamp(value.update_time),
        etag=value.etag,
        generation=value.generation,
        keyword=project_pb2.KeywordSettings(
            language=value.keyword.language,
            stemming=value.keyword.stemming,
            stop_words=value.keyword.stop_words,
            more_stop_words=value.keyword.more_stop_words,
        ),
    )


def _chunk(value: Chunk) -> types_pb2.Chunk:
    return types_pb2.Chunk(id=value.id, ordinal=value.ordinal, text=value.text, start_offset=value.start, end_offset=value.end)


def document(value: Document) -> indexer_pb2.Document:
    """A document, with its text and chunks if it has them."""
    return indexer_pb2.Document(
        id=value.id,
        title=value.title,
        text=value.text,
        metadata=struct_from_metadata(value.metadata),
        sequence=value.sequence,
        update_time=timestamp(value.update_time),
        create_time=timestamp(value.create_time),
        chunks=[_chunk(chunk) for chunk in value.chunks],
        chunk_count=value.chunk_count,
        content_hash=value.content_hash,
    )


def results(batch: Batch, messages: list[str], first_index: int) -> list[indexer_pb2.DocumentResult]:
    """What became of the documents of a batch; `messages` are their ids as they were sent."""
    converted = []
    for offset, (document_id, outcome) in enumerate(zip(messages, batch.outcomes, strict=True)):
        result = indexer_pb2.DocumentResult(document_id=document_id, index=first_index + offset)
        if isinstance(outcome, Written):
            result.written.sequence = outcome.sequence
            result.written.unchanged = outcome.unchanged
            result.written.chunk_count = outcome.chunk_count
        else:
            result.error.CopyFrom(item_error(outcome))
        converted.append(result)
    return converted


def feed_event(event: FeedEvent) -> change_feed_pb2.WatchChangesResponse:
    """A message of the change feed."""
    match event:
        case Reset(reason, stream, epoch):
            return change_feed_pb2.WatchChangesResponse(reset=change_feed_pb2.Reset(reason=_REASONS[reason], stream=_STREAMS[stream], epoch=epoch))
        case Heartbeat(epoch, head, vector_sequence, time):
            beat = change_feed_pb2.Heartbeat(epoch=epoch, head_sequence=head, vector_sequence=vector_sequence, time=timestamp(time))
            return change_feed_pb2.WatchChangesResponse(heartbeat=beat)
        case ProjectBatch(covered, projects):
            batch = change_feed_pb2.ProjectBatch(range=_range(covered), changes=[_project_change(change) for change in projects])
            return change_feed_pb2.WatchChangesResponse(projects=batch)
        case DocumentBatch(covered, documents):
            changes = [_document_change(change) for change in documents]
            return change_feed_pb2.WatchChangesResponse(documents=change_feed_pb2.DocumentBatch(range=_range(covered), changes=changes))
        case VectorBatch(covered, chunk_ids, vectors):
            pairs = zip(chunk_ids, vectors, strict=True)
            return change_feed_pb2.WatchChangesResponse(
                vectors=change_feed_pb2.VectorBatch(
                    range=_range(covered),
                    dimension=vectors.shape[1],
                    vectors=[change_feed_pb2.ChunkVector(chunk_id=chunk_id, values=vector.astype("<f4").tobytes()) for chunk_id, vector in pairs],
                )
            )


def digest(value: ProjectDigest) -> change_feed_pb2.GetDigestResponse:
    """What a copy is compared with."""
    return change_feed_pb2.GetDigestResponse(
        epoch=value.epoch,
        head_sequence=value.head,
        parts=[
            change_feed_pb2.Digest(
                range=change_feed_pb2.SequenceRange(from_sequence=part.range.start, to_sequence=part.range.end),
                document_count=part.document_count,
                chunk_count=part.chunk_count,
                checksum=part.checksum,
            )
            for part in value.parts
        ],
        documents=[
            change_feed_pb2.DigestDocument(id=each.id, sequence=each.sequence, chunk_count=each.chunk_count, checksum=each.checksum)
            for each in value.documents
        ],
        embedded_sequence=value.embedded,
        unsent_chunk_ids=value.unsent,
    )


def verification_step(value: Progress | Findings) -> maintenance_pb2.VerifyVectorsResponse:
    """How far a comparison is, or what it has found."""
    if isinstance(value, Progress):
        progress = maintenance_pb2.VerifyProgress(compared_chunks=value.compared, total_chunks=value.total)
        return maintenance_pb2.VerifyVectorsResponse(progress=progress)
    return maintenance_pb2.VerifyVectorsResponse(
        result=maintenance_pb2.VerifyVectorsResult(
            verification=verification.encode(value.verification), orphaned_collections=value.orphans, quarantined_chunks=value.held
        )
    )


def quarantined_chunk(value: QuarantinedChunk) -> maintenance_pb2.QuarantinedChunk:
    """A chunk in quarantine."""
    return maintenance_pb2.QuarantinedChunk(
        project_id=value.project_id,
        document_id=value.document_id,
        chunk_id=value.chunk_id,
        ordinal=value.ordinal,
        stage=_STAGES[value.stage],
        reason=value.reason,
        failures=value.failures,
        quarantine_time=timestamp(value.time),
    )


def _range(value: Range) -> change_feed_pb2.Range:
    return change_feed_pb2.Range(epoch=value.epoch, from_sequence=value.start, to_sequence=value.end, head_sequence=value.head)


def _project_change(change: ProjectChange) -> change_feed_pb2.ProjectChange:
    if change.project is None:
        return change_feed_pb2.ProjectChange(sequence=change.sequence, deleted_project_id=change.project_id)
    return change_feed_pb2.ProjectChange(sequence=change.sequence, upserted=project(change.project))


def _document_change(change: DocumentChange) -> change_feed_pb2.DocumentChange:
    message = change_feed_pb2.DocumentChange(
        sequence=change.sequence,
        commit_time=timestamp(change.commit_time),
        trace=types_pb2.TraceContext(traceparent=change.trace.traceparent, tracestate=change.trace.tracestate),
    )
    if change.document is None:
        message.deleted_document_id = change.document_id
    else:
        message.upserted.CopyFrom(document(change.document))
    return message

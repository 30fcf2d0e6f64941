"""From messages to the client's types. Pure. What a newer service says beyond what is known here is kept as UNKNOWN, never refused."""

from __future__ import annotations

from google.protobuf import duration_pb2, json_format

from shared.client import types
from shared.domain import (
    Chunk,
    ChunkId,
    ChunkingSettings,
    Document,
    DocumentId,
    Project,
    ProjectId,
    ProjectState,
    SequenceNumber,
    VectorSequence,
)
from shared.errors import FieldViolation
from shared.gen.knowledgebeast.common.v1 import types_pb2
from shared.gen.knowledgebeast.indexer.v1 import indexer_pb2, project_pb2
from shared.gen.knowledgebeast.ops.v1 import status_pb2
from shared.gen.knowledgebeast.query.v1 import query_pb2
from shared.rpc.convert import metadata_from_struct, time_of

_MODES: dict[int, types.SearchMode] = {
    query_pb2.SEARCH_MODE_HYBRID: types.SearchMode.HYBRID,
    query_pb2.SEARCH_MODE_VECTOR: types.SearchMode.VECTOR,
    query_pb2.SEARCH_MODE_KEYWORD: types.SearchMode.KEYWORD,
}
_REASONS: dict[int, types.DegradationReason] = {
    query_pb2.Degradation.REASON_VECTOR_STORE_UNAVAILABLE: types.DegradationReason.VECTOR_STORE_UNAVAILABLE,
    query_pb2.Degradation.REASON_VECTOR_LEG_MISSING: types.DegradationReason.VECTOR_LEG_MISSING,
    query_pb2.Degradation.REASON_EMBEDDING_UNAVAILABLE: types.DegradationReason.EMBEDDING_UNAVAILABLE,
    query_pb2.Degradation.REASON_REPLICA_STALE: types.DegradationReason.REPLICA_STALE,
    query_pb2.Degradation.REASON_VECTORS_STALE: types.DegradationReason.VECTORS_STALE,
}
_HEALTH: dict[int, types.HealthState] = {
    status_pb2.SERVICE_STATUS_HEALTHY: types.HealthState.HEALTHY,
    status_pb2.SERVICE_STATUS_DEGRADED: types.HealthState.DEGRADED,
    status_pb2.SERVICE_STATUS_UNHEALTHY: types.HealthState.UNHEALTHY,
}


def _seconds(message: duration_pb2.Duration) -> float:
    return message.seconds + message.nanos / 1e9


def project(message: project_pb2.Project) -> Project:
    """A project."""
    rebuilding = message.state == project_pb2.Project.STATE_REBUILDING
    return Project(
        id=ProjectId(message.id),
        display_name=message.display_name,
        description=message.description,
        labels=dict(message.labels),
        embedding_model=message.embedding_model,
        chunking=ChunkingSettings(message.chunking.max_tokens, message.chunking.overlap_tokens),
        generation=message.generation,
        epoch=message.epoch,
        head=SequenceNumber(message.head_sequence),
        vector_sequence=VectorSequence(message.vector_sequence),
        document_count=message.document_count,
        chunk_count=message.chunk_count,
        state=ProjectState.REBUILDING if rebuilding else ProjectState.ACTIVE,
        create_time=time_of(message.create_time),
        update_time=time_of(message.update_time),
        etag=message.etag,
    )


def _chunk(message: types_pb2.Chunk) -> Chunk:
    return Chunk(ChunkId(message.id), message.ordinal, message.text, message.start_offset, message.end_offset)


def document(message: indexer_pb2.Document) -> Document:
    """A document; without text and chunks where the service leaves them out."""
    return Document(
        id=DocumentId(message.id),
        title=message.title,
        text=message.text,
        metadata=metadata_from_struct(message.metadata),
        chunks=tuple(map(_chunk, message.chunks)),
        chunk_count=message.chunk_count,
        content_hash=message.content_hash,
        sequence=SequenceNumber(message.sequence),
        create_time=time_of(message.create_time),
        update_time=time_of(message.update_time),
    )


def item_error(message: types_pb2.ItemError) -> types.ItemError:
    """Why one item failed."""
    violations = tuple(FieldViolation(violation.field, violation.description) for violation in message.violations)
    return types.ItemError(message.code, message.reason, message.message, violations)


def document_result(message: indexer_pb2.DocumentResult) -> types.DocumentResult:
    """What became of one document."""
    identity = DocumentId(message.document_id)
    if message.HasField("error"):
        return types.DocumentResult(identity, message.index, error=item_error(message.error))
    receipt = message.written
    return types.DocumentResult(identity, message.index, SequenceNumber(receipt.sequence), receipt.unchanged, receipt.chunk_count)


def _leg(message: query_pb2.LegScore) -> types.LegScore:
    return types.LegScore(message.rank, message.score)


def _hit(message: query_pb2.Hit) -> types.SearchHit:
    return types.SearchHit(
        document_id=DocumentId(message.document_id),
        chunk=_chunk(message.chunk),
        title=message.title,
        metadata=metadata_from_struct(message.metadata),
        score=message.score,
        vector=_leg(message.vector) if message.HasField("vector") else None,
        keyword=_leg(message.keyword) if message.HasField("keyword") else None,
    )


def _degradation(message: query_pb2.Degradation) -> types.Degradation:
    reason = _REASONS.get(message.reason, types.DegradationReason.UNKNOWN)
    return types.Degradation(reason, message.component, message.message, time_of(message.since) if message.HasField("since") else None)


def search_result(message: query_pb2.SearchResponse) -> types.SearchResult:
    """The answer to a search."""
    fresh, spent = message.freshness, message.timings
    return types.SearchResult(
        hits=tuple(map(_hit, message.hits)),
        mode=_MODES.get(message.mode, types.SearchMode.HYBRID),
        degraded=message.degraded_mode,
        degradations=tuple(map(_degradation, message.degradations)),
        freshness=types.Freshness(
            epoch=fresh.epoch,
            sequence=SequenceNumber(fresh.sequence),
            vector_sequence=VectorSequence(fresh.vector_sequence),
            head=SequenceNumber(fresh.head_sequence),
            contact_time=time_of(fresh.contact_time) if fresh.HasField("contact_time") else None,
        ),
        timings=types.Timings(
            total=_seconds(spent.total),
            wait=_seconds(spent.wait),
            embed=_seconds(spent.embed),
            vector=_seconds(spent.vector),
            keyword=_seconds(spent.keyword),
            assemble=_seconds(spent.assemble),
        ),
    )


def _component(message: status_pb2.ComponentStatus) -> types.ComponentState:
    return types.ComponentState(
        name=message.name,
        state=_HEALTH.get(message.status, types.HealthState.UNKNOWN),
        message=message.message,
        check_time=time_of(message.check_time) if message.HasField("check_time") else None,
        details=json_format.MessageToDict(message.details),
    )


def service_state(message: status_pb2.GetStatusResponse) -> types.ServiceState:
    """What a service says of itself."""
    return types.ServiceState(
        service=message.service,
        version=message.version,
        state=_HEALTH.get(message.status, types.HealthState.UNKNOWN),
        components=tuple(map(_component, message.components)),
        time=time_of(message.time) if message.HasField("time") else None,
        start_time=time_of(message.start_time) if message.HasField("start_time") else None,
    )

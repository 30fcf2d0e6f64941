"""From messages to projects, documents and chunks, for every consumer of the indexer: the client and the change feed's follower. Pure."""

from __future__ import annotations

from shared.domain import (
    Chunk,
    ChunkId,
    ChunkingSettings,
    Document,
    DocumentId,
    KeywordSettings,
    Project,
    ProjectId,
    ProjectState,
    SequenceNumber,
    VectorSequence,
)
from shared.gen.knowledgebeast.common.v1 import types_pb2
from shared.gen.knowledgebeast.indexer.v1 import indexer_pb2, project_pb2
from shared.rpc.convert import metadata_from_struct, time_of


def project(message: project_pb2.Project) -> Project:
    """A project."""
    # A state that this version does not know is one in which reads and writes are served.
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
        keyword=_keyword(message.keyword),
    )


def _keyword(message: project_pb2.KeywordSettings) -> KeywordSettings:
    """What an older indexer does not send has its default."""
    defaults = KeywordSettings()
    return KeywordSettings(
        message.language or defaults.language,
        stemming=message.stemming if message.HasField("stemming") else defaults.stemming,
        stop_words=message.stop_words if message.HasField("stop_words") else defaults.stop_words,
        more_stop_words=tuple(message.more_stop_words),
    )


def chunk(message: types_pb2.Chunk) -> Chunk:
    """A chunk."""
    return Chunk(ChunkId(message.id), message.ordinal, message.text, message.start_offset, message.end_offset)


def document(message: indexer_pb2.Document) -> Document:
    """A document; without text and chunks where the service leaves them out. Raises InvalidArgumentError for metadata of a kind that there is not."""
    return Document(
        id=DocumentId(message.id),
        title=message.title,
        text=message.text,
        metadata=metadata_from_struct(message.metadata),
        chunks=tuple(map(chunk, message.chunks)),
        chunk_count=message.chunk_count,
        content_hash=message.content_hash,
        sequence=SequenceNumber(message.sequence),
        create_time=time_of(message.create_time),
        update_time=time_of(message.update_time),
    )

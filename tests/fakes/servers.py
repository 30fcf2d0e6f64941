"""Both services in memory behind real gRPC servers on loopback ports, for tests of clients.

Keyword search is "shares a word"; there are no vectors, and documents are similar when they share a word, too. Of the features of searching,
pages, snippets, explanations and grouping work; others are accepted and leave the answer as it is. Threads, not asyncio, so that synchronous
tests can run an event loop of their own.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any, Literal, NoReturn

import grpc
from google.protobuf import timestamp_pb2

from shared.errors import AlreadyExistsError, ConflictError, InvalidArgumentError, KnowledgeBeastError, NotFoundError
from shared.filters import compile_filter
from shared.gen.knowledgebeast.common.v1 import types_pb2, verification_pb2
from shared.gen.knowledgebeast.indexer.v1 import (
    indexer_pb2,
    indexer_pb2_grpc,
    maintenance_pb2,
    maintenance_pb2_grpc,
    project_pb2,
    project_pb2_grpc,
)
from shared.gen.knowledgebeast.ops.v1 import logging_pb2, logging_pb2_grpc, status_pb2, status_pb2_grpc
from shared.gen.knowledgebeast.query.v1 import query_pb2, query_pb2_grpc, replica_pb2, replica_pb2_grpc
from shared.rpc.convert import metadata_from_struct
from shared.rpc.convert_filter import filter_from_proto
from shared.rpc.status import item_error, to_status

_NOW = timestamp_pb2.Timestamp(seconds=1_750_000_000)
REFUSED = "refuse me"  # a document whose text is this is refused


def _abort(context: grpc.ServicerContext, error: KnowledgeBeastError) -> NoReturn:
    status = to_status(error)
    context.set_trailing_metadata(status.trailing_metadata)
    context.abort(status.code, status.message)
    raise AssertionError("abort raises")


class _State:
    """What both services share."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.projects: dict[str, project_pb2.Project] = {}
        self.documents: dict[str, dict[str, indexer_pb2.Document]] = {}
        self.degradations: list[query_pb2.Degradation] = []
        self.answer: query_pb2.SearchResponse | None = None  # of every search, if set
        self.page_tokens_are_stale = False
        self.status = status_pb2.SERVICE_STATUS_HEALTHY
        self.vectors_behind = 0
        self.page = 2
        self.requests: list[Any] = []
        self.acknowledge = threading.Event()
        self.acknowledge.set()
        self.fail_after: int | None = None
        self.began = threading.Event()
        self.ended = threading.Event()
        self.batches = 0
        self.quarantined: list[maintenance_pb2.QuarantinedChunk] = []
        self.verified = maintenance_pb2.VerifyVectorsResult()  # of every project, with its id
        self.replica_verified = verification_pb2.Verification()  # same

    def project(self, identity: str, context: grpc.ServicerContext) -> project_pb2.Project:
        with self.lock:
            if (found := self.projects.get(identity)) is not None:
                return found
        _abort(context, NotFoundError(f"there is no project {identity}"))

    def write(self, project: project_pb2.Project, document: indexer_pb2.DocumentInput, index: int) -> indexer_pb2.DocumentResult:
        if document.text == REFUSED:
            error = InvalidArgumentError.of(f"documents[{index}].text", "is refused by this fake")
            return indexer_pb2.DocumentResult(document_id=document.id, index=index, error=item_error(error))
        with self.lock:
            documents = self.documents[project.id]
            old = documents.get(document.id)
            content = repr((document.title, document.text, sorted(document.metadata.items())))
            if old is not None and old.content_hash == content:
                receipt = indexer_pb2.WriteReceipt(sequence=old.sequence, unchanged=True, chunk_count=1)
                return indexer_pb2.DocumentResult(document_id=document.id, index=index, written=receipt)
            project.head_sequence += 1
            project.vector_sequence = max(0, project.head_sequence - self.vectors_behind)
            chunk = types_pb2.Chunk(id=f"{document.id}#0", text=document.text, end_offset=len(document.text))
            documents[document.id] = indexer_pb2.Document(
                id=document.id,
                title=document.title,
                text=document.text,
                metadata=document.metadata,
                sequence=project.head_sequence,
                update_time=_NOW,
                create_time=_NOW,
                chunks=[chunk],
                chunk_count=1,
                content_hash=content,
            )
            project.document_count = project.chunk_count = len(documents)
            receipt = indexer_pb2.WriteReceipt(sequence=project.head_sequence, chunk_count=1)
            return indexer_pb2.DocumentResult(document_id=document.id, index=index, written=receipt)


def _token(project: project_pb2.Project) -> str:
    return f"{project.epoch}:{project.head_sequence}"


class _Projects(project_pb2_grpc.ProjectServiceServicer):
    def __init__(self, state: _State) -> None:
        self._state = state

    def CreateProject(self, request: project_pb2.CreateProjectRequest, context: grpc.ServicerContext) -> project_pb2.CreateProjectResponse:
        project = project_pb2.Project()
        project.CopyFrom(request.project)
        project.embedding_model = project.embedding_model or "fake-model"
        project.state, project.epoch, project.etag, project.generation = project_pb2.Project.STATE_ACTIVE, "epoch", "1", 1
        project.create_time.CopyFrom(_NOW)
        project.update_time.CopyFrom(_NOW)
        with self._state.lock:
            self._state.requests.append(request)
            if project.id not in self._state.projects:
                self._state.projects[project.id] = project
                self._state.documents[project.id] = {}
                return project_pb2.CreateProjectResponse(project=project)
        _abort(context, AlreadyExistsError(f"there is a project {project.id} already"))

    def GetProject(self, request: project_pb2.GetProjectRequest, context: grpc.ServicerContext) -> project_pb2.GetProjectResponse:
        project = self._state.project(request.project_id, context)
        answer = project_pb2.GetProjectResponse(project=project)
        with self._state.lock:  # the vectors come closer with each look
            project.vector_sequence = min(project.head_sequence, project.vector_sequence + 1)
            if project.vector_sequence == project.head_sequence:
                project.state = project_pb2.Project.STATE_ACTIVE
        return answer

    def ListProjects(self, request: project_pb2.ListProjectsRequest, context: grpc.ServicerContext) -> project_pb2.ListProjectsResponse:
        with self._state.lock:
            names = sorted(self._state.projects)
            start = int(request.page_token or 0)
            end = start + self._state.page
            page = [self._state.projects[name] for name in names[start:end]]
            return project_pb2.ListProjectsResponse(projects=page, next_page_token=str(end) if end < len(names) else "")

    def UpdateProject(self, request: project_pb2.UpdateProjectRequest, context: grpc.ServicerContext) -> project_pb2.UpdateProjectResponse:
        project = self._state.project(request.project.id, context)
        if request.project.etag and request.project.etag != project.etag:
            _abort(context, ConflictError("the etag is stale"))
        masked = project_pb2.Project()
        request.update_mask.MergeMessage(request.project, masked, True, True)
        with self._state.lock:
            if "labels" in request.update_mask.paths:
                project.ClearField("labels")
            request.update_mask.MergeMessage(request.project, project, True, True)
            project.etag = str(int(project.etag) + 1)
        return project_pb2.UpdateProjectResponse(project=project)

    def DeleteProject(self, request: project_pb2.DeleteProjectRequest, context: grpc.ServicerContext) -> project_pb2.DeleteProjectResponse:
        self._state.project(request.project_id, context)
        with self._state.lock:
            del self._state.projects[request.project_id]
            return project_pb2.DeleteProjectResponse(deleted_documents=len(self._state.documents.pop(request.project_id)))

    def RebuildVectors(self, request: project_pb2.RebuildVectorsRequest, context: grpc.ServicerContext) -> project_pb2.RebuildVectorsResponse:
        project = self._state.project(request.project_id, context)
        with self._state.lock:
            self._state.requests.append(request)
            project.vector_sequence, project.state = 0, project_pb2.Project.STATE_REBUILDING
            return project_pb2.RebuildVectorsResponse(project=project)


class _Documents(indexer_pb2_grpc.IndexerServiceServicer):
    def __init__(self, state: _State) -> None:
        self._state = state

    def UpsertDocuments(self, request: indexer_pb2.UpsertDocumentsRequest, context: grpc.ServicerContext) -> indexer_pb2.UpsertDocumentsResponse:
        project = self._state.project(request.project_id, context)
        self._state.requests.append(request)
        results = [self._state.write(project, document, index) for index, document in enumerate(request.documents)]
        return indexer_pb2.UpsertDocumentsResponse(results=results, consistency_token=_token(project))

    def IngestDocuments(
        self, requests: Iterator[indexer_pb2.IngestDocumentsRequest], context: grpc.ServicerContext
    ) -> Iterator[indexer_pb2.IngestDocumentsResponse]:
        context.add_callback(self._state.ended.set)
        index = 0
        for request in requests:
            project = self._state.project(request.project_id, context)
            self._state.batches += 1
            self._state.began.set()
            while not self._state.acknowledge.wait(0.01):
                if not context.is_active():
                    return
            if self._state.fail_after is not None and self._state.batches > self._state.fail_after:
                context.abort(grpc.StatusCode.UNAVAILABLE, "Socket closed")
            for document in request.documents:  # a message a document: a client must not count on one a batch
                result = self._state.write(project, document, index)
                index += 1
                yield indexer_pb2.IngestDocumentsResponse(results=[result], consistency_token=_token(project))

    def GetDocument(self, request: indexer_pb2.GetDocumentRequest, context: grpc.ServicerContext) -> indexer_pb2.GetDocumentResponse:
        self._state.project(request.project_id, context)
        document = self._state.documents[request.project_id].get(request.document_id)
        if document is None:
            _abort(context, NotFoundError(f"there is no document {request.document_id}"))
        return indexer_pb2.GetDocumentResponse(document=document)

    def ListDocuments(self, request: indexer_pb2.ListDocumentsRequest, context: grpc.ServicerContext) -> indexer_pb2.ListDocumentsResponse:
        self._state.project(request.project_id, context)
        found = self._matching(request.project_id, request)
        start = int(request.page_token or 0)
        end = start + self._state.page
        return indexer_pb2.ListDocumentsResponse(documents=found[start:end], next_page_token=str(end) if end < len(found) else "")

    def DeleteDocuments(self, request: indexer_pb2.DeleteDocumentsRequest, context: grpc.ServicerContext) -> indexer_pb2.DeleteDocumentsResponse:
        project = self._state.project(request.project_id, context)
        documents = self._state.documents[request.project_id]
        chosen = [document.id for document in self._matching(request.project_id, request)] if request.HasField("filter") else request.document_ids
        count = sum(documents.pop(identity, None) is not None for identity in chosen)
        project.head_sequence += count
        return indexer_pb2.DeleteDocumentsResponse(deleted_count=count, consistency_token=_token(project))

    def _matching(self, project: str, request: indexer_pb2.ListDocumentsRequest | indexer_pb2.DeleteDocumentsRequest) -> list[indexer_pb2.Document]:
        documents = [document for _, document in sorted(self._state.documents[project].items())]
        if not request.HasField("filter"):
            return documents
        matches = compile_filter(filter_from_proto(request.filter))
        return [document for document in documents if matches(metadata_from_struct(document.metadata))]


class _Searches(query_pb2_grpc.QueryServiceServicer):
    def __init__(self, state: _State) -> None:
        self._state = state

    def Search(self, request: query_pb2.SearchRequest, context: grpc.ServicerContext) -> query_pb2.SearchResponse:
        try:
            return self._answer(request)
        except KnowledgeBeastError as error:
            _abort(context, error)

    def BatchSearch(self, request: query_pb2.BatchSearchRequest, context: grpc.ServicerContext) -> Iterator[query_pb2.BatchSearchResponse]:
        for index, search in reversed(list(enumerate(request.searches))):
            try:
                yield query_pb2.BatchSearchResponse(index=index, response=self._answer(search))
            except KnowledgeBeastError as error:
                yield query_pb2.BatchSearchResponse(index=index, error=item_error(error))

    def FindSimilar(self, request: query_pb2.FindSimilarRequest, context: grpc.ServicerContext) -> query_pb2.FindSimilarResponse:
        self._state.requests.append(request)
        self._state.project(request.project_id, context)
        document = self._state.documents[request.project_id].get(request.document_id)
        if document is None:
            _abort(context, NotFoundError(f"there is no document {request.document_id}", reason="DOCUMENT_NOT_FOUND"))
        hits = [hit for hit in self._hits(request, document.text, "vector") if hit.document_id != document.id]
        head = self._state.projects[request.project_id].head_sequence
        response = query_pb2.FindSimilarResponse(
            hits=hits[: request.top_k or 10],
            degraded_mode=bool(self._state.degradations),
            degradations=self._state.degradations,
            freshness=query_pb2.Freshness(epoch="epoch", sequence=head, vector_sequence=head, head_sequence=head, contact_time=_NOW),
        )
        response.timings.total.FromMicroseconds(1500)
        return response

    def _answer(self, request: query_pb2.SearchRequest) -> query_pb2.SearchResponse:
        self._state.requests.append(request)
        if not request.query:
            raise InvalidArgumentError.of("query", "must have 1 to 4,000 characters")
        if request.project_id not in self._state.projects:
            raise NotFoundError(f"there is no project {request.project_id}")
        if request.page_token and self._state.page_tokens_are_stale:
            raise ConflictError("the project has changed since the page before", reason="PAGE_TOKEN_STALE")
        if self._state.answer is not None:
            return self._state.answer
        hits = self._hits(request, request.query, "keyword")
        for hit in hits:
            if request.HasField("snippets"):
                hit.snippets.append(_snippet(hit.chunk.text, request.query))
            if request.explain:
                leg = query_pb2.LegContribution(rank=1, score=hit.score, normalized_score=hit.score, weight=1.0, contribution=hit.score)
                hit.explanation.CopyFrom(query_pb2.Explanation(keyword=leg, fused_score=hit.score, formula=f"1 * {hit.score:g} = {hit.score:g}"))
            if request.HasField("grouping"):
                other = query_pb2.GroupedChunk(chunk=hit.chunk, score=hit.score, keyword=hit.keyword)
                hit.more_chunks.extend([other] * request.grouping.more_chunks)
        start = int(request.page_token or 0)
        end = start + (request.top_k or 10)
        head = self._state.projects[request.project_id].head_sequence
        response = query_pb2.SearchResponse(
            hits=hits[start:end],
            next_page_token=str(end) if end < len(hits) else "",
            mode=request.mode or query_pb2.SEARCH_MODE_HYBRID,
            degraded_mode=bool(self._state.degradations),
            degradations=self._state.degradations,
            freshness=query_pb2.Freshness(epoch="epoch", sequence=head, vector_sequence=head, head_sequence=head, contact_time=_NOW),
        )
        response.timings.total.FromMicroseconds(2500)
        response.timings.keyword.FromMicroseconds(1200)
        return response

    def _hits(
        self, request: query_pb2.SearchRequest | query_pb2.FindSimilarRequest, text: str, leg: Literal["vector", "keyword"]
    ) -> list[query_pb2.Hit]:
        """The documents that match the filter and share words with a text, most words first."""
        matches = compile_filter(filter_from_proto(request.filter)) if request.HasField("filter") else None
        words = set(text.casefold().split())
        hits = []
        for document in self._state.documents[request.project_id].values():
            common = words & set(document.text.casefold().split())
            if common and (matches is None or matches(metadata_from_struct(document.metadata))):
                score = float(len(common))
                hit = query_pb2.Hit(document_id=document.id, chunk=document.chunks[0], title=document.title, metadata=document.metadata, score=score)
                getattr(hit, leg).CopyFrom(query_pb2.LegScore(rank=1, score=score))
                hits.append(hit)
        return sorted(hits, key=lambda hit: (-hit.score, hit.chunk.id))


def _snippet(text: str, query: str) -> query_pb2.Snippet:
    """The whole text, with the words of the query marked."""
    words = {word.casefold() for word in query.split()}
    matches = [
        query_pb2.TextRange(start_offset=found.start(), end_offset=found.end()) for found in re.finditer(r"\S+", text) if found[0].casefold() in words
    ]
    return query_pb2.Snippet(text=text, start_offset=0, end_offset=len(text), matches=matches)


class _Maintenance(maintenance_pb2_grpc.MaintenanceServiceServicer):
    def __init__(self, state: _State) -> None:
        self._state = state

    def VerifyVectors(
        self, request: maintenance_pb2.VerifyVectorsRequest, context: grpc.ServicerContext
    ) -> Iterator[maintenance_pb2.VerifyVectorsResponse]:
        project = self._state.project(request.project_id, context)
        self._state.requests.append(request)
        result = maintenance_pb2.VerifyVectorsResult()
        result.CopyFrom(self._state.verified)
        result.verification.project_id = request.project_id
        result.verification.repaired = request.repair and bool(result.verification.differences)
        progress = maintenance_pb2.VerifyProgress(compared_chunks=project.chunk_count, total_chunks=project.chunk_count)
        yield maintenance_pb2.VerifyVectorsResponse(progress=progress)
        yield maintenance_pb2.VerifyVectorsResponse(result=result)

    def ListQuarantinedChunks(
        self, request: maintenance_pb2.ListQuarantinedChunksRequest, context: grpc.ServicerContext
    ) -> maintenance_pb2.ListQuarantinedChunksResponse:
        found = [chunk for chunk in self._state.quarantined if request.project_id in {"", chunk.project_id}]
        start = int(request.page_token or 0)
        end = start + self._state.page
        return maintenance_pb2.ListQuarantinedChunksResponse(chunks=found[start:end], next_page_token=str(end) if end < len(found) else "")

    def RetryQuarantinedChunks(
        self, request: maintenance_pb2.RetryQuarantinedChunksRequest, context: grpc.ServicerContext
    ) -> maintenance_pb2.RetryQuarantinedChunksResponse:
        self._state.project(request.project_id, context)
        kept = [chunk for chunk in self._state.quarantined if request.chunk_ids and chunk.chunk_id not in request.chunk_ids]
        retried = len(self._state.quarantined) - len(kept)
        self._state.quarantined = kept
        return maintenance_pb2.RetryQuarantinedChunksResponse(retried_count=retried)


class _Replica(replica_pb2_grpc.ReplicaServiceServicer):
    def __init__(self, state: _State) -> None:
        self._state = state

    def VerifyReplica(self, request: replica_pb2.VerifyReplicaRequest, context: grpc.ServicerContext) -> replica_pb2.VerifyReplicaResponse:
        self._state.project(request.project_id, context)
        response = replica_pb2.VerifyReplicaResponse(replica="query-1", verification=self._state.replica_verified)
        response.verification.project_id = request.project_id
        response.verification.repaired = request.repair and bool(response.verification.differences)
        return response


class _Status(status_pb2_grpc.StatusServiceServicer):
    def __init__(self, name: str, state: _State) -> None:
        self._name = name
        self._state = state

    def GetStatus(self, request: status_pb2.GetStatusRequest, context: grpc.ServicerContext) -> status_pb2.GetStatusResponse:
        component = status_pb2.ComponentStatus(name="chromadb", status=self._state.status, check_time=_NOW)
        component.details.update({"latency_ms": 5})
        return status_pb2.GetStatusResponse(
            service=self._name, version="0.1.0", status=self._state.status, components=[component], time=_NOW, start_time=_NOW
        )


class _Logging(logging_pb2_grpc.LoggingServiceServicer):
    """Settings say info for everything and error for `quiet`."""

    _CONFIGURED = {"root": logging_pb2.LOG_LEVEL_INFO, "quiet": logging_pb2.LOG_LEVEL_ERROR}  # noqa: RUF012 - never written to

    def __init__(self) -> None:
        self._levels = dict(self._CONFIGURED)

    def GetLogLevels(self, request: logging_pb2.GetLogLevelsRequest, context: grpc.ServicerContext) -> logging_pb2.GetLogLevelsResponse:
        return logging_pb2.GetLogLevelsResponse(levels=self._all())

    def SetLogLevel(self, request: logging_pb2.SetLogLevelRequest, context: grpc.ServicerContext) -> logging_pb2.SetLogLevelResponse:
        if " " in request.logger:
            _abort(context, InvalidArgumentError.of("logger", "must be the name of a logger"))
        level = request.level or self._CONFIGURED.get(request.logger)
        if level is None:
            self._levels.pop(request.logger, None)
        else:
            self._levels[request.logger] = level
        return logging_pb2.SetLogLevelResponse(levels=self._all())

    def _all(self) -> list[logging_pb2.LoggerLevel]:
        return [
            logging_pb2.LoggerLevel(logger=name, level=level, changed=level != self._CONFIGURED.get(name)) for name, level in self._levels.items()
        ]


class FakeServices:
    """Running servers; a context manager.

    Attributes:
        state: What the services know; a test may set its attributes, for example `degradations`, and read the `requests` that came.
        indexer: Address of the indexer.
        query: Address of the query service.
    """

    def __init__(self) -> None:
        self.state = _State()
        self.indexer, self._indexer_server = self._serve(
            lambda server: project_pb2_grpc.add_ProjectServiceServicer_to_server(_Projects(self.state), server),
            lambda server: indexer_pb2_grpc.add_IndexerServiceServicer_to_server(_Documents(self.state), server),
            lambda server: maintenance_pb2_grpc.add_MaintenanceServiceServicer_to_server(_Maintenance(self.state), server),
            lambda server: status_pb2_grpc.add_StatusServiceServicer_to_server(_Status("indexer", self.state), server),
            lambda server: logging_pb2_grpc.add_LoggingServiceServicer_to_server(_Logging(), server),
        )
        self.query, self._query_server = self._serve(
            lambda server: query_pb2_grpc.add_QueryServiceServicer_to_server(_Searches(self.state), server),
            lambda server: replica_pb2_grpc.add_ReplicaServiceServicer_to_server(_Replica(self.state), server),
            lambda server: status_pb2_grpc.add_StatusServiceServicer_to_server(_Status("query", self.state), server),
            lambda server: logging_pb2_grpc.add_LoggingServiceServicer_to_server(_Logging(), server),
        )

    def stop_indexer(self) -> None:
        """Stops the indexer; its port refuses connections from then on."""
        self._indexer_server.stop(None).wait()

    def stop(self) -> None:
        """Stops both."""
        self.state.acknowledge.set()
        self._indexer_server.stop(None).wait()
        self._query_server.stop(None).wait()

    @staticmethod
    def _serve(*additions: Callable[[grpc.Server], None]) -> tuple[str, grpc.Server]:
        server = grpc.server(futures.ThreadPoolExecutor(max_workers=8), options=(("grpc.so_reuseport", 0),))
        for add in additions:
            add(server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        return f"127.0.0.1:{port}", server

    def __enter__(self) -> FakeServices:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

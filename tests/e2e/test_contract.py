"""What the services answer to requests that are wrong: INVALID_ARGUMENT with the fields at fault, never INTERNAL, never a stack trace."""

from __future__ import annotations

import math
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf import struct_pb2
from google.rpc import error_details_pb2  # type: ignore[import-untyped] # its .pyi files are not marked as typed
from grpc_status import rpc_status

from services.cli.stack.stack import Stack
from shared import consistency
from shared.domain import Cursor, ProjectId, SequenceNumber
from shared.gen.knowledgebeast.common.v1 import filter_pb2
from shared.gen.knowledgebeast.indexer.v1 import change_feed_pb2, change_feed_pb2_grpc, indexer_pb2, indexer_pb2_grpc, project_pb2, project_pb2_grpc
from shared.gen.knowledgebeast.query.v1 import query_pb2, query_pb2_grpc
from shared.rpc.channel import create_channel

PROJECT = "contract"
Search = query_pb2.SearchRequest
OTHER_TOKEN = consistency.encode(ProjectId("other"), Cursor("e", SequenceNumber(1)))


@dataclass(frozen=True)
class Services:
    """Stubs of every service of the shared stack."""

    projects: Any
    indexer: Any
    feed: Any
    query: Any


@pytest.fixture
async def services(stack: Stack) -> AsyncIterator[Services]:
    """Stubs, and a project to be wrong about."""
    indexer = create_channel(stack.indexer_address, max_message_bytes=32 * 1024 * 1024)
    query = create_channel(stack.query_address, max_message_bytes=32 * 1024 * 1024)
    opened = Services(
        project_pb2_grpc.ProjectServiceStub(indexer),
        indexer_pb2_grpc.IndexerServiceStub(indexer),
        change_feed_pb2_grpc.ChangeFeedServiceStub(indexer),
        query_pb2_grpc.QueryServiceStub(query),
    )
    try:
        await opened.projects.CreateProject(project_pb2.CreateProjectRequest(project=project_pb2.Project(id=PROJECT)), timeout=10)
    except grpc.aio.AioRpcError as error:
        assert error.code() is grpc.StatusCode.ALREADY_EXISTS  # noqa: PT017 - the project stays for all tests of this file
    yield opened
    await indexer.close()
    await query.close()


def violations(error: grpc.aio.AioRpcError) -> list[str]:
    """The fields that an INVALID_ARGUMENT names."""
    status = rpc_status.from_call(error)  # type: ignore[arg-type] # AioRpcError has the three methods that it calls
    assert status is not None
    for detail in status.details:
        bad = error_details_pb2.BadRequest()
        if detail.Unpack(bad):
            return [violation.field for violation in bad.field_violations]
    return []


async def refused(call: Any) -> grpc.aio.AioRpcError:  # noqa: ANN401 - gRPC's call objects
    """The error of a call that must fail; it shows nothing of the inside."""
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call
    error = raised.value
    assert "Traceback" not in (error.details() or "")
    assert "/" not in (error.details() or "").replace("and/or", ""), "no paths"
    return error


def comparison(
    value: struct_pb2.Value, operator: filter_pb2.Comparison.Operator.ValueType = filter_pb2.Comparison.OPERATOR_EQUAL
) -> filter_pb2.Filter:
    """A filter `year operator value`."""
    return filter_pb2.Filter(comparison=filter_pb2.Comparison(field="year", operator=operator, value=value))


def nested(depth: int) -> filter_pb2.Filter:
    """A filter of so many levels."""
    inner = comparison(struct_pb2.Value(number_value=1))
    for _ in range(depth):
        inner = filter_pb2.Filter(negation=inner)
    return inner


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        pytest.param(Search(project_id=PROJECT, query=""), "query", id="empty query"),
        pytest.param(Search(project_id=PROJECT, query="  \n\t"), "query", id="blank query"),
        pytest.param(Search(project_id=PROJECT, query="x" * 4_001), "query", id="long query"),
        pytest.param(Search(project_id="", query="x"), "project_id", id="no project"),
        pytest.param(Search(project_id=PROJECT, query="x", top_k=0), "top_k", id="top_k 0"),
        pytest.param(Search(project_id=PROJECT, query="x", top_k=-1), "top_k", id="top_k -1"),
        pytest.param(Search(project_id=PROJECT, query="x", top_k=10_000), "top_k", id="top_k 10000"),
        pytest.param(Search(project_id=PROJECT, query="x", alpha=1.5), "alpha", id="alpha 1.5"),
        pytest.param(Search(project_id=PROJECT, query="x", alpha=math.nan), "alpha", id="alpha NaN"),
        pytest.param(Search(project_id=PROJECT, query="x", mode=99), "mode", id="unknown mode"),  # type: ignore[arg-type] # wrong on purpose
        pytest.param(Search(project_id=PROJECT, query="x", fusion=99), "fusion", id="unknown fusion"),  # type: ignore[arg-type] # same
        pytest.param(
            Search(project_id=PROJECT, query="x", consistency=query_pb2.Consistency(at_least_as_fresh=OTHER_TOKEN)),
            "consistency.at_least_as_fresh",
            id="token of another project",
        ),
        pytest.param(
            Search(project_id=PROJECT, query="x", consistency=query_pb2.Consistency(at_least_as_fresh="kb1.garbage")),
            "consistency.at_least_as_fresh",
            id="garbage token",
        ),
        pytest.param(
            Search(project_id=PROJECT, query="x", filter=comparison(struct_pb2.Value(number_value=math.nan))),
            "filter.comparison.value",
            id="filter NaN",
        ),
        pytest.param(
            Search(project_id=PROJECT, query="x", filter=comparison(struct_pb2.Value(number_value=1), filter_pb2.Comparison.OPERATOR_UNSPECIFIED)),
            "filter.comparison.operator",
            id="filter without operator",
        ),
        pytest.param(
            Search(project_id=PROJECT, query="x", filter=filter_pb2.Filter(all_of=filter_pb2.FilterList())),
            "filter.all_of.filters",
            id="empty all_of",
        ),
        pytest.param(Search(project_id=PROJECT, query="x", filter=nested(20)), "filter" + ".negation" * 8, id="deep filter"),
    ],
)
async def test_a_wrong_search_is_refused_with_its_field(services: Services, request_: query_pb2.SearchRequest, field: str) -> None:
    """The status is INVALID_ARGUMENT and names the field."""
    error = await refused(services.query.Search(request_, timeout=10))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert violations(error) == [field]


async def test_everything_that_is_wrong_is_told_at_once(services: Services) -> None:
    """A client does not have to find its mistakes one by one."""
    error = await refused(services.query.Search(Search(project_id=PROJECT, query="", top_k=0, alpha=2), timeout=10))
    assert violations(error) == ["query", "top_k", "alpha"]


async def test_an_unknown_project_is_not_found_everywhere(services: Services) -> None:
    """NOT_FOUND, whichever service is asked."""
    calls = [
        services.query.Search(Search(project_id="nobody", query="x"), timeout=10),
        services.projects.GetProject(project_pb2.GetProjectRequest(project_id="nobody"), timeout=10),
        services.projects.DeleteProject(project_pb2.DeleteProjectRequest(project_id="nobody"), timeout=10),
        services.indexer.GetDocument(indexer_pb2.GetDocumentRequest(project_id="nobody", document_id="x"), timeout=10),
        services.indexer.UpsertDocuments(
            indexer_pb2.UpsertDocumentsRequest(project_id="nobody", documents=[indexer_pb2.DocumentInput(id="a", text="x")]), timeout=10
        ),
        anext(
            aiter(
                services.feed.WatchChanges(change_feed_pb2.WatchChangesRequest(project=change_feed_pb2.ProjectScope(project_id="nobody")), timeout=10)
            )
        ),
    ]
    for call in calls:
        assert (await refused(call)).code() is grpc.StatusCode.NOT_FOUND


def metadata(**fields: Any) -> struct_pb2.Struct:  # noqa: ANN401 - any value that a Struct takes
    """A Struct of these fields."""
    struct = struct_pb2.Struct()
    struct.update(fields)
    return struct


BAD_DOCUMENTS = [
    pytest.param(indexer_pb2.DocumentInput(id="", text="x"), "id", id="no id"),
    pytest.param(indexer_pb2.DocumentInput(id="a\x00b", text="x"), "id", id="control character in id"),
    pytest.param(indexer_pb2.DocumentInput(id="é" * 129, text="x"), "id", id="long id"),
    pytest.param(indexer_pb2.DocumentInput(id="a", text=" "), "text", id="blank text"),
    pytest.param(indexer_pb2.DocumentInput(id="a", text="x" * 2_000_001), "text", id="long text"),
    pytest.param(indexer_pb2.DocumentInput(id="a", text="x", title="t" * 1_001), "title", id="long title"),
    pytest.param(indexer_pb2.DocumentInput(id="a", text="\N{GRINNING FACE}" * 1_990_000), "text", id="too large with its chunks"),
    pytest.param(indexer_pb2.DocumentInput(id="a", text="x", metadata=metadata(year=math.nan)), "metadata.year", id="NaN"),
    pytest.param(indexer_pb2.DocumentInput(id="a", text="x", metadata=metadata(year=math.inf)), "metadata.year", id="infinite"),
    pytest.param(indexer_pb2.DocumentInput(id="a", text="x", metadata=metadata(big=2.0**53 + 2)), "metadata.big", id="beyond 2^53"),
    pytest.param(indexer_pb2.DocumentInput(id="a", text="x", metadata=metadata(inner={"a": 1})), "metadata.inner", id="nested"),
    pytest.param(indexer_pb2.DocumentInput(id="a", text="x", metadata=metadata(inner=[[1]])), "metadata.inner", id="nested list"),
    pytest.param(indexer_pb2.DocumentInput(id="a", text="x", metadata=metadata(empty=[])), "metadata.empty", id="empty list"),
    pytest.param(indexer_pb2.DocumentInput(id="a", text="x", metadata=metadata(mixed=[1, "a"])), "metadata.mixed", id="mixed list"),
    pytest.param(indexer_pb2.DocumentInput(id="a", text="x", metadata=metadata(none=None)), "metadata.none", id="null"),
    pytest.param(indexer_pb2.DocumentInput(id="a", text="x", metadata=metadata(kb_project="p")), "metadata.kb_project", id="reserved kb_"),
    pytest.param(
        indexer_pb2.DocumentInput(id="a", text="x", metadata=metadata(**{"chroma:document": "p"})), "metadata.chroma:document", id="reserved chroma:"
    ),
    pytest.param(indexer_pb2.DocumentInput(id="a", text="x", metadata=metadata(**{str(n): n for n in range(65)})), "metadata", id="many fields"),
    pytest.param(indexer_pb2.DocumentInput(id="a", text="x", metadata=metadata(long="x" * 40_000)), "metadata", id="large metadata"),
]


@pytest.mark.parametrize(("document", "field"), BAD_DOCUMENTS)
async def test_a_wrong_document_fails_alone(services: Services, document: indexer_pb2.DocumentInput, field: str) -> None:
    """The documents before and behind it are written; its own result says which field is wrong."""
    good = [indexer_pb2.DocumentInput(id=f"good{number}-{uuid.uuid4().hex}", text="Good text.") for number in range(2)]
    request = indexer_pb2.UpsertDocumentsRequest(project_id=PROJECT, documents=[good[0], document, good[1]])
    response = await services.indexer.UpsertDocuments(request, timeout=60)

    assert [result.WhichOneof("outcome") for result in response.results] == ["written", "error", "written"]
    assert response.results[1].error.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    assert [violation.field for violation in response.results[1].error.violations] == [f"documents[1].{field}"]


@pytest.mark.parametrize("identifier", ["", "Upper", "under_score", "-dash", "dash-", "x" * 64, "ä", "a/b", "../a", "a b"])
async def test_a_wrong_project_id_is_refused(services: Services, identifier: str) -> None:
    """Ids are what ChromaDB, file systems and URLs all take."""
    request = project_pb2.CreateProjectRequest(project=project_pb2.Project(id=identifier))
    error = await refused(services.projects.CreateProject(request, timeout=10))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert violations(error) == ["project.id"]


async def test_sizes_of_batches_and_request_ids_are_checked(services: Services) -> None:
    """Empty and too large batches, and request ids that are no UUID."""
    documents = [indexer_pb2.DocumentInput(id=str(number), text="x") for number in range(1_001)]
    for request, field in (
        (indexer_pb2.UpsertDocumentsRequest(project_id=PROJECT), "documents"),
        (indexer_pb2.UpsertDocumentsRequest(project_id=PROJECT, documents=documents), "documents"),
        (indexer_pb2.UpsertDocumentsRequest(project_id=PROJECT, documents=documents[:1], request_id="seven"), "request_id"),
    ):
        assert violations(await refused(services.indexer.UpsertDocuments(request, timeout=10))) == [field]


async def test_a_page_token_belongs_to_its_request(services: Services) -> None:
    """It is refused with another filter, and when it was made up."""
    documents = [indexer_pb2.DocumentInput(id=f"page{number}", text="x", metadata=metadata(year=number)) for number in range(5)]
    await services.indexer.UpsertDocuments(indexer_pb2.UpsertDocumentsRequest(project_id=PROJECT, documents=documents), timeout=10)
    first = await services.indexer.ListDocuments(indexer_pb2.ListDocumentsRequest(project_id=PROJECT, page_size=2), timeout=10)
    assert first.next_page_token
    for token, condition in ((first.next_page_token, comparison(struct_pb2.Value(number_value=1))), ("made-up", None), ("AAAA", None)):
        request = indexer_pb2.ListDocumentsRequest(project_id=PROJECT, page_size=2, page_token=token, filter=condition)
        assert violations(await refused(services.indexer.ListDocuments(request, timeout=10))) == ["page_token"]


async def test_pages_join_to_the_whole_list(services: Services) -> None:
    """Every document once, in order, with and without a filter."""
    documents = [indexer_pb2.DocumentInput(id=f"list{number:02}", text="x", metadata=metadata(parity=number % 2)) for number in range(23)]
    await services.indexer.UpsertDocuments(indexer_pb2.UpsertDocumentsRequest(project_id=PROJECT, documents=documents), timeout=10)
    odd = filter_pb2.Filter(
        comparison=filter_pb2.Comparison(field="parity", operator=filter_pb2.Comparison.OPERATOR_EQUAL, value=struct_pb2.Value(number_value=1))
    )
    found: list[str] = []
    token = ""
    while True:
        request = indexer_pb2.ListDocumentsRequest(project_id=PROJECT, page_size=4, page_token=token, filter=odd)
        page = await services.indexer.ListDocuments(request, timeout=10)
        found += [document.id for document in page.documents]
        token = page.next_page_token
        if not token:
            break
    assert found == [f"list{number:02}" for number in range(1, 23, 2)]


async def test_a_message_over_the_limit_is_refused(services: Services) -> None:
    """RESOURCE_EXHAUSTED, and the service lives on."""
    text = "x" * 1_900_000
    documents = [indexer_pb2.DocumentInput(id=str(number), text=text) for number in range(10)]
    error = await refused(services.indexer.UpsertDocuments(indexer_pb2.UpsertDocumentsRequest(project_id=PROJECT, documents=documents), timeout=20))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    await services.projects.GetProject(project_pb2.GetProjectRequest(project_id=PROJECT), timeout=10)


async def test_a_stream_must_stay_with_its_project(services: Services) -> None:
    """A later message that names another project ends the stream; what was acknowledged before stays."""

    async def batches() -> AsyncIterator[indexer_pb2.IngestDocumentsRequest]:
        yield indexer_pb2.IngestDocumentsRequest(project_id=PROJECT, documents=[indexer_pb2.DocumentInput(id="kept", text="x")])
        yield indexer_pb2.IngestDocumentsRequest(project_id="other", documents=[indexer_pb2.DocumentInput(id="lost", text="x")])

    results = []
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        async for response in services.indexer.IngestDocuments(batches(), timeout=10):
            results += list(response.results)
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert [result.document_id for result in results] == ["kept"]

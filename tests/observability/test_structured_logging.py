"""The logs of real processes: what every line says, what no line ever says, and how to have more or less of it."""

from __future__ import annotations

import asyncio
import json
import re
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
import pytest_asyncio
from google.protobuf import descriptor_pool, json_format, message_factory
from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor

from services.cli.chaos.scrape import samples
from services.cli.stack.stack import Stack
from services.indexer import bootstrap as indexer
from services.query import bootstrap as query
from shared.client import KnowledgeBeast, SearchMode, SearchQuery
from shared.domain import DocumentId, DocumentInput
from shared.errors import InvalidArgumentError, KnowledgeBeastError
from shared.filters import Comparison, Operator
from shared.gen.knowledgebeast.indexer.v1 import change_feed_pb2
from shared.gen.knowledgebeast.ops.v1 import logging_pb2
from shared.gen.knowledgebeast.query.v1 import query_pb2
from shared.search import Snippets
from shared.version import VERSION
from tests.fixtures.stack import running_stack
from tests.waiting import eventually

# Never in a log; none of them can be an id of ours, which are logged.
MARK = "Kumquat Lagerfeuer"
BEARER = "Bearer c2VjcmV0LXRva2VuLW9mLXNvbWVib2R5"
LINE = {"timestamp", "level", "event", "logger", "service", "version"}
CALL = {"request_id", "trace_id", "span_id", "method", "code", "duration_ms", "peer"}
SETTINGS = {
    "KB_LOG_LEVEL": "debug",
    "KB_SLOW_SEARCH": "0.000001",
    # One search at a time and none in the queue: a few at once are refused.
    "KB_SEARCH_CONCURRENCY": "1",
    "KB_SEARCH_QUEUE": "0",
}
QUERY = "knowledgebeast.query.v1.QueryService"


class Logs:
    """What the processes of a stack have logged."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack

    def text(self, service: str) -> str:
        """Everything on stdout and stderr."""
        return (self.stack.data_dir / "logs" / f"{service}.log").read_text()

    def lines(self, service: str) -> list[dict[str, Any]]:
        """Every line as the object that it is; the last one may still be in the making."""
        return [json.loads(line) for line in self.text(service).splitlines(keepends=True) if line.endswith("\n")]

    async def of(self, service: str, event: str, request_id: str) -> dict[str, Any]:
        """The line of an event of a request, once it is there: an access line comes after the answer."""

        async def look() -> list[dict[str, Any]]:
            return [line for line in self.lines(service) if line["event"] == event and line.get("request_id") == request_id]

        (line,) = await eventually(look, bool, seconds=20)
        return line


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def talkative(tmp_path_factory: pytest.TempPathFactory, model_dir: Path) -> AsyncIterator[Stack]:
    """A stack that logs everything there is to log. A test that changes a level gives it back."""
    async with running_stack(tmp_path_factory.mktemp("logs"), model_dir, SETTINGS) as running:
        yield running


@pytest.fixture
def logs(talkative: Stack) -> Logs:
    """Its logs."""
    return Logs(talkative)


@pytest.fixture
async def kb(talkative: Stack) -> AsyncIterator[KnowledgeBeast]:
    """A client of it."""
    async with KnowledgeBeast(talkative.indexer_address, talkative.query_address, timeout=30) as client:
        yield client


@pytest.fixture
async def channels(talkative: Stack) -> AsyncIterator[dict[str, grpc.aio.Channel]]:
    """Bare channels without any of our interceptors, by service."""
    async with grpc.aio.insecure_channel(talkative.indexer_address) as one, grpc.aio.insecure_channel(talkative.query_address) as other:
        yield {"indexer": one, "query": other}


def methods(service: str) -> list[MethodDescriptor]:
    """Every method of a service's own protos."""
    pool = descriptor_pool.Default()
    names = {"indexer": indexer.SERVICES, "query": query.SERVICES}[service]
    return [method for name in names for method in pool.FindServiceByName(name).methods]


ALL = [
    pytest.param(service, method, id=f"{service}-{method.full_name.removeprefix('knowledgebeast.')}")
    for service in ("indexer", "query")
    for method in methods(service)
]


def path_of(method: MethodDescriptor) -> str:
    """`service/method`."""
    return f"{method.containing_service.full_name}/{method.name}"


async def call(
    channel: grpc.aio.Channel,
    path: str,
    requests: Sequence[bytes],
    *,
    timeout: float = 2.0,
    metadata: Sequence[tuple[str, str]] = (),
) -> tuple[grpc.StatusCode, dict[str, Any]]:
    """Makes a call with bytes, reads what comes for at most `timeout` seconds, and returns how it ended and its trailing metadata.

    Args:
        channel: to the service.
        path: `service/method`.
        requests: encoded messages, one alone where the method takes no stream.
        timeout: seconds.
        metadata: headers.
    """
    # On the wire a unary call is a stream of one. Sent as one message it goes with the call: written behind it, it would make the client say INTERNAL
    # where the server has refused the call by then.
    alone = len(requests) == 1
    start: Any = channel.unary_stream(f"/{path}") if alone else channel.stream_stream(f"/{path}")
    made = start(requests[0] if alone else iter(requests), timeout=timeout, metadata=tuple(metadata))
    try:
        async for _ in made:
            pass
    except grpc.aio.AioRpcError as error:
        return error.code(), dict(error.trailing_metadata() or ())
    return await made.code(), dict(await made.trailing_metadata())


def new_id() -> str:
    """A request id that no other call has."""
    return f"test-{uuid.uuid4().hex}"


def is_map_entry(field: Any) -> bool:  # noqa: ANN401 - a descriptor
    """Whether a field is a map."""
    return field.message_type is not None and field.message_type.GetOptions().map_entry


def marked(kind: Any, depth: int = 4) -> Any:  # noqa: ANN401 - descriptors and messages of any type
    """A message with the mark in every text that it can hold; of alternatives, the last one."""
    message: Any = message_factory.GetMessageClass(kind)()
    if kind.full_name == "google.protobuf.Struct":
        message.update({"author": MARK, "tags": [MARK, MARK], MARK: 1})
        return message
    for field in kind.fields:
        many = field.is_repeated
        if field.type == FieldDescriptor.TYPE_STRING:
            if many:
                getattr(message, field.name).append(MARK)
            else:
                setattr(message, field.name, MARK)
        elif field.type == FieldDescriptor.TYPE_MESSAGE and depth and not is_map_entry(field):
            inner = marked(field.message_type, depth - 1)
            target = getattr(message, field.name)
            (target.add() if many else target).CopyFrom(inner)
        elif is_map_entry(field) and field.message_type.fields_by_name["value"].type == FieldDescriptor.TYPE_STRING:
            getattr(message, field.name)[MARK] = MARK
    return message


def naming(method: MethodDescriptor, project: str) -> Any:  # noqa: ANN401 - a message of any type
    """A request that names a project and has something wrong, or lacks what it must have; None if the method's can name none."""
    forms: tuple[dict[str, Any], ...] = (
        {"projectId": project, "parts": -1},
        {"projectId": project},
        {"project": {"id": project, "displayName": "x" * 1_000}},
        {"project": {"projectId": project}, "consumer": "x" * 1_000},
        {"searches": [{"projectId": project}]},
    )
    for form in forms:
        try:
            return json_format.ParseDict(form, message_factory.GetMessageClass(method.input_type)())
        except json_format.ParseError:
            continue
    return None


@pytest.mark.parametrize(("service", "method"), ALL)
async def test_every_method_writes_one_line_with_all_that_is_known(
    logs: Logs, channels: dict[str, grpc.aio.Channel], service: str, method: MethodDescriptor
) -> None:
    """Whether it is answered or refused, unary or a stream: who called what, when, how it ended, in which trace, and the project that it names.

    The request names a project that is not there, and nothing else: some of them fail before anything has looked at it.
    """
    project, request_id = f"no-such-{uuid.uuid4().hex[:8]}", new_id()
    request = naming(method, project)
    body = b"" if request is None else request.SerializeToString()
    trace = f"{uuid.uuid4().hex}"
    metadata = (("x-request-id", request_id), ("traceparent", f"00-{trace}-00f067aa0ba902b7-01"))
    code, trailing = await call(channels[service], path_of(method), [body], timeout=1.0, metadata=metadata)
    line = await logs.of(service, "rpc", request_id)
    assert line.keys() >= LINE | CALL
    assert (line["service"], line["version"], line["method"]) == (service, VERSION, path_of(method))
    assert line["code"] == code.name or {line["code"], code.name} == {"CANCELLED", "DEADLINE_EXCEEDED"}
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["timestamp"])
    assert line["trace_id"] == trace
    assert re.fullmatch(r"[0-9a-f]{16}", line["span_id"])
    assert line["duration_ms"] > 0
    assert line["peer"].startswith("ipv4:127.0.0.1:")
    assert line.get("project") == (project if request is not None else None)
    if code is not grpc.StatusCode.DEADLINE_EXCEEDED:  # the client ends such a call by itself, and hears no more of the server
        assert trailing["x-request-id"] == request_id


async def test_a_call_that_cannot_be_served_still_gets_its_id_back(logs: Logs, channels: dict[str, grpc.aio.Channel], kb: KnowledgeBeast) -> None:
    """No such method, no message of its type, too many at a time: the trailing metadata and the line have the id, given or made."""
    channel = channels["query"]
    for path, body, expected in (
        (f"{QUERY}/Nothing", b"", grpc.StatusCode.UNIMPLEMENTED),
        (f"{QUERY}/Search", b"\xff", grpc.StatusCode.INVALID_ARGUMENT),
    ):
        request_id = new_id()
        code, trailing = await call(channel, path, [body], timeout=20, metadata=(("x-request-id", request_id),))
        assert (code, trailing.get("x-request-id")) == (expected, request_id)
        assert (await logs.of("query", "rpc", request_id))["code"] == expected.name
    project = f"p-{uuid.uuid4().hex[:8]}"
    await kb.create_project(project)
    token = (await kb.upsert(project, [DocumentInput(DocumentId("a"), "", "The lamp of the lighthouse.", {})])).consistency_token
    await kb.search(project, SearchQuery("lamp", at_least_as_fresh=token))
    searches = [search_request(project, f"who has lamp {number}") for number in range(60)]
    outcomes = await asyncio.gather(*(call(channel, f"{QUERY}/Search", [body], timeout=20) for body in searches))
    made = [trailing["x-request-id"] for _, trailing in outcomes]
    assert len(set(made)) == len(made)
    shed = next(trailing["x-request-id"] for code, trailing in outcomes if code is grpc.StatusCode.RESOURCE_EXHAUSTED)
    assert (await logs.of("query", "rpc", shed))["reason"] == "OVERLOADED"


def search_request(project: str, text: str) -> bytes:
    """A search for three hits."""
    return query_pb2.SearchRequest(project_id=project, query=text, top_k=3).SerializeToString()


@pytest.mark.parametrize("given", ["", "x" * 129])
async def test_an_id_that_is_none_is_replaced(logs: Logs, channels: dict[str, grpc.aio.Channel], given: str) -> None:
    """Empty, or longer than any id: the service makes one, and says which."""
    _, trailing = await call(channels["query"], f"{QUERY}/Search", [b""], timeout=20, metadata=(("x-request-id", given),))
    assert re.fullmatch(r"[0-9a-f]{32}", trailing["x-request-id"])
    await logs.of("query", "rpc", trailing["x-request-id"])


async def test_a_call_that_its_client_gives_up_is_logged_as_such(logs: Logs, channels: dict[str, grpc.aio.Channel]) -> None:
    """A feed that the client cancels in the middle: one line, CANCELLED, with the id."""
    request_id = new_id()
    watch: Any = channels["indexer"].unary_stream("/knowledgebeast.indexer.v1.ChangeFeedService/WatchChanges")
    request = change_feed_pb2.WatchChangesRequest(project_list=change_feed_pb2.ProjectListScope())
    made = watch(request.SerializeToString(), metadata=(("x-request-id", request_id),), timeout=30)
    await made.read()
    made.cancel()
    assert (await logs.of("indexer", "rpc", request_id))["code"] == "CANCELLED"


async def test_no_line_of_either_service_has_a_text_or_a_secret(logs: Logs, channels: dict[str, grpc.aio.Channel], kb: KnowledgeBeast) -> None:
    """Texts, titles, metadata, queries and a token are sent through every method, as it should be and as it should not, with everything logged.

    Nobody may put them into a line: not the access log, no exception, no library at its lowest level.
    """
    metadata = (("authorization", BEARER), ("x-api-key", BEARER), ("x-request-id", new_id()))
    for service in ("indexer", "query"):
        for method in methods(service):
            await call(channels[service], path_of(method), [marked(method.input_type).SerializeToString()], timeout=1.0, metadata=metadata)
            half = marked(method.input_type).SerializeToString()
            await call(channels[service], path_of(method), [half[: len(half) // 2] + b"\xff"], timeout=1.0, metadata=metadata)
    project = f"p-{uuid.uuid4().hex[:8]}"
    await kb.create_project(project, display_name=MARK, description=MARK, labels={"team": MARK})
    document = DocumentInput(DocumentId("a"), MARK, f"{MARK} is what nobody may read in a log.", {"author": MARK})
    written = await kb.upsert(
        project, [document, DocumentInput(DocumentId("b"), MARK * 100, f"{MARK} again", {}), DocumentInput(DocumentId("c"), "", " ", {})]
    )
    assert any(result.error for result in written.results)
    token = written.consistency_token
    for mode in SearchMode:
        found = await kb.search(
            project, SearchQuery(MARK, mode=mode, at_least_as_fresh=token, snippets=Snippets(), filter=Comparison("author", Operator.EQUAL, MARK))
        )
        assert found.hits
    await kb.find_similar(project, "a")
    async for _ in kb.batch_search(project, [SearchQuery(MARK), SearchQuery(MARK, page_token=MARK)]):
        pass
    for work in (
        kb.search(project, SearchQuery(MARK, page_token=MARK)),
        kb.search(project, SearchQuery(MARK, at_least_as_fresh=MARK)),
        kb.search(project, SearchQuery(MARK * 400)),
        kb.search("no-such-project", SearchQuery(MARK)),
        kb.get_document(project, MARK),
        kb.set_log_level("query", MARK, "debug"),
    ):
        with pytest.raises(KnowledgeBeastError):
            await work
    await kb.delete_documents(project, filter=Comparison("author", Operator.EQUAL, MARK))
    words = [MARK, *MARK.split(), BEARER, BEARER.split()[1], MARK.upper(), MARK.lower()]
    for service in ("indexer", "query"):
        text = logs.text(service)
        assert len(text.splitlines()) > 50
        assert [line for line in text.splitlines() if any(word in line for word in words)] == []


async def test_libraries_log_in_the_same_form(logs: Logs) -> None:
    """Everything on stdout and stderr of both processes is an object with the common fields: ours, and that of gRPC and others."""
    for service in ("indexer", "query"):
        lines = logs.lines(service)
        assert [line for line in lines if not line.keys() >= LINE] == []
        assert {line["service"] for line in lines} == {service}
        loggers = Counter(str(line["logger"]).split(".")[0] for line in lines)
        assert loggers["grpc"] > 0
        assert loggers["shared"] > 0


async def test_a_slow_search_says_where_its_time_went(
    talkative: Stack, logs: Logs, kb: KnowledgeBeast, channels: dict[str, grpc.aio.Channel]
) -> None:
    """With the stages, in the same request and trace as the access line, and counted; for FindSimilar and batches, too."""
    project = f"p-{uuid.uuid4().hex[:8]}"
    await kb.create_project(project)
    token = (await kb.upsert(project, [DocumentInput(DocumentId("a"), "", "The lamp of the lighthouse.", {})])).consistency_token
    await kb.search(project, SearchQuery("lamp", at_least_as_fresh=token))
    before = (await samples(talkative.ports.query_http))["kb_slow_searches_total"]

    async def asked() -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """The slow line, if the searches of other tests have left room for one, and the access line, which comes after it."""
        request_id = new_id()
        request = search_request(project, f"who has a lamp {request_id}")  # never asked before
        code, _ = await call(channels["query"], f"{QUERY}/Search", [request], metadata=(("x-request-id", request_id),))
        assert code is grpc.StatusCode.OK
        searches.append(request_id)
        access = await logs.of("query", "rpc", request_id)
        return [line for line in logs.lines("query") if line["event"] == "slow search" and line.get("request_id") == request_id], access

    searches: list[str] = []
    (slow,), access = await eventually(asked, lambda seen: bool(seen[0]), seconds=20)
    assert (slow["level"], slow["project"], slow["mode"], slow["method"]) == ("warning", project, "hybrid", "search")
    assert {"total_ms", "embed_ms", "vector_ms", "keyword_ms", "assemble_ms"} <= slow.keys()
    assert slow["total_ms"] <= access["duration_ms"]
    assert (slow["trace_id"], slow["top_k"], slow["candidates"], slow["filtered"], slow["cached"]) == (access["trace_id"], 3, 100, False, False)
    assert (await samples(talkative.ports.query_http))["kb_slow_searches_total"] == before + len(searches)


@pytest.mark.parametrize("service", ["indexer", "query"])
async def test_levels_change_while_the_service_runs(logs: Logs, kb: KnowledgeBeast, channels: dict[str, grpc.aio.Channel], service: Any) -> None:  # noqa: ANN401 - a literal
    """Without a restart access lines stop and come again; each change is a line of its own that no level keeps back."""

    async def asked() -> str:
        request_id = new_id()
        await call(channels[service], "knowledgebeast.ops.v1.StatusService/GetStatus", [b""], metadata=(("x-request-id", request_id),))
        return request_id

    await logs.of(service, "rpc", await asked())
    try:
        levels = await kb.set_log_level(service, "root", "error")
        assert [(each.logger, each.level, each.changed) for each in levels] == [("root", "error", True)]
        quiet = await asked()
        levels = await kb.set_log_level(service, "shared.rpc.access_log", "info")
        assert [each.logger for each in levels] == ["root", "shared.rpc.access_log"]
        await logs.of(service, "rpc", await asked())
    finally:
        await kb.set_log_level(service, "shared.rpc.access_log", None)
        levels = await kb.set_log_level(service, "root", None)
    assert [(each.logger, each.level, each.changed) for each in levels] == [("root", "debug", False)]
    assert await kb.log_levels(service) == levels
    await logs.of(service, "rpc", await asked())
    assert [line for line in logs.lines(service) if line["event"] == "rpc" and line.get("request_id") == quiet] == []
    changes = [line for line in logs.lines(service) if line["event"] == "log level set"]
    assert [(line["changed_logger"], line["before"], line["after"]) for line in changes[-4:]] == [
        ("root", "debug", "error"),
        ("shared.rpc.access_log", None, "info"),
        ("shared.rpc.access_log", "info", None),
        ("root", "error", "debug"),
    ]
    assert all(line["level"] == "warning" and line["peer"].startswith("ipv4:127.0.0.1:") for line in changes)


async def test_what_is_no_logger_or_no_level_is_refused(kb: KnowledgeBeast, channels: dict[str, grpc.aio.Channel]) -> None:
    """With the field that is wrong; nothing changes."""
    before = await kb.log_levels("query")
    with pytest.raises(InvalidArgumentError) as refused:
        await kb.set_log_level("query", "not a logger", "debug")
    assert [each.field for each in refused.value.violations] == ["logger"]
    request = logging_pb2.SetLogLevelRequest(logger="root", level=77)  # type: ignore[arg-type] # a level of a later version
    code, _ = await call(channels["query"], "knowledgebeast.ops.v1.LoggingService/SetLogLevel", [request.SerializeToString()])
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert await kb.log_levels("query") == before


async def test_logged_lines_are_counted(talkative: Stack, channels: dict[str, grpc.aio.Channel]) -> None:
    """By level, as they are written; none was lost."""
    before = await samples(talkative.ports.query_http)
    for _ in range(5):
        await call(channels["query"], "knowledgebeast.ops.v1.StatusService/GetStatus", [b""])
    info = 'kb_log_lines_total{level="info"}'
    after = await eventually(lambda: samples(talkative.ports.query_http), lambda seen: seen[info] >= before[info] + 5)
    assert after["kb_log_lines_lost_total"] == 0


def test_the_mark_reaches_every_text_field() -> None:
    """What sends texts through every method really does, so that the test above means something."""
    fields: Iterator[str] = (json_format.MessageToJson(marked(method.input_type)) for method in methods("query"))
    assert sum(MARK in text for text in fields) >= 4

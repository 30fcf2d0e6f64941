"""Traces as whoever looks at them gets them: real services export over OTLP to a collector."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import grpc.aio
import pytest
from opentelemetry import context, trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

from services.cli.stack.process import ManagedProcess, free_port
from services.cli.stack.stack import Stack
from shared.chroma.resilient import ResilientVectorStore
from shared.client import KnowledgeBeast, SearchQuery
from shared.domain import DocumentId, DocumentInput, TraceContext
from shared.errors import CircuitOpenError, InvalidArgumentError, KnowledgeBeastError, VectorStoreUnavailableError
from shared.gen.knowledgebeast.indexer.v1 import indexer_pb2, indexer_pb2_grpc
from shared.observability import tracing
from shared.observability.sampling import sampler
from shared.resilience.breaker import Breaker
from shared.resilience.retry import RetryBudget, RetryPolicy
from tests.fakes.vector_store import FakeVectorStore
from tests.fixtures.collector import Collector, ReceivedSpan
from tests.integration.test_rpc_chain import KINDS, SERVICE
from tests.waiting import eventually

ROOT = Path(__file__).parents[2]
SAMPLED, UNSAMPLED = TraceFlags(TraceFlags.SAMPLED), TraceFlags(TraceFlags.DEFAULT)
SECRET = "xylophone-quokka-9137"  # noqa: S105 - what must not be found in traces
EMBEDDED, SEARCHABLE, BY_MEANING = "document.embedded", "document.searchable", "document.searchable_by_meaning"

# What a call ends with: its number, and whether that is an error of the server's span. On the client's every code but OK is.
OUTCOMES: Mapping[str, tuple[int, bool]] = {
    "hello": (0, False),
    "domain": (5, False),
    "bug": (13, True),
    "abort": (7, False),
    "deadline": (4, True),
    "cancel": (1, False),
}


@contextmanager
def request(flags: TraceFlags = SAMPLED) -> Iterator[str]:
    """What is called within belongs to one new trace; its id."""
    trace_id = uuid.uuid4().int
    parent = NonRecordingSpan(SpanContext(trace_id, 1, is_remote=False, trace_flags=flags))
    token = context.attach(trace.set_span_in_context(parent))
    try:
        yield format(trace_id, "032x")
    finally:
        context.detach(token)


@asynccontextmanager
async def client_of(stack: Stack) -> AsyncIterator[tuple[KnowledgeBeast, str]]:
    """A client and a new project."""
    project = f"p-{uuid.uuid4().hex[:12]}"
    async with KnowledgeBeast(stack.indexer_address, stack.query_address) as client:
        await client.create_project(project)
        yield client, project


async def arrived(
    collector: Collector, trace_id: str, names: Sequence[str], when: Callable[[list[ReceivedSpan]], bool] = bool
) -> dict[str, list[ReceivedSpan]]:
    """The spans of a trace by name, once all of these names have come and `when` holds for them."""

    async def look() -> dict[str, list[ReceivedSpan]]:
        found: dict[str, list[ReceivedSpan]] = {}
        for span in collector.spans(trace_id):
            found.setdefault(span.name.rpartition("/")[2], []).append(span)
        return found

    return await eventually(
        look, lambda seen: all(name in seen for name in names) and when([each for spans in seen.values() for each in spans]), seconds=20
    )


def document(name: str, text: str = "The ferry leaves at noon.") -> DocumentInput:
    """A small document."""
    return DocumentInput(DocumentId(name), "", text, {})


def replicas(spans: Sequence[ReceivedSpan]) -> set[object]:
    """Which replicas have told something."""
    return {span.attributes.get("kb.replica") for span in spans}


# --- every RPC -----------------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def calls() -> Iterator[Mapping[str, list[ReceivedSpan]]]:
    """What was exported of calls of all kinds and outcomes, by case; client and server are a process of their own."""
    with Collector() as collector:
        command = [sys.executable, "-m", "tests.observability.calls", collector.endpoint]
        process = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True, timeout=120)
        traces: dict[str, str] = json.loads(process.stdout.splitlines()[-1])
        yield {case: collector.spans(trace_id) for case, trace_id in traces.items()}


def both(spans: Sequence[ReceivedSpan]) -> tuple[ReceivedSpan, ReceivedSpan]:
    """The client's span and the server's, the child of it; there are no others."""
    (client,) = (span for span in spans if span.kind == "CLIENT")
    (server,) = (span for span in spans if span.kind == "SERVER")
    assert client.context.span_id == server.parent_id
    assert client.name == server.name
    return client, server


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("outcome", OUTCOMES)
def test_both_sides_of_a_call_say_how_it_ended(calls: Mapping[str, list[ReceivedSpan]], kind: str, outcome: str) -> None:
    """Success, error, bug, abort, deadline and cancel of all four kinds: code and status are right on both spans, and the server's ends in time."""
    client, server = both(calls[f"{kind} {outcome}"])
    number, fault = OUTCOMES[outcome]
    assert client.name == f"/{SERVICE}/{kind}"
    assert [span.attributes["rpc.grpc.status_code"] for span in (client, server)] == [number, number]
    assert (client.status, server.status) == ("ERROR" if number else "UNSET", "ERROR" if fault else "UNSET")
    assert ("error.type" in client.attributes, "error.type" in server.attributes) == (number > 0, fault)
    assert [span.status_text for span in (client, server)] == [span.attributes.get("error.type", "") for span in (client, server)]


def test_an_error_is_named_without_what_it_says(calls: Mapping[str, list[ReceivedSpan]]) -> None:
    """The server's span has the kind of error that the servicer raised, neither its message nor its stack."""
    _, bug = both(calls["unary bug"])
    _, refusal = both(calls["bidi_stream domain"])
    assert bug.events == [("exception", {"exception.type": "RuntimeError"})]
    assert refusal.events == [("exception", {"exception.type": "shared.errors.NotFoundError"})]
    assert refusal.attributes["kb.reason"] == "THING_NOT_FOUND"


def test_a_stream_that_nobody_reads_on_ends_on_both_sides(calls: Mapping[str, list[ReceivedSpan]]) -> None:
    """Who stops reading half-way cancels the call, and both spans say so."""
    assert [span.attributes["rpc.grpc.status_code"] for span in both(calls["abandoned"])] == [1, 1]


def test_a_method_that_does_not_exist_has_a_span_on_both_sides(calls: Mapping[str, list[ReceivedSpan]]) -> None:
    """UNIMPLEMENTED is an error; the server's span does not take its name from whatever path a client made up."""
    (client,) = (span for span in calls["unknown"] if span.kind == "CLIENT")
    (server,) = (span for span in calls["unknown"] if span.kind == "SERVER")
    assert (client.name, server.name) == (f"/{SERVICE}/nope", "/unknown/unknown")
    assert [span.attributes["error.type"] for span in (client, server)] == ["UNIMPLEMENTED", "UNIMPLEMENTED"]


# --- a search ------------------------------------------------------------------------------------------------------------------------------


async def test_a_search_is_one_trace_of_its_stages(traced_stack: Stack, shared_collector: Collector) -> None:
    """From the RPC to ChromaDB's HTTP call: each stage is a span with what it was asked and what it found."""
    async with client_of(traced_stack) as (client, project):
        written = await client.upsert(project, [document("a")])
        await client.search(project, SearchQuery("ferry", at_least_as_fresh=written.consistency_token))

        async def from_chromadb() -> dict[str, list[ReceivedSpan]]:
            with request() as trace_id:
                await client.search(project, SearchQuery(f"ferry {uuid.uuid4().hex}", top_k=5))
            return await arrived(shared_collector, trace_id, ["Search"])

        # Until ChromaDB has the document, the replica's own vectors are searched.
        spans = await eventually(from_chromadb, lambda seen: "chromadb.query" in seen)
    one = {name: found[0] for name, found in spans.items()}
    search = one["HybridQueryEngine.search_hybrid"]
    assert search.parent_id == one["Search"].context.span_id
    expected = {"kb.mode": "hybrid", "kb.alpha": 0.6, "kb.top_k": 5, "kb.candidates": 100, "kb.hits": 1, "kb.cached": False, "kb.degraded": False}
    assert expected.items() <= search.attributes.items()
    assert search.attributes["kb.degraded.reasons"] == ()
    stages = ("cache.get", "EmbeddingEngine.embed", "VectorStore.query", "KeywordIndex.search", "fusion", "cache.put")
    assert {one[name].parent_id for name in stages} == {search.context.span_id}
    assert one["cache.get"].attributes["kb.cache.hit"] is False
    assert {"kb.model": "all-MiniLM-L6-v2", "kb.batch_size": 1, "kb.cache.hits": 0}.items() <= one["EmbeddingEngine.embed"].attributes.items()
    assert 0 <= seconds(one["EmbeddingEngine.embed"], "core") < 10
    assert {"kb.k": 121, "kb.results": 1}.items() <= one["VectorStore.query"].attributes.items()
    assert one["fusion"].attributes == {"kb.fusion": "weighted", "kb.candidates.vector": 1, "kb.candidates.keyword": 1, "kb.results": 1}
    http = one["chromadb.query"]
    assert (http.kind, http.parent_id) == ("CLIENT", one["VectorStore.query"].context.span_id)
    collection = one["VectorStore.query"].attributes["db.collection.name"]
    assert {"db.system.name": "chromadb", "db.collection.name": collection, "http.response.status_code": 200}.items() <= http.attributes.items()
    assert {span.service for found in spans.values() for span in found} == {"query"}


async def test_a_search_from_the_cache_says_so(traced_stack: Stack, shared_collector: Collector) -> None:
    """The second of two equal searches has a span of the cache, which hits, and none of the stages."""
    async with client_of(traced_stack) as (client, project):
        written = await client.upsert(project, [document("a")])
        query = SearchQuery("ferry", at_least_as_fresh=written.consistency_token)

        async def again() -> dict[str, list[ReceivedSpan]]:
            with request() as trace_id:
                await client.search(project, query)
            return await arrived(shared_collector, trace_id, ["Search"])

        # What ChromaDB has come to have meanwhile makes it another answer, once.
        spans = await eventually(again, lambda seen: seen["HybridQueryEngine.search_hybrid"][0].attributes["kb.cached"])
    assert spans["cache.get"][0].attributes == {"kb.cache": "result", "kb.cache.hit": True}
    assert spans.keys() == {"Search", "HybridQueryEngine.search_hybrid", "freshness.wait", "cache.get"}


# --- a write -------------------------------------------------------------------------------------------------------------------------------


def seconds(span: ReceivedSpan, *names: str) -> float:
    """What the named waits come to."""
    values = [span.attributes[f"kb.wait.{name}_seconds"] for name in names]
    return sum(value for value in values if isinstance(value, float))


async def test_the_trace_of_a_write_tells_when_its_document_became_searchable(traced_stack: Stack, shared_collector: Collector) -> None:
    """One look-up shows the commit, and from there each way on which the document came to be found, with what it waited for and for how long."""
    async with client_of(traced_stack) as (client, project):
        with request() as trace_id:
            await client.upsert(project, [document("a"), document("b")])
        spans = await arrived(
            shared_collector, trace_id, ["UpsertDocuments", EMBEDDED, SEARCHABLE], lambda seen: [span.name for span in seen].count(BY_MEANING) == 2
        )
    (write,), (commit,), (embedded,), (found,) = (spans[name] for name in ("UpsertDocuments", "Catalog.commit", EMBEDDED, SEARCHABLE))
    by_meaning = {str(span.attributes["kb.vectors_from"]): span for span in spans[BY_MEANING]}
    told = [embedded, found, *by_meaning.values()]
    assert {span.parent_id for span in [commit, *told]} == {write.context.span_id}
    assert {(span.attributes["kb.project"], span.attributes["kb.documents"], span.attributes["kb.sequence"]) for span in told} == {(project, 2, 2)}
    # All begin with the commit, within it: the catalog notes the time while it commits.
    assert all(commit.start <= span.start <= commit.end for span in told)
    assert (found.service, found.attributes["kb.replica"]) == ("query", "query")
    assert embedded.end <= by_meaning["chromadb"].end
    lengths = {
        "embedded": (embedded, seconds(embedded, "turn", "embedding")),
        "keyword": (found, seconds(found, "feed", "turn", "apply")),
        "chromadb": (by_meaning["chromadb"], seconds(by_meaning["chromadb"], "embedding", "turn", "pace", "chromadb")),
        "replica": (by_meaning["replica"], seconds(by_meaning["replica"], "feed", "turn", "apply")),
    }
    for name, (span, waited) in lengths.items():
        assert waited == pytest.approx(span.end - span.start, abs=0.001), name
    assert by_meaning["chromadb"].attributes["kb.retries"] == 0


async def test_the_work_for_many_writes_and_each_write_lead_to_each_other(traced_stack: Stack, shared_collector: Collector) -> None:
    """Each span that a write gets is linked to the batch that it was in, a trace of its own, and that batch is linked to the write: after export."""
    async with client_of(traced_stack) as (client, project):
        with request() as trace_id:
            await client.upsert(project, [document("a")])
        spans = await arrived(
            shared_collector, trace_id, ["UpsertDocuments", EMBEDDED, SEARCHABLE], lambda seen: [span.name for span in seen].count(BY_MEANING) == 2
        )
        told = [*spans[EMBEDDED], *spans[SEARCHABLE], *spans[BY_MEANING]]

        async def batches() -> dict[str, ReceivedSpan]:
            return {span.context.span_id: span for span in shared_collector.spans() if span.attributes.get("kb.project") == project}

        wanted = {link.span_id for span in told for link in span.links}
        by_id = await eventually(batches, lambda seen: wanted <= seen.keys())
    write = spans["UpsertDocuments"][0].context
    named = [by_id[span.links[0].span_id] for span in told]
    assert sorted(batch.name for batch in named) == ["projection.embed", "projection.write", "replica.apply_documents", "replica.apply_vectors"]
    assert all(batch.context.trace_id != trace_id for batch in named)
    assert all(batch.links == [write] for batch in named)


async def test_a_write_whose_trace_begins_in_the_service_is_told_of_too(traced_stack: Stack, shared_collector: Collector) -> None:
    """A client without traces: the service's own trace context has another flag beside "sampled", and is understood all the same."""
    async with client_of(traced_stack) as (_, project), grpc.aio.insecure_channel(traced_stack.indexer_address) as bare:
        # Our own client would send the trace context of this process, in which nothing is recorded once any test has traces.
        service: Any = indexer_pb2_grpc.IndexerServiceStub(bare)
        text = indexer_pb2.DocumentInput(id="a", text="The ferry leaves at noon.")
        await service.UpsertDocuments(indexer_pb2.UpsertDocumentsRequest(project_id=project, documents=[text], request_id=str(uuid.uuid4())))

        async def told() -> list[ReceivedSpan]:
            return [span for span in shared_collector.spans() if span.name in {SEARCHABLE, BY_MEANING} and span.attributes["kb.project"] == project]

        spans = await eventually(told, lambda seen: len(seen) == 3)
    assert len({span.context.trace_id for span in spans}) == 1


async def test_each_of_the_writes_of_one_commit_has_it_as_its_child(traced_stack: Stack, shared_collector: Collector) -> None:
    """Thirty writes at once share commits: each has a span of the one that it was in, which says how many there were and how long it waited."""
    traces: list[str] = []
    async with client_of(traced_stack) as (client, project):

        async def write(number: int) -> None:
            with request() as trace_id:
                traces.append(trace_id)
                await client.upsert(project, [document(f"d{number}")])

        await asyncio.gather(*(write(number) for number in range(30)))
        spans = [await arrived(shared_collector, trace_id, ["UpsertDocuments", "Catalog.commit"]) for trace_id in traces]
    commits = []
    for found in spans:
        (commit,) = found["Catalog.commit"]
        assert commit.parent_id == found["UpsertDocuments"][0].context.span_id
        commits.append(commit)
    sizes = [int(commit.attributes["kb.commit.writes"]) for commit in commits]  # type: ignore[arg-type] # a number
    # The writes of a group are counted by its own and by the vectoriser's: there are at least as many as have such a span.
    assert all(1 <= size <= 64 for size in sizes)
    assert max(sizes) > 1
    assert all(seconds(commit, "queue") <= commit.end - commit.start for commit in commits)


async def test_a_rebuild_tells_no_write_again(traced_stack: Stack, shared_collector: Collector) -> None:
    """What ChromaDB had before a rebuild was searchable before: the write's trace has one such span, not another a day later."""
    async with client_of(traced_stack) as (client, project):
        with request() as old:
            await client.upsert(project, [document("old")])
        await arrived(shared_collector, old, [EMBEDDED, SEARCHABLE], lambda seen: [span.name for span in seen].count(BY_MEANING) == 2)
        await client.rebuild_vectors(project)
        with request() as new:
            await client.upsert(project, [document("new")])
        # The new write comes behind the old one in the same collection.
        await arrived(shared_collector, new, [EMBEDDED, SEARCHABLE], lambda seen: [span.name for span in seen].count(BY_MEANING) == 2)
    names = [span.name for span in shared_collector.spans(old)]
    assert (names.count(EMBEDDED), names.count(SEARCHABLE), names.count(BY_MEANING)) == (1, 1, 2)


# --- a second replica ----------------------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def replica_beside(stack: Stack, name: str, variables: Mapping[str, str]) -> AsyncIterator[tuple[ManagedProcess, str, int]]:
    """One more query service of the stack, its address, and its HTTP port."""
    port, http = free_port(), free_port()
    ports = {"KB_QUERY_PORT": port, "KB_QUERY_HTTP_PORT": http, "KB_QUERY_HEALTH_PORT": free_port()}
    own = {"KB_DATA_DIR": str(stack.data_dir / name), "KB_QUERY_NAME": name, **{key: str(value) for key, value in ports.items()}, **variables}
    process = stack.another("query", name, f"127.0.0.1:{port}", own)
    await process.start(60)
    try:
        yield process, f"127.0.0.1:{port}", http
    finally:
        await process.stop(25)


async def test_each_replica_tells_when_it_has_a_document_and_a_new_one_tells_no_old_ones(traced_stack: Stack, shared_collector: Collector) -> None:
    """What a replica copies when it begins could be found before; what is written afterwards is told by every replica, under its name."""
    async with client_of(traced_stack) as (client, project):
        with request() as old:
            await client.upsert(project, [document("old")])
        await arrived(shared_collector, old, [SEARCHABLE])
        async with replica_beside(traced_stack, "second", {}):
            with request() as new:
                await client.upsert(project, [document("new")])
            told = await arrived(shared_collector, new, [SEARCHABLE], lambda seen: {"query", "second"} <= replicas(seen))
    assert sorted(str(span.attributes["kb.replica"]) for span in told[SEARCHABLE]) == ["query", "second"]
    assert "second" not in replicas(shared_collector.spans(old))


# --- what must not be in them --------------------------------------------------------------------------------------------------------------


async def test_no_text_is_in_a_trace(traced_stack: Stack, shared_collector: Collector) -> None:
    """Neither of documents nor of queries: not in what succeeds, nor in what is refused for what it says."""
    async with client_of(traced_stack) as (client, project):
        with request() as trace_id:
            written = await client.upsert(project, [DocumentInput(DocumentId("a"), f"Title {SECRET}", f"Text {SECRET}.", {"note": SECRET})])
            await client.search(project, SearchQuery(f"what is {SECRET}", at_least_as_fresh=written.consistency_token))
            with pytest.raises(InvalidArgumentError):
                await client.search(project, SearchQuery("words", page_token=SECRET))
            with pytest.raises(KnowledgeBeastError):
                await client.search(project, SearchQuery("words", at_least_as_fresh=SECRET))
        await arrived(
            shared_collector, trace_id, [EMBEDDED, SEARCHABLE, BY_MEANING], lambda seen: sum(span.name.endswith("/Search") for span in seen) == 3
        )
    assert SECRET.encode() not in shared_collector.content()
    assert project.encode() in shared_collector.content()


async def test_the_text_of_a_query_is_in_its_trace_where_that_is_asked_for(traced_stack: Stack) -> None:
    """With KB_TRACE_CONTENT the search's span has what was searched for, its beginning; documents' texts are in none even so."""
    with Collector() as collector:
        variables = {"KB_TRACE_CONTENT": "true", "KB_TRACE_ENDPOINT": collector.endpoint}
        async with client_of(traced_stack) as (client, project), replica_beside(traced_stack, "telling", variables) as (_, address, _http):
            written = await client.upsert(project, [document("a", f"Text {SECRET}.")])
            async with KnowledgeBeast(traced_stack.indexer_address, address) as other:
                with request() as trace_id:
                    await other.search(project, SearchQuery("ferry " * 500, at_least_as_fresh=written.consistency_token))
            spans = await arrived(collector, trace_id, ["Search"])
        assert spans["HybridQueryEngine.search_hybrid"][0].attributes["kb.query.text"] == ("ferry " * 500)[:500]
        assert SECRET.encode() not in collector.content()


# --- which traces are recorded -------------------------------------------------------------------------------------------------------------


def logged(log: Path, trace_id: str) -> set[str]:
    """The methods whose access lines carry a trace id."""
    lines = (json.loads(line) for line in log.read_text().splitlines() if line.startswith("{"))
    return {line["method"].rpartition("/")[2] for line in lines if line.get("trace_id") == trace_id and "method" in line}


async def test_a_request_that_its_client_does_not_record_is_not_exported_and_has_ids_in_its_logs(
    traced_stack: Stack, shared_collector: Collector
) -> None:
    """Both services honour the client's decision, in the background too, although they record every trace of their own."""
    async with client_of(traced_stack) as (client, project):
        with request(UNSAMPLED) as trace_id:
            written = await client.upsert(project, [document("a")])
            await client.search(project, SearchQuery("ferry", at_least_as_fresh=written.consistency_token))

        async def lines() -> set[str]:
            return logged(traced_stack.indexer.log, trace_id) | logged(traced_stack.query.log, trace_id)

        await eventually(lines, lambda seen: seen >= {"UpsertDocuments", "Search"}, seconds=10)
        with request() as later:
            await client.upsert(project, [document("b")])
        await arrived(shared_collector, later, [EMBEDDED, SEARCHABLE], lambda seen: [span.name for span in seen].count(BY_MEANING) == 2)
    assert shared_collector.spans(trace_id) == []
    assert all(link.trace_id != trace_id for span in shared_collector.spans() for link in span.links)


def test_one_trace_in_a_hundred_is_recorded_and_both_services_agree_on_which() -> None:
    """The decision is made of the trace id alone where a trace begins, and is taken over from there whatever the ratio of whoever takes it over."""
    indexer, query = TracerProvider(sampler=sampler(0.01)), TracerProvider(sampler=sampler(0.5))
    ours, theirs = indexer.get_tracer("tests"), query.get_tracer("tests")
    recorded = 0
    for _ in range(20_000):
        root = ours.start_span("root")
        child = theirs.start_span("child", trace.set_span_in_context(NonRecordingSpan(root.get_span_context())))
        assert child.is_recording() is root.is_recording()
        recorded += root.is_recording()
    assert 120 <= recorded <= 280  # 200 expected, standard deviation 14


def test_work_in_the_background_is_recorded_for_recorded_requests() -> None:
    """A batch with a recorded write in it is recorded whatever the ratio, else the write's link to it would lead nowhere; one without is not."""
    provider = TracerProvider(sampler=sampler(0.0))
    tracer = tracing.get_tracer("tests", provider)
    of_recorded = tracing.links([TraceContext(f"00-{uuid.uuid4().hex}-00000000000000{end}") for end in ("01-03", "02-00")])
    of_others = tracing.links([TraceContext(f"00-{uuid.uuid4().hex}-0000000000000003-02")])
    with tracer.start_as_current_span("batch", links=of_recorded) as span:
        assert span.is_recording()
    with tracer.start_as_current_span("batch", links=of_others) as span:
        assert not span.is_recording()
    assert len(tracing.links([TraceContext(f"00-{uuid.uuid4().hex}-0000000000000001-01") for _ in range(100)])) == 16


# --- retries and the breaker ---------------------------------------------------------------------------------------------------------------


async def test_each_retry_and_each_rejection_of_the_breaker_is_an_event_of_the_span_that_runs() -> None:
    """A store that is down: the second and third attempts are told with their waits, then the open breaker's refusal."""
    exporter, provider = InMemorySpanExporter(), TracerProvider(sampler=ALWAYS_ON, shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    inner = FakeVectorStore()
    inner.fail()

    async def no_wait(_seconds: float) -> None:
        """Time is not what this is about."""

    policy = RetryPolicy(attempts=3, initial=0.5, jitter=0.0, sleep=no_wait)
    store = ResilientVectorStore(inner, breaker=Breaker(failure_threshold=3), retry=policy, budget=RetryBudget())
    tracer = tracing.get_tracer("tests", provider)
    for _ in range(2):
        with pytest.raises(VectorStoreUnavailableError), tracer.start_as_current_span("work"):
            await store.list_collections(timeout=30)
    first, second = exporter.get_finished_spans()
    assert [(event.name, dict(event.attributes or {})) for event in first.events] == [
        ("retry", {"kb.retry.attempt": 2, "kb.retry.wait_seconds": 0.5, "error.type": "VECTOR_STORE_UNAVAILABLE"}),
        ("retry", {"kb.retry.attempt": 3, "kb.retry.wait_seconds": 1.0, "error.type": "VECTOR_STORE_UNAVAILABLE"}),
        ("exception", {"exception.type": "shared.errors.VectorStoreUnavailableError"}),
    ]
    assert [event.name for event in second.events] == ["breaker.rejected", "exception"]
    assert second.status.description == CircuitOpenError.reason


# --- a collector that does not answer ------------------------------------------------------------------------------------------------------


async def metric(port: int, name: str) -> float:
    """The value of a series as /metrics shows it."""
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/metrics") as response:
        lines = (await response.text()).splitlines()
    return next((float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(f"{name} ")), 0.0)


async def test_a_collector_that_hangs_costs_spans_and_nothing_else(traced_stack: Stack) -> None:
    """Searches go on as before, spans beyond the queue are dropped and counted, the log has one line of it, and the service stops in time."""
    with Collector() as collector:
        collector.hold()
        variables = {"KB_TRACE_ENDPOINT": collector.endpoint, "KB_RESULT_CACHE_BYTES": "0"}
        async with client_of(traced_stack) as (client, project), replica_beside(traced_stack, "hindered", variables) as (process, address, http):
            written = await client.upsert(project, [document("a")])
            async with KnowledgeBeast(traced_stack.indexer_address, address) as other:
                longest = 0.0
                await other.search(project, SearchQuery("ferry", at_least_as_fresh=written.consistency_token))

                async def search() -> float:
                    """Four searches side by side, ten times over; how many spans have been dropped by then."""
                    nonlocal longest
                    for _ in range(10):
                        began = time.monotonic()
                        with request():
                            await asyncio.gather(*(other.search(project, SearchQuery("ferry")) for _ in range(4)))
                        longest = max(longest, time.monotonic() - began)
                    return await metric(http, 'kb_spans_dropped_total{reason="queue_full"}')

                await eventually(search, lambda dropped: dropped > 100, seconds=60)
                assert longest < 4.0  # an export has a time limit of 5 seconds: no search has waited for one
                assert await metric(http, "kb_spans_exported_total") == 0
                await eventually(lambda: metric(http, 'kb_spans_dropped_total{reason="export_failed"}'), lambda lost: lost >= 256, seconds=20)
            began = time.monotonic()
            await process.stop(20)
            assert time.monotonic() - began < 10
            assert process.returncode == 0
        lines = [json.loads(line) for line in process.log.read_text().splitlines() if line.startswith("{")]
        assert [line["level"] for line in lines if line["logger"] == "shared.observability.span_export"] == ["warning"]
        assert not [line for line in lines if line["logger"].startswith("opentelemetry")]

"""The metrics of real services: that all of them are there, that they say what happened, and that their labels are bounded."""

from __future__ import annotations

import asyncio
import io
import math
import re
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import aiohttp
import grpc
import promql_parser
import pytest
import pytest_asyncio
from google.protobuf import descriptor_pool
from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.metrics_core import GaugeMetricFamily, Metric

from services.cli.stack.stack import Stack
from services.indexer import bootstrap as indexer_bootstrap
from services.indexer.application.followers import Followers
from services.query import bootstrap as query_bootstrap
from services.query.feed_lag import FeedLag
from services.query.replica import Replica
from shared.client import KnowledgeBeast
from shared.domain import Cursor, DocumentBatch, FeedEvent, Heartbeat, ProjectId, Range, SequenceNumber, TraceContext, VectorSequence
from shared.gen.knowledgebeast.indexer.v1 import change_feed_pb2, change_feed_pb2_grpc
from shared.observability import exemplars, guarded, http, logging, metrics, metrics_docs
from shared.observability.metrics import DEFINITIONS, REGISTRY, Definition
from shared.rpc.channel import create_channel
from shared.rpc.metrics import code_label
from shared.watchdog import LoopWatchdog
from tests.fixtures.stack import running_stack
from tests.integration.test_follower import following, until
from tests.observability.scrape import Scrape, scrape
from tests.observability.story import DOCUMENTS, PROJECTS, SETTINGS, Story, tell
from tests.observability.test_write_traces import Script
from tests.waiting import eventually

ROOT = Path(__file__).resolve().parents[2]
_OWN = ("python_", "process_")  # of the client library, about the process

# What the story does not lead to, and why.
_ELSEWHERE = {
    "kb_requests_in_flight": "for milliseconds",
    "kb_requests_waiting": "needs too much to do: tests/reliability/test_load_shedding.py",
    "kb_requests_shed_total": "same",
    "kb_searches_shared_total": "needs equal searches in the same millisecond: tests/unit/test_flights.py",
    "kb_reranking_duration_seconds": "needs a cross-encoder: tests/integration/test_reranking.py",
    "kb_reranker_loaded": "same",
    "kb_search_ndcg": "the canary is off by default, and has tests of its own",
    "kb_search_canary_duration_seconds": "same",
    "kb_search_canary_runs_total": "same",
    "kb_search_canary_last_success_timestamp_seconds": "same",
    "kb_search_canary_interval_seconds": "same",
    "kb_catalog_write_queue_bytes": "for milliseconds",
    "kb_catalog_damaged_documents": "needs a damaged disk: tests/integration/test_scrubber.py",
    "kb_feed_follower_lag_sequences": "needs a consumer that does not read: below",
    "kb_feed_lag_sequences": "for milliseconds",
    "kb_quarantined_chunks": "needs a vector store that refuses a chunk: tests/integration/test_quarantine.py",
    "kb_quarantine_events_total": "same",
    "kb_reconcile_differences_total": "needs a vector store that loses vectors: tests/integration/test_reconciler.py",
    "kb_reconcile_repaired_total": "same",
    "kb_replica_differences_total": "needs a damaged replica: tests/integration/test_replica_verification.py",
    "kb_spans_exported_total": "needs a collector: test_opentelemetry.py",
    "kb_spans_dropped_total": "same",
    "kb_log_lines_lost_total": "needs a stream that nobody reads: test_structured_logging.py",
}


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def story(tmp_path_factory: pytest.TempPathFactory, model_dir: Path) -> AsyncIterator[Story]:
    """What a stack of its own has shown."""
    async with running_stack(tmp_path_factory.mktemp("story"), model_dir, SETTINGS) as stack:
        yield await tell(stack)


def of_service(service: str) -> list[Definition]:
    """What a service should show."""
    return [definition for definition in DEFINITIONS if service in definition.services]


def family(definition: Definition) -> str:
    """Its name in OpenMetrics, where a counter's family has no suffix."""
    return definition.name.removesuffix("_total") if definition.kind == "counter" else definition.name


def methods(services: Iterable[str]) -> set[tuple[str, str]]:
    """Service and method of every RPC."""
    pool = descriptor_pool.Default()
    return {(service, method.name) for service in services for method in pool.FindServiceByName(service).methods}


def grew(story: Story, before: str, after: str, name: str, **labels: str) -> float:
    """By how much a sample of the query service grew from one chapter to another."""
    return story.query[after].value(name, **labels) - story.query[before].value(name, **labels)


# --- what there is ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("service", ["indexer", "query"])
def test_a_service_shows_exactly_what_is_declared_for_it(story: Story, service: str) -> None:
    """Every family with its type, unit and help; nothing of the other service, and nothing that is declared nowhere."""
    shown = getattr(story, service)["start"].families
    expected = {family(definition): (definition.kind, definition.unit, definition.text) for definition in of_service(service)}
    assert {name: (each.type, each.unit, each.documentation) for name, each in shown.items() if not name.startswith(_OWN)} == expected
    assert {name.partition("_")[0] for name in shown if name.startswith(_OWN)} == {"python", "process"}


def test_the_names_that_were_asked_for_are_there(story: Story) -> None:
    """With the types that were asked for; the gauge with a counter's suffix has the value of the one without."""
    asked = {
        "kb_query_duration_seconds": "histogram",
        "kb_embedding_cache_hits": "counter",
        "kb_embedding_cache_misses": "counter",
        "kb_vector_search_duration_seconds": "histogram",
        "kb_active_projects_total": "gauge",
        "kb_active_projects": "gauge",
        "grpc_server_started": "counter",
        "grpc_server_handled": "counter",
        "grpc_server_handling_seconds": "histogram",
    }
    counted = story.query["counted"]
    assert {name: counted.families[name].type for name in asked} == asked
    assert story.indexer["counted"].families["kb_chromadb_collection_size"].type == "gauge"
    for each in (story.indexer["counted"], counted):
        assert each.value("kb_active_projects") == each.value("kb_active_projects_total") == PROJECTS + 1


def test_prometheus_gets_openmetrics_and_others_get_text(story: Story) -> None:
    """What Prometheus 2.42 sends as Accept is answered with the format that has exemplars."""
    assert story.query["start"].content_type.startswith("application/openmetrics-text; version=1.0.0")


def test_unknown_values_are_no_statements(story: Story) -> None:
    """The quality of searches is NaN before it was measured: neither good nor bad."""
    assert math.isnan(story.query["start"].value("kb_search_ndcg"))
    assert story.query["start"].value("kb_disk_free_bytes") > 0, "which is known at once"


@pytest.mark.parametrize(
    ("service", "served", "called"),
    [
        ("indexer", indexer_bootstrap.SERVICES, ()),
        ("query", query_bootstrap.SERVICES, ("knowledgebeast.indexer.v1.ChangeFeedService",)),
    ],
)
def test_every_method_and_code_is_there_before_the_first_call(story: Story, service: str, served: tuple[str, ...], called: tuple[str, ...]) -> None:
    """Of the services that the process serves, the probe's included, and of those that it calls: a first error must be seen as an increase."""
    start: Scrape = getattr(story, service)["start"]
    codes = {code_label(code) for code in grpc.StatusCode}

    def there(name: str) -> dict[tuple[str, str], set[str]]:
        found: dict[tuple[str, str], set[str]] = {}
        for sample in start.samples(name):
            found.setdefault((sample.labels["grpc_service"], sample.labels["grpc_method"]), set()).add(sample.labels.get("grpc_code", ""))
        return found

    handled = there("grpc_server_handled_total")
    assert {method: handled[method] for method in methods((*served, "grpc.health.v1.Health"))} == dict.fromkeys(
        methods((*served, "grpc.health.v1.Health")), codes
    )
    for name in ("grpc_server_started_total", "grpc_server_msg_received_total", "grpc_server_msg_sent_total", "grpc_server_handling_seconds_count"):
        assert there(name).keys() == handled.keys()
    assert there("grpc_client_handled_total") == dict.fromkeys(methods(called), codes)


def test_every_metric_is_fed(story: Story) -> None:
    """Each family of each service shows something after all that has happened; what cannot have happened is named with its reason."""
    silent = {
        definition.name
        for service in ("indexer", "query")
        for definition in of_service(service)
        if not any(sample.value > 0 for each in getattr(story, service).values() for sample in each.families[family(definition)].samples)
    }
    assert silent <= _ELSEWHERE.keys()


def test_intervals_are_shown_for_alerts(story: Story) -> None:
    """How often something is to happen, so that it is late only by what was set; 0 says that it is not to happen."""
    indexer, query = story.indexer["start"], story.query["start"]
    assert indexer.value("kb_verify_interval_seconds") == float(SETTINGS["KB_VERIFY_INTERVAL"])
    assert query.value("kb_replica_verify_interval_seconds") == float(SETTINGS["KB_REPLICA_VERIFY_INTERVAL"])
    assert query.value("kb_search_canary_interval_seconds") == 0


def test_every_metric_is_used_by_the_code() -> None:
    """One that nothing sets would show 0 for ever, and a panel with it would say that all is well."""
    named = {id(value): name for name, value in vars(metrics).items() if not isinstance(value, ModuleType)}
    declared = ROOT / "shared" / "observability" / "metrics.py"
    files = [path for folder in ("shared", "services") for path in (ROOT / folder).rglob("*.py") if path != declared]
    code = "\n".join(path.read_text() for path in files)
    set_in_its_own_module = {"ACTIVE_PROJECTS", "ACTIVE_PROJECTS_TOTAL", "BUILD_INFO"}
    unused = {named[id(each.metric)] for each in DEFINITIONS if not re.search(rf"\b{named[id(each.metric)]}\b", code)}
    assert unused == set_in_its_own_module


# --- searching ----------------------------------------------------------------------------------------------------------------------------


def test_searches_are_counted_by_what_they_were(story: Story) -> None:
    """Three are of mode hybrid, one of which the result cache answers; one each of the other modes; finding what is similar is one, too."""
    modes = {"hybrid": 3, "vector": 1, "keyword": 1, "similar": 1}
    assert {mode: grew(story, "written", "searched", "kb_query_duration_seconds_count", mode=mode) for mode in modes} == modes
    expected = {
        "kb_result_cache_hits_total": 1,
        "kb_result_cache_misses_total": 4,
        "kb_fusion_duration_seconds_count": 2,
        "kb_vector_search_duration_seconds_count": 4,
        "kb_keyword_search_duration_seconds_count": 3,
        "kb_embedding_cache_misses_total": 2,
        "kb_embedding_cache_hits_total": 1,
        "kb_embedding_duration_seconds_count": 2,
        "kb_embedding_batch_size_sum": 2,
        "kb_degraded_answers_total": 0,
    }
    assert {name: grew(story, "written", "searched", name) for name in expected} == expected
    assert {leg: grew(story, "written", "searched", "kb_search_candidates_count", leg=leg) for leg in ("vector", "keyword")} == {
        "vector": 4,
        "keyword": 3,
    }
    assert grew(story, "written", "searched", "kb_search_candidates_sum", leg="vector") == 4 * 3, "the project has three chunks"


def test_calls_and_their_messages_are_counted(story: Story) -> None:
    """A unary call has one message each way; a feed has had many messages while it lasts, and has not ended."""
    search = {"grpc_service": "knowledgebeast.query.v1.QueryService", "grpc_method": "Search", "grpc_type": "unary"}
    for name in ("grpc_server_started_total", "grpc_server_msg_received_total", "grpc_server_msg_sent_total", "grpc_server_handling_seconds_count"):
        assert grew(story, "written", "searched", name, **search) == 5
    assert grew(story, "written", "searched", "grpc_server_handled_total", grpc_code="OK", **search) == 5

    feed = {"grpc_method": "WatchChanges"}
    written, streams = story.indexer["written"], PROJECTS + 2  # a project each, and the list
    assert written.value("grpc_server_started_total", **feed) == written.value("grpc_server_msg_received_total", **feed) == streams
    assert written.value("grpc_server_msg_sent_total", **feed) > 3 * streams, "reset, documents, vectors, heartbeats"
    assert written.value("grpc_server_handled_total", **feed) == 0


def test_exemplars_lead_to_recorded_traces_alone(story: Story) -> None:
    """Times of the search whose trace is recorded carry its id, those of the other none."""
    searched = story.query["searched"]
    for name in (
        "kb_query_duration_seconds",
        "kb_vector_search_duration_seconds",
        "kb_keyword_search_duration_seconds",
        "kb_chromadb_request_duration_seconds",
        "kb_embedding_duration_seconds",
        "grpc_server_handling_seconds",
    ):
        assert searched.traces(name) == {story.traces["search"]}, name


def test_a_degraded_search_says_so(story: Story) -> None:
    """With ChromaDB dead: the label, the reason, what stood in, the breaker, the component; and the service goes on being ready."""
    assert grew(story, "deleted", "outage", "kb_query_duration_seconds_count", degraded="true") == 4, "one of them of what is similar"
    assert grew(story, "deleted", "outage", "kb_query_duration_seconds_count", degraded="false") == 0
    assert grew(story, "deleted", "outage", "kb_degraded_answers_total", reason="vector_store_unavailable") == 4, "so it is a share of the answers"
    assert grew(story, "deleted", "outage", "kb_fallback_answers_total", step="replica_vectors") == 4
    assert grew(story, "deleted", "outage", "kb_breaker_transitions_total", to="open") >= 1
    outage = story.query["outage"]
    assert outage.value("kb_chromadb_request_duration_seconds_count", operation="query", outcome="unavailable") >= 1
    assert (outage.value("kb_chromadb_up"), outage.value("kb_component_status", component="chromadb")) == (0, 0)
    assert (outage.value("kb_ready"), outage.value("kb_component_status", component="database")) == (1, 2)


# --- from a write to a search -------------------------------------------------------------------------------------------------------------


def test_a_write_is_followed_until_searches_find_it(story: Story) -> None:
    """Each document once a leg, with the trace of its write where that is recorded; and what there is agrees everywhere."""
    indexer, query, documents = story.indexer["written"], story.query["written"], DOCUMENTS
    assert indexer.value("kb_documents_written_total", outcome="written") == documents
    assert indexer.value("kb_ingest_to_searchable_seconds_count", leg="vector") == documents
    assert query.value("kb_ingest_to_searchable_seconds_count", leg="keyword") == documents
    assert 0 < indexer.value("kb_ingest_to_searchable_seconds_sum", leg="vector") < 60 * documents
    assert indexer.traces("kb_ingest_to_searchable_seconds") == query.traces("kb_ingest_to_searchable_seconds") == {story.traces["write"]}
    assert indexer.traces("kb_catalog_commit_duration_seconds"), "of the write, or of the recorded work that it led to"
    for each, names in (
        (indexer, ("kb_projector_chunks_total", "kb_chromadb_collection_size")),
        (story.indexer["counted"], ("kb_catalog_documents", "kb_catalog_chunks")),
        (story.query["counted"], ("kb_replica_documents", "kb_replica_chunks", "kb_replica_vectors")),
    ):
        assert {name: each.value(name) for name in names} == dict.fromkeys(names, documents)
    assert {stream: query.value("kb_feed_changes_applied_total", stream=stream) for stream in ("documents", "vectors")} == {
        "documents": documents,
        "vectors": documents,
    }
    assert (indexer.value("kb_projector_lag_sequences"), indexer.value("kb_projector_lag_seconds")) == (0, 0)


def test_a_collection_that_is_written_again_is_no_news(story: Story) -> None:
    """A rebuilt collection does not count as documents that took so long to be found."""
    before, after = story.indexer["searched"], story.indexer["rebuilt"]
    assert after.value("kb_projector_chunks_total") == before.value("kb_projector_chunks_total") + 3
    assert after.value("kb_ingest_to_searchable_seconds_count", leg="vector") == before.value("kb_ingest_to_searchable_seconds_count", leg="vector")


def test_a_replica_that_begins_from_nothing_is_no_news(story: Story) -> None:
    """Nor does a copy of what other replicas have had all along."""
    another = story.query["another"]
    assert another.value("kb_feed_changes_applied_total", stream="documents") == DOCUMENTS
    assert another.value("kb_ingest_to_searchable_seconds_count", leg="keyword") == 0


def test_lag_grows_while_chromadb_is_away(story: Story) -> None:
    """One write waits, and its age is told."""
    outage = story.indexer["outage"]
    assert outage.value("kb_projector_lag_sequences") == 1
    assert 0 < outage.value("kb_projector_lag_seconds") < 60


def test_a_replica_without_an_indexer_says_since_when(story: Story) -> None:
    """Not connected, for so many seconds; each feed has ended for its client, and was asked for again."""
    alone = story.query["alone"]
    assert (alone.value("kb_feed_connected"), story.query["outage"].value("kb_feed_connected")) == (0, 1)
    assert alone.value("kb_feed_lag_seconds") > 0
    assert story.query["outage"].value("kb_feed_lag_seconds") == 0
    feed = {"grpc_method": "WatchChanges"}
    assert alone.value("grpc_client_handled_total", grpc_code="Unavailable", **feed) >= PROJECTS
    assert alone.value("grpc_client_handling_seconds_count", **feed) == alone.value("grpc_client_handled_total", **feed)
    assert story.query["written"].value("grpc_client_started_total", **feed) == PROJECTS + 2, "a feed counts when it begins"


# --- bounds -------------------------------------------------------------------------------------------------------------------------------


def test_collections_are_bounded_and_deleted_ones_go(story: Story) -> None:
    """Of all projects the 20 largest have names; the others' vectors are summed; a deleted one makes room for the next."""
    written, deleted = story.indexer["written"], story.indexer["deleted"]
    sizes = {sample.labels["project"]: sample.value for sample in written.samples("kb_chromadb_collection_size")}
    assert len(sizes) == 21
    assert {name: size for name, size in sizes.items() if size == 3} == dict.fromkeys([*(f"many-{number:02}" for number in range(5)), "told"], 3)
    assert sizes["_other"] == PROJECTS + 1 - 20
    after = deleted.labels("kb_chromadb_collection_size", "project")
    assert len(after) == 21
    assert "many-00" not in after


def test_followers_have_names_while_they_follow(story: Story) -> None:
    """The second query service was one of two, and is none any more when it has ended."""
    assert len(story.indexer["another"].labels("kb_feed_follower_lag_sequences", "follower")) == 2
    assert len(story.indexer["deleted"].labels("kb_feed_follower_lag_sequences", "follower")) == 1
    streams = {name: story.indexer[name].value("kb_feed_streams", stream="project") for name in ("written", "another")}
    assert streams == {"written": PROJECTS + 1, "another": 2 * (PROJECTS + 1)}


async def test_more_than_fifty_followers_share_a_name(stack: Stack) -> None:
    """Whoever gives itself ever new names makes no more than so many series, and none is left when they are gone."""
    project = f"p-{uuid.uuid4().hex[:12]}"

    async def names() -> set[str]:
        return (await scrape(stack.ports.indexer_http)).labels("kb_feed_follower_lag_sequences", "follower")

    async with KnowledgeBeast(stack.indexer_address, stack.query_address) as kb:
        await kb.create_project(project)
    await eventually(names, bool, seconds=10)  # the query service has its name before the readers take all
    async with create_channel(stack.indexer_address, max_message_bytes=16_000_000) as channel:
        stub: Any = change_feed_pb2_grpc.ChangeFeedServiceStub(channel)
        scope = change_feed_pb2.ProjectScope(project_id=project)
        calls = [stub.WatchChanges(change_feed_pb2.WatchChangesRequest(project=scope, consumer=f"reader-{number:02}")) for number in range(60)]
        for call in calls:
            await call.read()
        shown = await names()
        assert len(shown) == 50 + 1
        assert "_other" in shown
        for call in calls:
            call.cancel()
    await eventually(names, lambda seen: not any(name.startswith(("reader-", "_other")) for name in seen), seconds=10)


async def test_a_consumer_that_does_not_read_falls_behind() -> None:
    """Its lag grows with the head of the catalog although its stream tells nothing, and shrinks with what it is sent."""
    project, followers = ProjectId("p"), Followers()

    async def events() -> AsyncGenerator[FeedEvent, None]:
        yield DocumentBatch(Range("e", SequenceNumber(3), SequenceNumber(5), SequenceNumber(9)), ())
        yield Heartbeat("e", SequenceNumber(9), VectorSequence(0), datetime.now(UTC))

    def lag() -> float | None:
        return REGISTRY.get_sample_value("kb_feed_follower_lag_sequences", {"follower": "slow"})

    async with aclosing(followers.project("slow", project, Cursor("e", SequenceNumber(3)), events())) as stream:
        await anext(stream)
        followers.heads = {project: SequenceNumber(4)}
        assert lag() == 1
        followers.heads = {project: SequenceNumber(9)}
        assert lag() == 6
        await anext(stream)  # and with that the one before has been taken
        assert lag() == 4
    assert lag() is None


# --- of the process -----------------------------------------------------------------------------------------------------------------------


def test_lag_counts_from_the_last_complete_moment() -> None:
    """0 while the replica has everything, then the time since."""
    now, complete = 100.0, False
    lag = FeedLag(lambda: complete, lambda: None, clock=lambda: now)
    now = 103.0
    assert lag.seconds() == 3, "since the start"
    complete = True
    assert lag.seconds() == 0
    complete, now = False, 110.0
    assert lag.seconds() == 7


def test_lag_is_the_age_of_what_came_last_while_more_may_come() -> None:
    """Although all that was heard of is here; the larger of both counts."""
    now, as_of, complete = 100.0, 1_000.0, True
    lag = FeedLag(lambda: complete, lambda: as_of, clock=lambda: now, wall=lambda: 1_009.8)
    assert lag.seconds() == pytest.approx(9.8)
    complete, now = False, 120.0
    assert lag.seconds() == 20


async def test_a_slow_replica_is_behind_although_it_has_all_that_it_heard_of(tmp_path: Path) -> None:
    """While it applies a batch, what is behind that is unheard, and the age of what came before grows. A late heartbeat is no all-clear."""
    go_on, applying = threading.Event(), threading.Event()
    go_on.set()

    def step(name: str) -> None:
        if name == "documents stored" and not go_on.is_set():
            applying.set()
            go_on.wait(30)

    script, replica = Script(), Replica.open(tmp_path / "replica", vectors_max=1_000, step=step)

    def heartbeat(sent: datetime) -> None:
        script.events.put_nowait(Heartbeat("e1", SequenceNumber(3), VectorSequence(0), sent))

    async def heard() -> float | None:
        heartbeat(datetime.now(UTC))
        return follower.as_of

    async with following(script, replica) as follower:
        began = datetime.now(UTC)
        now = began.timestamp() + 9.8
        lag = FeedLag(lambda: all(project.lag == 0 for project in replica.projects()), lambda: follower.as_of, wall=lambda: now)
        script.reset()
        script.send(0, 2, ("a", TraceContext(), began), ("b", TraceContext(), began))
        await until(lambda: follower.as_of is not None)
        assert replica.project(ProjectId("p")).lag == 0
        assert lag.seconds() == pytest.approx(9.8), "nobody has said that there is no more"
        go_on.clear()
        script.send(2, 3, ("c", TraceContext(), began + timedelta(seconds=2)))
        await until(applying.is_set)
        heartbeat(datetime.now(UTC))
        now += 1
        assert lag.seconds() == pytest.approx(10.8)
        go_on.set()
        await eventually(heard, lambda as_of: as_of is None)
        assert lag.seconds() < 1
        late = began - timedelta(seconds=5)
        heartbeat(late)
        await until(lambda: follower.as_of is not None)
        assert follower.as_of == late.timestamp()
        await eventually(heard, lambda as_of: as_of is None)
    replica.close()


async def test_what_is_committed_during_a_copy_counts_as_a_write(tmp_path: Path) -> None:
    """Of a first copy what was there before does not count, but the write right after the project was created does."""
    script, replica = Script(), Replica.open(tmp_path / "replica", vectors_max=1_000)

    def counted() -> float:
        return REGISTRY.get_sample_value("kb_ingest_to_searchable_seconds_count", {"leg": "keyword"}) or 0.0

    before = counted()
    async with following(script, replica) as follower:
        script.reset()
        script.send(0, 2, ("old", TraceContext(), datetime(2001, 1, 1, tzinfo=UTC)), ("new", TraceContext(), datetime.now(UTC)))
        await until(lambda: follower.as_of is not None)
    replica.close()
    assert counted() == before + 1


async def test_a_late_event_loop_is_measured() -> None:
    """A loop that something held up for half a second shows a beat that was as late."""

    def late() -> float:
        slow = REGISTRY.get_sample_value("kb_event_loop_delay_seconds_bucket", {"le": "0.25"}) or 0
        return (REGISTRY.get_sample_value("kb_event_loop_delay_seconds_count") or 0) - slow

    before = late()
    watchdog = LoopWatchdog(0.4, lambda _alive: None)  # beats every 0.1 s
    watchdog.start()
    try:
        time.sleep(0.5)  # noqa: ASYNC251 - holds up the loop, as something that belongs in a thread would

        async def seen() -> float:
            return late()

        await eventually(seen, lambda count: count > before, seconds=10)
    finally:
        watchdog.stop()


async def test_a_scrape_is_quick(stack: Stack) -> None:
    """A tenth of a second at most, of either service."""
    for port in (stack.ports.indexer_http, stack.ports.query_http):
        took = []
        async with aiohttp.ClientSession() as session:
            for _ in range(5):
                started = time.perf_counter()
                async with session.get(f"http://127.0.0.1:{port}/metrics") as response:
                    await response.read()
                took.append(time.perf_counter() - started)
        assert min(took) < 0.1


async def test_a_scrape_holds_up_nothing() -> None:
    """While one is being made, which a hung disk could make last, the event loop answers others."""
    begun, go_on = threading.Event(), threading.Event()

    class Slow:
        def collect(self) -> Iterable[Metric]:
            begun.set()
            go_on.wait(30)
            yield GaugeMetricFamily("slow", "Took its time.", value=1)

    registry = CollectorRegistry()
    registry.register(Slow())
    app = http.create_app(lambda: {"status": "healthy"}, registry)
    async with http.serving(app, "127.0.0.1", 0) as port, aiohttp.ClientSession() as session:
        shown = asyncio.create_task(_text(session, port, "metrics"))
        try:
            await asyncio.to_thread(begun.wait, 30)
            assert "healthy" in await _text(session, port, "health")
            assert not shown.done()
        finally:
            go_on.set()
        assert "slow 1.0" in await shown


async def _text(session: aiohttp.ClientSession, port: int, path: str) -> str:
    async with session.get(f"http://127.0.0.1:{port}/{path}") as response:
        return await response.text()


async def test_a_gauge_that_cannot_be_read_costs_nothing_but_itself() -> None:
    """It is NaN, the others are shown, and the log says it once."""
    registry = CollectorRegistry()
    broken, sound = Gauge("kb_broken", "Cannot be read.", registry=registry), Gauge("kb_sound", "Can be read.", registry=registry)
    guarded.read_at_scrape(broken, lambda: 1 / 0)
    guarded.read_at_scrape(sound, lambda: 7)
    logged = io.StringIO()
    logging.configure("tests", stream=logged)
    try:
        async with http.serving(http.create_app(lambda: {"status": "healthy"}, registry), "127.0.0.1", 0) as port:
            for _ in range(2):
                shown = await scrape(port)
                assert math.isnan(shown.value("kb_broken"))
                assert shown.value("kb_sound") == 7
    finally:
        logging.configure("tests")
    assert logged.getvalue().count("kb_broken") == 1


def test_every_gauge_that_is_read_at_a_scrape_is_guarded() -> None:
    """One that sets its function itself would cost the whole scrape the day it fails."""
    files = [path for folder in ("shared", "services") for path in (ROOT / folder).rglob("*.py") if ".set_function(" in path.read_text()]
    assert [path.name for path in files] == ["guarded.py"]


def test_what_is_unknown_at_the_start_is_no_statement() -> None:
    """In a process that has not looked yet, ChromaDB is neither up nor down."""
    program = "from shared.observability.metrics import REGISTRY; print(REGISTRY.get_sample_value('kb_chromadb_up'))"
    assert subprocess.check_output([sys.executable, "-c", program], cwd=ROOT, text=True).strip() == "nan"


@pytest.mark.parametrize("flags", ["00", "02"])
def test_a_malformed_or_unrecorded_trace_is_no_exemplar(flags: str) -> None:
    """The catalog holds what clients sent: only a recorded trace of the right form is named."""
    trace_id = "0af7651916cd43dd8448eb211c80319c"

    def named(traceparent: str) -> dict[str, str] | None:
        return exemplars.of(TraceContext(traceparent))

    assert named(f"00-{trace_id}-b7ad6b7169203331-01") == {"trace_id": trace_id}
    assert named(f"00-{trace_id}-b7ad6b7169203331-{flags}") is None
    assert [named(text) for text in ("", "01", "00-x-y-01", f"00-{trace_id}\ufffd-b7ad6b7169203331-01")] == [None] * 4


# --- the document -------------------------------------------------------------------------------------------------------------------------


def test_the_document_has_every_metric() -> None:
    """docs/metrics.md is what the definitions make of it: each metric has a row with its labels."""
    text = (ROOT / "docs" / "metrics.md").read_text()
    assert text.rstrip() == metrics_docs.render(DEFINITIONS).rstrip()
    rows = [line for line in text.splitlines() if line.startswith("| `") and line.count(" | ") >= 5]
    assert [row.split("`")[1] for row in rows] == [definition.name for definition in DEFINITIONS]


@pytest.mark.parametrize(("question", "expression"), metrics_docs.EXAMPLES)
def test_its_examples_are_promql_about_metrics_that_exist(question: str, expression: str) -> None:
    """Each parses, asks for samples that a definition has, and for labels that the metric has."""
    assert question
    promql_parser.parse(expression)
    samples = {name: definition for definition in DEFINITIONS for name in _sample_names(definition)}
    for name, matchers in re.findall(r"\b((?:kb|grpc_server)_\w+)\b(\{[^}]*\})?", expression):
        labels = {label.name for label in samples[name].labels} | {"le"}
        assert set(re.findall(r"(\w+)[=!]", matchers)) <= labels


def _sample_names(definition: Definition) -> tuple[str, ...]:
    if definition.kind == "histogram":
        return tuple(f"{definition.name}_{suffix}" for suffix in ("bucket", "count", "sum"))
    return (definition.name,)

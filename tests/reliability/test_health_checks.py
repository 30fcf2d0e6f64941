"""Health under faults: probes while the event loop, ChromaDB, the model or the disk are not as they should be."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import statistics
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from services.cli.json_forms import service as as_json
from services.cli.stack.stack import Ports, Stack
from shared import health_server
from shared.checks import add_common_checks
from shared.chroma.factory import ChromaStore
from shared.client import KnowledgeBeast, SearchMode, SearchQuery
from shared.errors import ConfigurationError, NotFoundError, UnavailableError, VectorStoreUnavailableError
from shared.gen.knowledgebeast.ops.v1 import status_pb2, status_pb2_grpc
from shared.health import HealthMonitor
from shared.resilience.breaker import Breaker
from shared.rpc import chain
from shared.rpc.health_service import HealthServicer
from shared.rpc.server import bind, create_server, serving
from shared.serving import ServingStates
from shared.warm_up import warm_up
from tests.e2e.test_grpcurl import call as grpcurl
from tests.fakes.vector_store import FakeVectorStore
from tests.fixtures.world import LineEmbedder
from tests.waiting import eventually

ROOT = Path(__file__).parents[2]
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
SERVICE = "knowledgebeast.query.v1.QueryService"


class Probe:
    """A client of grpc.health.v1 at one address."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub: Any = health_pb2_grpc.HealthStub(channel)  # its type stub has no methods

    async def check(self, service: str = "", timeout: float = 10.0) -> int:
        """What Check answers."""
        response = await self._stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=timeout)
        return int(response.status)

    def watch(self, service: str = "") -> Watch:
        """A call of Watch."""
        return Watch(self._stub.Watch(health_pb2.HealthCheckRequest(service=service)))


class Watch:
    """What a watcher is told."""

    def __init__(self, call: Any) -> None:  # noqa: ANN401 - gRPC's call
        self.call = call

    async def next(self) -> int | None:
        """The next state; None at the end."""
        async with asyncio.timeout(20):
            response = await self.call.read()
        return None if response is grpc.aio.EOF else int(response.status)


@asynccontextmanager
async def probing(address: str) -> AsyncIterator[Probe]:
    """A probe with a connection of its own."""
    async with grpc.aio.insecure_channel(address) as channel:
        yield Probe(channel)


@dataclass
class Health:
    """The states of a service and its two gRPC servers."""

    states: ServingStates
    servicer: HealthServicer
    ports: dict[str, int]
    stack: AsyncExitStack = field(default_factory=AsyncExitStack)


@pytest.fixture
async def health() -> AsyncIterator[Health]:
    """A service that has just begun to start."""
    states = ServingStates([SERVICE])
    servicer = HealthServicer(states)
    server = create_server(interceptors=chain.interceptors(), max_message_bytes=1024 * 1024)
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    port = bind(server, "127.0.0.1", 0)
    async with health_server.serving(states, "127.0.0.1", 0, stall=60.0) as own, serving(server, grace=30.0):
        yield Health(states, servicer, {"health port": own, "service port": port})
        servicer.end_watches()


@pytest.fixture(params=["health port", "service port"])
async def probe(request: pytest.FixtureRequest, health: Health) -> AsyncIterator[Probe]:
    """A probe of each of the two ports."""
    async with probing(f"127.0.0.1:{health.ports[request.param]}") as one:
        yield one


# --- grpc.health.v1 on both ports --------------------------------------------------------------------------------------------------------------


async def test_a_start_is_alive_then_started_and_ready(health: Health, probe: Probe) -> None:
    """`liveness` from the beginning; the others once requests can be taken; `startup` stays when readiness goes."""
    names = ("", "liveness", "readiness", "startup", SERVICE)
    assert [await probe.check(name) == SERVING for name in names] == [False, True, False, False, False]
    health.states.set_ready(True)
    assert [await probe.check(name) == SERVING for name in names] == [True] * 5
    health.states.set_ready(False)
    assert [await probe.check(name) == SERVING for name in names] == [False, True, False, True, False]


async def test_watchers_are_told_of_every_change(health: Health, probe: Probe) -> None:
    """The state at once, then each change, from whichever thread it comes."""
    watches = {name: probe.watch(name) for name in ("readiness", "liveness", SERVICE)}
    assert {name: await watch.next() for name, watch in watches.items()} == {"readiness": NOT_SERVING, "liveness": SERVING, SERVICE: NOT_SERVING}
    health.states.set_ready(True)
    assert [await watches[name].next() for name in ("readiness", SERVICE)] == [SERVING, SERVING]
    threading.Timer(0.2, health.states.set_alive, (False,)).start()  # while the loop sleeps: it must be woken
    assert await watches["liveness"].next() == NOT_SERVING
    health.states.set_ready(False)
    assert await watches["readiness"].next() == NOT_SERVING
    for watch in watches.values():
        watch.call.cancel()


async def test_an_unknown_service_is_not_found_and_can_be_watched(probe: Probe) -> None:
    """As the protocol wants it: NOT_FOUND for Check, SERVICE_UNKNOWN on a Watch that goes on."""
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await probe.check("no.such.Service")
    assert raised.value.code() is grpc.StatusCode.NOT_FOUND
    watch = probe.watch("no.such.Service")
    assert await watch.next() == UNKNOWN
    assert not watch.call.done()
    watch.call.cancel()


async def test_watchers_leave_threads_for_checks(health: Health) -> None:
    """Each watcher of the health port holds a thread: those beyond its places are refused, checks are answered, and whoever leaves makes room."""
    async with probing(f"127.0.0.1:{health.ports['health port']}") as probe:
        watches = [probe.watch() for _ in range(32)]
        for watch in watches:
            assert await watch.next() == NOT_SERVING
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await probe.watch().next()
        assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert [await probe.check("liveness", timeout=2.0) for _ in range(20)] == [SERVING] * 20
        watches[0].call.cancel()

        async def another() -> bool:
            watch = probe.watch()
            try:
                return await watch.next() == NOT_SERVING
            except grpc.aio.AioRpcError:
                return False
            finally:
                watch.call.cancel()

        await eventually(another, bool, seconds=10)
        for watch in watches:
            watch.call.cancel()


async def test_watchers_do_not_hold_up_the_end(health: Health) -> None:
    """They are told NOT_SERVING, then the call ends by itself, so a server stops without waiting for its grace (30 s here)."""
    health.states.set_ready(True)
    async with probing(f"127.0.0.1:{health.ports['service port']}") as probe:
        watch = probe.watch()
        assert await watch.next() == SERVING
        health.states.set_ready(False)
        health.servicer.end_watches()
        assert [await watch.next(), await watch.next()] == [NOT_SERVING, None]
        assert await watch.call.code() is grpc.StatusCode.OK


async def test_a_health_port_that_is_taken_is_a_configuration_error(health: Health) -> None:
    """It is not shared in silence, and the message names the setting."""
    port = health.ports["health port"]
    with pytest.raises(ConfigurationError, match=f"127.0.0.1:{port}.*KB_QUERY_HEALTH_PORT"):
        async with health_server.serving(health.states, "127.0.0.1", port, stall=60.0, setting="KB_QUERY_HEALTH_PORT"):
            pass


# --- the event loop ------------------------------------------------------------------------------------------------------------------------------

LOOP = """
import asyncio, sys, time
import uvloop
from shared import health_server
from shared.observability import logging
from shared.serving import ServingStates
logging.configure("tests", "info", "json")

def stand_still(seconds):
    time.sleep(seconds)

async def main():
    states = ServingStates()
    async with health_server.serving(states, "127.0.0.1", 0, stall=0.4) as port:
        states.set_ready(True)
        print(port, flush=True)
        loop = asyncio.get_running_loop()
        while command := await asyncio.to_thread(sys.stdin.readline):
            loop.call_soon(stand_still, float(command))

uvloop.run(main())
"""


@dataclass
class LoopProcess:
    """A process with the real health server, whose event loop stands still on demand."""

    process: asyncio.subprocess.Process
    probe: Probe

    def stand_still(self, seconds: float) -> None:
        """Blocks its loop."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{seconds}\n".encode())

    async def end(self) -> list[dict[str, Any]]:
        """Ends it; what it logged."""
        output, _ = await asyncio.wait_for(self.process.communicate(b""), 20)
        assert self.process.returncode == 0
        return [json.loads(line) for line in output.splitlines()]


@pytest.fixture
async def loop_process() -> AsyncIterator[LoopProcess]:
    """The process, whose loop may stand still for 0.4 s."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", LOOP, cwd=ROOT, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(30):
            port = int(await process.stdout.readline())
        async with probing(f"127.0.0.1:{port}") as probe:
            yield LoopProcess(process, probe)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_a_blocked_loop_fails_liveness_until_it_runs_again(loop_process: LoopProcess) -> None:
    """The health port answers all the time; only `liveness` changes, and comes back by itself."""
    watch = loop_process.probe.watch("liveness")
    assert await watch.next() == SERVING
    loop_process.stand_still(2.0)
    assert await watch.next() == NOT_SERVING
    began = time.perf_counter()
    assert await loop_process.probe.check("readiness") == SERVING
    assert await loop_process.probe.check("liveness") == NOT_SERVING
    assert time.perf_counter() - began < 1.0
    assert await watch.next() == SERVING
    watch.call.cancel()


async def test_what_blocks_the_loop_is_logged_once(loop_process: LoopProcess) -> None:
    """One line with the stack of the loop's thread when it stands still, one when it runs again."""
    watch = loop_process.probe.watch("liveness")
    loop_process.stand_still(1.5)
    assert [await watch.next() for _ in range(3)] == [SERVING, NOT_SERVING, SERVING]
    watch.call.cancel()
    still, again = await loop_process.end()
    assert (still["level"], still["event"]) == ("error", "the event loop stands still")
    assert "in stand_still" in still["stack"]
    assert (again["event"], again["stood_still_s"] >= 0.9) == ("the event loop runs again", True)


async def test_a_process_that_was_suspended_is_not_taken_for_a_blocked_one(loop_process: LoopProcess) -> None:
    """A machine that was frozen, or a SIGSTOP, is no reason to start a service again: after SIGCONT it is alive, and always was."""
    watch = loop_process.probe.watch("liveness")
    assert await watch.next() == SERVING
    loop_process.process.send_signal(signal.SIGSTOP)
    with pytest.raises(grpc.aio.AioRpcError):  # longer than the loop may stand still; to a probe, it does not answer
        await loop_process.probe.check("liveness", timeout=1.5)
    loop_process.process.send_signal(signal.SIGCONT)
    assert await loop_process.probe.check("liveness") == SERVING
    loop_process.stand_still(0.01)
    watch.call.cancel()
    assert await loop_process.end() == []


# --- components ----------------------------------------------------------------------------------------------------------------------------------


@dataclass
class Components:
    """The checks that both services have, over a vector store that does as a test says."""

    store: FakeVectorStore
    breaker: Breaker
    folder: Path
    disk_reserve: int = 0

    async def look(self) -> dict[str, Any]:
        """The components after one look at each."""
        monitor = HealthMonitor("query", ServingStates())
        chroma: Any = ChromaStore(self.store, self.breaker, None)  # type: ignore[arg-type] # all that a check asks for
        embedder: Any = LineEmbedder()
        add_common_checks(
            monitor, chroma=chroma, embedder=embedder, data_dir=self.folder, disk_reserve_bytes=self.disk_reserve, when_low="writes are refused"
        )
        await monitor.start()
        await monitor.stop()
        components: dict[str, Any] = monitor.snapshot()["components"]
        return components


@pytest.fixture
def components(tmp_path: Path) -> Components:
    """All is well."""
    return Components(FakeVectorStore(), Breaker(failure_threshold=5), tmp_path)


async def _fail() -> None:
    raise VectorStoreUnavailableError("down")


async def test_a_store_that_answers_pings_and_fails_in_calls_is_degraded(components: Components) -> None:
    """Two failures lately, or an open breaker, are told although the ping works; one failure is not worth it."""
    assert (await components.look())["chromadb"]["status"] == "up"
    for failures, status in ((1, "up"), (2, "degraded"), (5, "degraded")):
        while components.breaker.failures < failures:
            with pytest.raises(VectorStoreUnavailableError):
                await components.breaker.call_async(_fail)
        seen = (await components.look())["chromadb"]
        assert (seen["status"], seen["breaker_failures"]) == (status, failures)
    assert seen["breaker"] == "open"
    assert "left alone" in seen["message"]


async def test_a_slow_store_is_degraded(components: Components, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a second for a ping costs every search its vector leg; the message has the figure."""

    async def slow(*, timeout: float) -> None:
        assert timeout > 0.5
        await asyncio.sleep(0.5)

    monkeypatch.setattr(components.store, "ping", slow)
    seen = (await components.look())["chromadb"]
    assert seen["status"] == "degraded"
    assert seen["latency_ms"] >= 500
    assert "slowly" in seen["message"]


async def test_a_disk_that_fills_up_is_degraded_and_says_what_that_means(components: Components) -> None:
    """Below the reserve: how much is free, how much must be, and what does not work then."""
    assert (await components.look())["disk"]["status"] == "up"
    components.disk_reserve = 1024**5
    seen = (await components.look())["disk"]
    assert seen["status"] == "degraded"
    assert seen["available_gb"] > 0
    assert seen["message"].endswith("GB that must be: writes are refused")


async def test_the_warm_up_ends_with_the_first_answer(components: Components) -> None:
    """It queries the collection that it is given, and waits for a store that takes its time."""
    components.store.collections["c"] = {}
    await warm_up(components.store, LineEmbedder(), 5.0, "c")
    assert (components.store.calls["ping"], components.store.calls["query"]) == (1, 1)


@pytest.mark.parametrize("fault", ["down", "hung", "stuck", "wiped"])
async def test_no_store_keeps_a_service_from_starting(components: Components, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The warm-up is over at once when ChromaDB is down or has lost the collection, and after its time limit when it hangs."""
    if fault == "down":
        components.store.fail()
    elif fault == "hung":
        components.store.hang()
    elif fault == "stuck":  # answers pings, and its first query takes longer than it was given

        async def stuck(*_arguments: object, timeout: float) -> None:
            await asyncio.Event().wait()

        monkeypatch.setattr(components.store, "query", stuck)
    began = time.perf_counter()
    await warm_up(components.store, LineEmbedder(), 0.3, "c")
    assert time.perf_counter() - began < (0.2 if fault in {"down", "wiped"} else 0.8)


# --- whole services ------------------------------------------------------------------------------------------------------------------------------


async def answer(stack: Stack, service: str) -> dict[str, Any]:
    """The JSON of /health."""
    port = stack.ports.indexer_http if service == "indexer" else stack.ports.query_http
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/health") as response:
        body: dict[str, Any] = await response.json()
        return body


async def probes(stack: Stack) -> dict[str, int]:
    """Liveness and readiness of both services, at both ports of each."""
    ports = stack.ports
    seen = {}
    for name, port in (
        ("indexer", ports.indexer),
        ("indexer health", ports.indexer_health),
        ("query", ports.query),
        ("query health", ports.query_health),
    ):
        async with probing(f"127.0.0.1:{port}") as probe:
            for service in ("liveness", "readiness"):
                seen[f"{name} {service}"] = await probe.check(service)
    return seen


def state_of(component: str) -> Callable[[dict[str, Any]], str]:
    """Picks the status of one component."""
    return lambda body: str(body["components"][component]["status"])


async def test_chromadb_killed_leaves_both_services_ready(own_stack: Stack) -> None:
    """It is told as down by both, and neither Kubernetes nor a load balancer is told anything; back, it is up without a restart."""
    own_stack.kill_chroma()
    for service in ("indexer", "query"):
        body = await eventually(lambda service=service: answer(own_stack, service), lambda seen: state_of("chromadb")(seen) == "down")  # type: ignore[misc] # mypy does not see the default's type
        assert body["status"] == "degraded"
    assert set((await probes(own_stack)).values()) == {SERVING}
    await own_stack.start_chroma()
    for service in ("indexer", "query"):
        await eventually(lambda service=service: answer(own_stack, service), lambda seen: state_of("chromadb")(seen) == "up")  # type: ignore[misc] # same


async def test_health_is_answered_within_milliseconds_while_chromadb_hangs(own_stack: Stack) -> None:
    """A real ChromaDB under SIGSTOP: down at both services, /health and GetStatus in less than 5 ms (the median), every probe SERVING."""
    own_stack.chroma.suspend()
    try:
        for service in ("indexer", "query"):
            await eventually(lambda service=service: answer(own_stack, service), lambda seen: state_of("chromadb")(seen) == "down")  # type: ignore[misc] # same
        assert set((await probes(own_stack)).values()) == {SERVING}
        medians = {}
        async with aiohttp.ClientSession() as session, grpc.aio.insecure_channel(own_stack.query_address) as channel:
            stub = status_pb2_grpc.StatusServiceStub(channel)

            async def over_http() -> None:
                async with session.get(f"http://127.0.0.1:{own_stack.ports.query_http}/health") as response:
                    assert (await response.json())["components"]["chromadb"]["status"] == "down"

            async def over_grpc() -> None:
                response = await stub.GetStatus(status_pb2.GetStatusRequest(), timeout=5)
                assert response.status == status_pb2.SERVICE_STATUS_DEGRADED

            for ask in (over_http, over_grpc):
                seconds = []
                for _ in range(100):
                    began = time.perf_counter()
                    await ask()
                    seconds.append(time.perf_counter() - began)
                medians[ask.__name__] = statistics.median(seconds)
        assert max(medians.values()) < 0.005, medians
    finally:
        own_stack.chroma.resume()


async def test_one_answer_in_three_forms(stack: Stack) -> None:
    """/health, and GetStatus as `kb status --json` prints it, have the same components, states and figures, in the form that was promised."""
    async with KnowledgeBeast(stack.indexer_address, stack.query_address) as client:
        for service in ("indexer", "query"):
            body, form = await answer(stack, service), as_json(await client.status(service))
            assert body.keys() == {"status", "components", "timestamp"}
            assert body["timestamp"].endswith("Z")
            assert form["timestamp"].endswith("Z")
            components, told = body["components"], form["components"]
            assert {name: seen.keys() for name, seen in components.items()} == {name: seen.keys() for name, seen in told.items()}
            assert {name: seen["status"] for name, seen in components.items()} == {name: seen["status"] for name, seen in told.items()}
            assert {"status", "latency_ms", "breaker", "breaker_failures", "breaker_rejections"} <= components["chromadb"].keys()
            assert components["embedding_model"] == told["embedding_model"] == {"status": "up", "model": "all-MiniLM-L6-v2"}
            assert components["database"]["projects"] == told["database"]["projects"]
            assert components["disk"]["available_gb"] > 0


@pytest.mark.parametrize("service", ["", "liveness", "readiness", "startup", SERVICE])
async def test_grpcurl_can_probe_the_health_port(stack: Stack, service: str) -> None:
    """As somebody does who looks why Kubernetes does not like a pod; without proto files."""
    seen = await grpcurl(f"127.0.0.1:{stack.ports.query_health}", "grpc.health.v1.Health/Check", {"service": service})
    assert seen == {"status": "SERVING"}


async def test_services_start_ready_without_model_and_without_chromadb(tmp_path: Path) -> None:
    """Neither is needed to take writes and to search by keyword: both services are ready soon, and say what is missing."""
    (tmp_path / "models").mkdir()
    stack = Stack(tmp_path / "stack", tmp_path / "models", Ports.free())
    try:
        await stack.start_indexer()
        began = time.monotonic()
        await stack.start_query()
        assert time.monotonic() - began < 8.0, "a warm-up of 10 s is not waited for when nothing answers"
        assert set((await probes(stack)).values()) == {SERVING}
        for service in ("indexer", "query"):
            body = await answer(stack, service)
            assert body["status"] == "degraded"
            assert (state_of("embedding_model")(body), state_of("chromadb")(body), state_of("database")(body)) == ("down", "down", "up")
    finally:
        await stack.stop()


async def test_a_damaged_catalog_is_never_ready(tmp_path: Path, model_dir: Path) -> None:
    """The indexer does not start: it says how to restore, exits with 1, and no probe ever said SERVING for readiness."""
    stack = Stack(tmp_path / "stack", model_dir, Ports.free())
    try:
        await stack.start_indexer()
        async with KnowledgeBeast(stack.indexer_address, stack.query_address) as client:
            for number in range(50):
                await client.create_project(f"p{number}")
        await stack.indexer.stop(20)
        with (stack.data_dir / "indexer" / "catalog.db").open("r+b") as file:
            file.seek(4096)
            file.write(os.urandom(8 * 4096))
        with pytest.raises(UnavailableError, match="ended with 1 before it was ready"):
            await stack.start_indexer()
        assert '"the indexer is ready"' not in stack.indexer.log_tail(200)
        assert "backup" in stack.indexer.log_tail(200)
    finally:
        await stack.stop()


async def test_an_indexer_that_hangs_does_not_answer_probes(own_stack: Stack) -> None:
    """SIGSTOP stops the threads, too: the probe times out, which is how Kubernetes finds it; searches go on meanwhile."""
    own_stack.indexer.suspend()
    try:
        async with probing(f"127.0.0.1:{own_stack.ports.indexer_health}") as probe:
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await probe.check("liveness", timeout=1.0)
        assert raised.value.code() in {grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNAVAILABLE}
        async with probing(f"127.0.0.1:{own_stack.ports.query_health}") as probe:
            assert await probe.check("readiness") == SERVING
    finally:
        own_stack.indexer.resume()
    async with probing(f"127.0.0.1:{own_stack.ports.indexer_health}") as probe:
        await eventually(lambda: probe.check("liveness"), lambda seen: seen == SERVING)


async def searchable(client: KnowledgeBeast, project: str) -> bool:
    """The query service has heard of a project."""
    try:
        await client.search(project, SearchQuery("words", SearchMode.KEYWORD))
    except NotFoundError:
        return False
    return True


async def test_nothing_says_serving_from_the_signal_on(tmp_path: Path, model_dir: Path) -> None:
    """SIGTERM: NOT_SERVING on both ports for the time of the drain, while searches are still answered; then the process ends with 0."""
    stack = Stack(tmp_path / "stack", model_dir, Ports.free(), settings={"KB_DRAIN_DELAY": "1.5"})
    await stack.start()
    try:
        async with (
            KnowledgeBeast(stack.indexer_address, stack.query_address) as client,
            probing(stack.query_address) as service,
            probing(f"127.0.0.1:{stack.ports.query_health}") as own,
        ):
            await client.create_project("docs")
            await eventually(lambda: searchable(client, "docs"), bool)
            watches = [service.watch(), own.watch("readiness")]
            assert [await watch.next() for watch in watches] == [SERVING, SERVING]
            began = time.monotonic()
            assert stack.query.pid is not None
            os.kill(stack.query.pid, signal.SIGTERM)
            assert [await watch.next() for watch in watches] == [NOT_SERVING, NOT_SERVING]
            assert time.monotonic() - began < 1.0
            assert await own.check("liveness") == SERVING
            assert (await client.search("docs", SearchQuery("words", SearchMode.KEYWORD))).hits == ()
            assert await asyncio.wait_for(stack.query.wait(), 15) == 0
            assert 1.5 <= time.monotonic() - began < 8.0
    finally:
        await stack.stop()

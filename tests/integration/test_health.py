"""Health as Kubernetes, operators and clients see it: over gRPC and HTTP, with components that fail, hang and come back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import grpc
import grpc.aio
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from shared.errors import ConfigurationError, VectorStoreUnavailableError
from shared.gen.knowledgebeast.ops.v1 import status_pb2, status_pb2_grpc
from shared.health import Degraded, HealthMonitor
from shared.observability import http
from shared.observability.metrics import REGISTRY
from shared.rpc import chain
from shared.rpc.channel import create_channel
from shared.rpc.health_service import HealthServicer
from shared.rpc.server import bind, create_server, describe, serving
from shared.rpc.status_service import SERVICE_NAME, StatusServicer
from shared.serving import ServingStates
from shared.version import VERSION

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


class Component:
    """A component whose answer a test decides."""

    def __init__(self, **details: str | float) -> None:
        self.details = details
        self.answer: Callable[[], Any] = lambda: self.details
        self.free = asyncio.Event()
        self.free.set()
        self.calls = 0

    async def check(self) -> Any:  # noqa: ANN401 - also answers that no check should give
        """Waits while the component hangs, then answers."""
        self.calls += 1
        await self.free.wait()
        return self.answer()

    def fail(self) -> None:
        """From now on the component is down."""

        def down() -> None:
            raise VectorStoreUnavailableError("ChromaDB does not answer")

        self.answer = down


class World:
    """A monitor with the components of a query service, served over gRPC and HTTP."""

    def __init__(self, monitor: HealthMonitor, channel: grpc.aio.Channel, url: str, components: dict[str, Component]) -> None:
        self.monitor = monitor
        self.channel = channel
        self.url = url
        self.components = components
        self.health: Any = health_pb2_grpc.HealthStub(channel)

    async def serves(self, service: str) -> bool:
        """What grpc.health.v1 says of a service."""
        response = await self.health.Check(health_pb2.HealthCheckRequest(service=service), timeout=10)
        return bool(response.status == SERVING)

    async def states(self) -> dict[str, bool]:
        """What grpc.health.v1 says of all."""
        return {name: await self.serves(name) for name in ("", "liveness", "readiness", "startup", SERVICE_NAME)}

    async def json(self) -> tuple[int, dict[str, Any]]:
        """Status and body of /health."""
        async with aiohttp.ClientSession() as session, session.get(f"{self.url}/health") as response:
            return response.status, await response.json()

    async def until(self, component: str, status: str) -> None:
        """Returns once the monitor has seen this status."""
        async with asyncio.timeout(10):
            while self.monitor.snapshot()["components"][component]["status"] != status:
                await asyncio.sleep(0.002)


@asynccontextmanager
async def world() -> AsyncIterator[World]:
    """A service with three components, of which the database is required."""
    components = {"chromadb": Component(), "database": Component(projects=42), "disk": Component(available_gb=150)}
    states = ServingStates([SERVICE_NAME])
    monitor = HealthMonitor("query", states, required=["database"])
    for name, component in components.items():
        monitor.add_check(name, component.check, interval=0.01, timeout=0.05, latency=name == "chromadb")
    server = create_server(interceptors=chain.interceptors(), max_message_bytes=1024 * 1024)
    health_pb2_grpc.add_HealthServicer_to_server(HealthServicer(states), server)
    status_pb2_grpc.add_StatusServiceServicer_to_server(StatusServicer(monitor), server)
    describe(server, [SERVICE_NAME])
    port = bind(server, "127.0.0.1", 0)
    await monitor.start()
    async with (
        serving(server, grace=0),
        http.serving(http.create_app(monitor.snapshot), "127.0.0.1", 0) as http_port,
        create_channel(f"127.0.0.1:{port}", max_message_bytes=1024 * 1024) as channel,
    ):
        try:
            yield World(monitor, channel, f"http://127.0.0.1:{http_port}", components)
        finally:
            await monitor.stop()


@pytest.fixture
async def running() -> AsyncIterator[World]:
    """A ready service whose components are all up."""
    async with world() as ready:
        ready.monitor.set_ready(True)
        yield ready


async def test_a_service_is_ready_when_it_says_so() -> None:
    """Before that it is alive, and neither started nor ready."""
    async with world() as service:
        assert await service.states() == {"": False, "liveness": True, "readiness": False, "startup": False, SERVICE_NAME: False}
        service.monitor.set_ready(True)
        assert await service.states() == {"": True, "liveness": True, "readiness": True, "startup": True, SERVICE_NAME: True}


async def test_health_as_json_has_every_component_with_its_figures(running: World) -> None:
    """The form that dashboards and load balancers were promised."""
    status, body = await running.json()
    latency = body["components"]["chromadb"].pop("latency_ms")
    assert 0 <= latency < 50
    assert status == 200
    assert body.pop("timestamp").endswith("Z")
    assert body == {
        "status": "healthy",
        "components": {"chromadb": {"status": "up"}, "database": {"status": "up", "projects": 42}, "disk": {"status": "up", "available_gb": 150}},
    }


async def test_chromadb_down_degrades_and_changes_no_probe(running: World) -> None:
    """Searches are still answered, so Kubernetes must neither restart the pod nor take it out of service."""
    running.components["chromadb"].fail()
    await running.until("chromadb", "down")
    status, body = await running.json()
    assert (status, body["status"]) == (200, "degraded")
    assert body["components"]["chromadb"]["message"] == "ChromaDB does not answer"
    assert all((await running.states()).values())


async def test_a_required_component_down_takes_the_service_out_and_back(running: World) -> None:
    """Not ready while it is down, alive all the time, ready again afterwards."""
    running.components["database"].fail()
    await running.until("database", "down")
    assert await _eventually_ready(running, ready=False) == {"": False, "liveness": True, "readiness": False, "startup": True, SERVICE_NAME: False}
    status, body = await running.json()
    assert (status, body["status"]) == (503, "unhealthy")
    running.components["database"].answer = lambda: {"projects": 43}
    await running.until("database", "up")
    assert all((await _eventually_ready(running, ready=True)).values())


async def _eventually_ready(running: World, *, ready: bool) -> dict[str, bool]:
    """The probes once readiness is so; Watch says when."""
    watch = running.health.Watch(health_pb2.HealthCheckRequest(service="readiness"), timeout=10)
    async for response in watch:
        if response.status == (SERVING if ready else NOT_SERVING):
            break
    watch.cancel()
    return await running.states()


async def test_a_check_that_hangs_is_down_in_time_and_never_runs_twice(running: World) -> None:
    """A late check is reported, awaited and not doubled; when it ends, its result counts."""
    component = running.components["chromadb"]
    component.free.clear()
    await running.until("chromadb", "down")
    assert running.monitor.snapshot()["components"]["chromadb"]["message"] == "no answer within 0.05 s"
    hanging = component.calls
    first = running.monitor.reports()["chromadb"].check_time
    async with asyncio.timeout(10):
        while running.monitor.reports()["chromadb"].check_time == first:
            await asyncio.sleep(0.002)
    assert component.calls == hanging
    component.free.set()
    await running.until("chromadb", "up")


async def test_a_start_with_a_hanging_component_is_bounded() -> None:
    """The first round waits for each check at most its time limit."""
    monitor = HealthMonitor("query", ServingStates())
    monitor.add_check("chromadb", asyncio.Event().wait, timeout=0.01)  # type: ignore[arg-type] # it never returns anything
    async with asyncio.timeout(5):
        await monitor.start()
    assert monitor.snapshot()["status"] == "degraded"
    await monitor.stop()


async def test_a_degraded_component_says_why(running: World) -> None:
    """Between up and down: it works, and people are told what is wrong."""
    running.components["disk"].answer = lambda: Degraded("4 GB left", {"available_gb": 4})
    await running.until("disk", "degraded")
    _, body = await running.json()
    assert body["status"] == "degraded"
    assert body["components"]["disk"] == {"status": "degraded", "message": "4 GB left", "available_gb": 4}


async def test_a_check_with_a_bug_tells_nothing_internal(running: World) -> None:
    """The component is down, the reason is in the log."""
    running.components["disk"].answer = lambda: 1 / 0
    await running.until("disk", "down")
    assert running.monitor.reports()["disk"].message == "the check itself failed; see the log"


async def test_shutting_down_is_not_ready_and_stays_so(running: World) -> None:
    """Load balancers stop sending; the process is still alive, and nothing makes it ready again."""
    running.monitor.enter_shutdown()
    running.monitor.set_ready(True)
    assert await running.states() == {"": False, "liveness": True, "readiness": False, "startup": True, SERVICE_NAME: False}


async def test_status_service_answers_from_the_last_checks(running: World) -> None:
    """GetStatus has service, version, the overall state and each component."""
    running.components["chromadb"].fail()
    await running.until("chromadb", "down")
    response = await status_pb2_grpc.StatusServiceStub(running.channel).GetStatus(status_pb2.GetStatusRequest(), timeout=10)
    assert (response.service, response.version, response.status) == ("query", VERSION, status_pb2.SERVICE_STATUS_DEGRADED)
    components = {component.name: component for component in response.components}
    assert components["chromadb"].status == status_pb2.SERVICE_STATUS_UNHEALTHY
    assert components["chromadb"].message == "ChromaDB does not answer"
    assert dict(components["database"].details) == {"projects": 42}
    assert response.start_time.ToDatetime() <= components["disk"].check_time.ToDatetime() <= response.time.ToDatetime()


@pytest.mark.parametrize(("accept", "content_type"), [("text/plain", "text/plain"), ("application/openmetrics-text", "application/openmetrics-text")])
async def test_metrics_are_served_in_the_form_that_is_accepted(running: World, accept: str, content_type: str) -> None:
    """Prometheus asks for OpenMetrics and gets exemplars; anything else gets the text format."""
    async with aiohttp.ClientSession() as session, session.get(f"{running.url}/metrics", headers={"Accept": accept}) as response:
        assert response.content_type == content_type
        text = await response.text()
    assert "kb_breaker_state 0.0" in text
    assert "_created" not in text
    if "openmetrics" in accept:
        families: Any = text_string_to_metric_families
        assert {"kb_query_duration_seconds", "kb_active_projects_total"} <= {family.name for family in families(text)}


async def test_series_of_a_service_exist_before_its_first_call() -> None:
    """An error that is counted from 1 shows no increase, so every method and code begins at 0."""
    message = descriptor_pb2.DescriptorProto(name="Nothing")
    method = descriptor_pb2.MethodDescriptorProto(name="Follow", input_type="tests.Nothing", output_type="tests.Nothing", server_streaming=True)
    service = descriptor_pb2.ServiceDescriptorProto(name="Series", method=[method])
    file = descriptor_pb2.FileDescriptorProto(name="tests/series.proto", package="tests", message_type=[message], service=[service])
    descriptor_pool.Default().AddSerializedFile(file.SerializeToString())
    labels = {"grpc_type": "server_stream", "grpc_service": "tests.Series", "grpc_method": "Follow"}
    assert REGISTRY.get_sample_value("grpc_server_started_total", labels) is None
    describe(create_server(interceptors=[], max_message_bytes=1024), ["tests.Series"])
    assert REGISTRY.get_sample_value("grpc_server_started_total", labels) == 0
    for code in ("OK", "DataLoss", "DeadlineExceeded"):
        assert REGISTRY.get_sample_value("grpc_server_handled_total", {**labels, "grpc_code": code}) == 0


async def test_reflection_lists_the_services(running: World) -> None:
    """Grpcurl needs no proto files."""
    channel: Any = running.channel  # the stubs know the synchronous API
    stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
    call = stub.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(list_services="")]), timeout=10)
    names = {service.name async for response in call for service in response.list_services_response.service}
    assert SERVICE_NAME in names


async def test_a_port_that_is_taken_is_a_configuration_error(running: World) -> None:
    """Neither server shares a port in silence; the message names the setting to change."""
    taken = int(running.url.rsplit(":", 1)[1])
    first = create_server(interceptors=[], max_message_bytes=1024)
    port = bind(first, "127.0.0.1", 0)
    async with serving(first, grace=0):
        with pytest.raises(ConfigurationError, match=f"127.0.0.1:{port}.*KB_QUERY_PORT"):
            bind(create_server(interceptors=[], max_message_bytes=1024), "127.0.0.1", port, setting="KB_QUERY_PORT")
    with pytest.raises(ConfigurationError, match=f"127.0.0.1:{taken}.*KB_QUERY_HTTP_PORT"):
        async with http.serving(http.create_app(running.monitor.snapshot), "127.0.0.1", taken, setting="KB_QUERY_HTTP_PORT"):
            pass

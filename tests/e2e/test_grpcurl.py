"""The services as somebody with grpcurl sees them: no proto files, no client of ours."""

from __future__ import annotations

import asyncio
import json
import uuid
from typing import Any

import pytest

from services.cli.stack.stack import Stack

INDEXER = {
    "grpc.health.v1.Health",
    "grpc.reflection.v1alpha.ServerReflection",
    "knowledgebeast.indexer.v1.ChangeFeedService",
    "knowledgebeast.indexer.v1.IndexerService",
    "knowledgebeast.indexer.v1.MaintenanceService",
    "knowledgebeast.indexer.v1.ProjectService",
    "knowledgebeast.ops.v1.LoggingService",
    "knowledgebeast.ops.v1.StatusService",
}
QUERY = {
    "grpc.health.v1.Health",
    "grpc.reflection.v1alpha.ServerReflection",
    "knowledgebeast.ops.v1.LoggingService",
    "knowledgebeast.ops.v1.StatusService",
    "knowledgebeast.query.v1.QueryService",
    "knowledgebeast.query.v1.ReplicaService",
}


async def grpcurl(address: str, *arguments: str, data: object = None) -> str:
    """What `grpcurl -plaintext` prints; fails when it fails."""
    body = [] if data is None else ["-d", json.dumps(data)]
    process = await asyncio.create_subprocess_exec(
        "grpcurl", "-plaintext", "-max-time", "20", *body, address, *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    return output.decode()


async def call(address: str, method: str, data: object = None) -> Any:  # noqa: ANN401 - JSON
    """The answer of one call."""
    return json.loads(await grpcurl(address, method, data={} if data is None else data))


async def test_list_and_describe_show_every_service(stack: Stack) -> None:
    """Reflection names all services and describes their methods, with the comments' types."""
    assert set((await grpcurl(stack.indexer_address, "list")).split()) == INDEXER
    assert set((await grpcurl(stack.query_address, "list")).split()) == QUERY
    for address, services in ((stack.indexer_address, INDEXER), (stack.query_address, QUERY)):
        for service in services:
            assert f"service {service.rpartition('.')[2]}" in await grpcurl(address, "describe", service)
    assert "rpc Search" in await grpcurl(stack.query_address, "describe", "knowledgebeast.query.v1.QueryService")


@pytest.mark.parametrize("service", ["", "liveness", "readiness", "startup", "knowledgebeast.query.v1.QueryService"])
async def test_health_answers_for_every_purpose(stack: Stack, service: str) -> None:
    """SERVING, as Kubernetes asks."""
    assert await call(stack.query_address, "grpc.health.v1.Health/Check", {"service": service}) == {"status": "SERVING"}


async def test_a_project_is_made_filled_and_searched(stack: Stack) -> None:
    """The README's walk: create, write, search with the token."""
    project = f"p-{uuid.uuid4().hex[:12]}"
    created = await call(stack.indexer_address, "knowledgebeast.indexer.v1.ProjectService/CreateProject", {"project": {"id": project}})
    assert created["project"]["state"] == "STATE_ACTIVE"
    written = await call(
        stack.indexer_address,
        "knowledgebeast.indexer.v1.IndexerService/UpsertDocuments",
        {
            "project_id": project,
            "documents": [{"id": "cat", "text": "The cat sat on the mat.", "metadata": {"year": 2020, "tags": ["pets", "rugs"]}}],
        },
    )
    assert written["results"][0]["written"]["sequence"] == "1"
    found = await call(
        stack.query_address,
        "knowledgebeast.query.v1.QueryService/Search",
        {"project_id": project, "query": "a feline on a rug", "consistency": {"at_least_as_fresh": written["consistency_token"]}},
    )
    assert [hit["document_id"] for hit in found["hits"]] == ["cat"]
    assert found["hits"][0]["metadata"] == {"year": 2020, "tags": ["pets", "rugs"]}
    assert "degraded_mode" not in found


async def test_status_names_the_components(stack: Stack) -> None:
    """Both services tell what they are made of."""
    for address, service in ((stack.indexer_address, "indexer"), (stack.query_address, "query")):
        status = await call(address, "knowledgebeast.ops.v1.StatusService/GetStatus")
        assert status["service"] == service
        assert {"chromadb", "database", "embedding_model", "disk"} <= {component["name"] for component in status["components"]}

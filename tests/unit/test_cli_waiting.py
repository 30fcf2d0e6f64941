"""`kb ingest --wait` and what it says while nothing moves."""

import dataclasses

import pytest

from services.cli.ingest.wait import wait_for_vectors
from services.cli.progress import Meter
from shared.client import ComponentState, HealthState, KnowledgeBeast, ServiceState
from shared.domain import Project, SequenceNumber, VectorSequence
from shared.errors import DeadlineExceededError
from tests.fakes.servers import FakeServices


class Stalled(KnowledgeBeast):
    """A client of services that run and whose vectors never come: it alters what the fakes answer."""

    def __init__(self, services: FakeServices, *components: ComponentState) -> None:
        super().__init__(services.indexer, services.query)
        self.components = components
        self.asked: list[str] = []

    async def get_project(self, project_id: str, *, timeout: float | None = None) -> Project:
        """One change behind."""
        project = await super().get_project(project_id, timeout=timeout)
        return dataclasses.replace(project, head=SequenceNumber(2), vector_sequence=VectorSequence(1))

    async def status(self, service: str, *, timeout: float | None = None) -> ServiceState:
        """Both services say the same of their components."""
        self.asked.append(service)
        return ServiceState(service, "1", HealthState.DEGRADED, self.components, None, None)


def _down(name: str, message: str) -> ComponentState:
    return ComponentState(name, HealthState.UNHEALTHY, message, None, {})


async def _wait(client: Stalled) -> None:
    async with client as kb:
        await kb.create_project("p")
        with Meter("embedding", "changes") as meter, pytest.raises(DeadlineExceededError, match="no vector of p was written"):
            await wait_for_vectors(kb, "p", meter, patience=0.9, explain_after=0.1)


async def test_the_component_at_fault_is_named_once_with_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    """Both services are asked one time, and what both say is said once."""
    with FakeServices() as services:
        client = Stalled(
            services, _down("embedding_model", "the model is not exported"), _down("chromadb", "connection refused"), _down("disk", "full")
        )
        await _wait(client)

    said = capsys.readouterr().err
    assert client.asked == ["indexer", "query"]
    assert said.count("nothing is being embedded: the model is not exported; run `kb model`\n") == 1
    assert said.count("no vector is being stored: connection refused; it goes on when ChromaDB is back\n") == 1
    assert "full" not in said


async def test_progress_is_not_said_twice(capsys: pytest.CaptureFixture[str]) -> None:
    """The end repeats no line that stands there already."""
    with Meter("embedding", "changes", 2) as meter:
        meter.set(2)
        meter.show()

    assert capsys.readouterr().err == "embedding: 2 of 2 changes\n"

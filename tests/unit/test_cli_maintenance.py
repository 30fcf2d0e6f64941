"""`kb quarantine`, `kb verify` and `kb rebuild --restart` against both services in memory."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator

import pytest
from google.protobuf import timestamp_pb2

from shared.client import KnowledgeBeast
from shared.gen.knowledgebeast.common.v1 import verification_pb2
from shared.gen.knowledgebeast.indexer.v1 import maintenance_pb2, project_pb2
from tests.fakes.servers import FakeServices
from tests.unit.conftest import Kb

Difference = verification_pb2.Difference


@pytest.fixture
def services() -> Iterator[FakeServices]:
    """Both services in memory, with the projects a and b."""
    with FakeServices() as running:

        async def create() -> None:
            async with KnowledgeBeast(running.indexer, running.query) as client:
                for project in ("a", "b"):
                    await client.create_project(project)

        asyncio.run(create())
        yield running


def quarantined(project: str, number: int) -> maintenance_pb2.QuarantinedChunk:
    """A chunk that ChromaDB has refused."""
    return maintenance_pb2.QuarantinedChunk(
        project_id=project,
        document_id="guide.md",
        chunk_id=f"guide.md#{number}",
        ordinal=number,
        stage=maintenance_pb2.QuarantinedChunk.STAGE_VECTOR_STORE,
        reason="HTTP 400: not a vector",
        failures=2,
        quarantine_time=timestamp_pb2.Timestamp(seconds=1_750_000_000),
    )


def test_what_is_in_quarantine_is_listed_with_its_reason(kb: Kb, services: FakeServices) -> None:
    """Of all projects or of one, over several pages, as a table and as JSON Lines."""
    services.state.quarantined = [quarantined("a", 0), quarantined("a", 1), quarantined("b", 2)]
    status, out, _ = kb("quarantine", "list", "--json")
    rows = [json.loads(line) for line in out.splitlines()]

    assert status == 0
    assert [row["chunk_id"] for row in rows] == ["guide.md#0", "guide.md#1", "guide.md#2"]
    assert rows[0] == {
        "project_id": "a",
        "document_id": "guide.md",
        "chunk_id": "guide.md#0",
        "ordinal": 0,
        "stage": "vector_store",
        "reason": "HTTP 400: not a vector",
        "failures": 2,
        "quarantine_time": "2025-06-15T15:06:40+00:00",
    }
    _, out, _ = kb("quarantine", "list", "b")
    assert "guide.md#2" in out
    assert "guide.md#0" not in out
    assert "HTTP 400: not a vector" in out


def test_an_empty_quarantine_is_said_to_be_empty(kb: Kb) -> None:
    """On stderr, so that a program that reads the list reads nothing."""
    assert kb("quarantine", "list") == (0, "", "nothing is in quarantine\n")


def test_chunks_are_retried_by_id_or_all_together(kb: Kb, services: FakeServices) -> None:
    """Named ones alone first, then the rest; how many is said."""
    services.state.quarantined = [quarantined("a", number) for number in range(3)]
    assert kb("quarantine", "retry", "a", "guide.md#1")[:2] == (0, "1 chunk is tried again\n")
    assert kb("quarantine", "retry", "a")[:2] == (0, "2 chunks are tried again\n")
    assert json.loads(kb("quarantine", "retry", "a", "--json")[1]) == {"retried_count": 0}


def test_copies_that_are_right_are_a_success(kb: Kb, services: FakeServices) -> None:
    """Two lines a project, one for each copy, and status 0."""
    services.state.replica_verified.compared_count = 7
    status, out, _ = kb("verify", "--all")
    assert status == 0
    assert [line.split()[:2] for line in out.splitlines()[1:]] == [["a", "chromadb"], ["a", "replica"], ["b", "chromadb"], ["b", "replica"]]
    assert out.count("equal") == 4


def test_a_difference_is_shown_and_fails(kb: Kb, services: FakeServices) -> None:
    """What, how many and some ids; status 1."""
    difference = Difference(kind=Difference.KIND_VECTORS_MISSING, count=1_200, examples=["x#1", "x#2"])
    services.state.verified.verification.differences.append(difference)
    status, out, _ = kb("verify", "a")
    assert status == 1
    assert "1,200 vectors missing" in out
    assert "x#1, x#2" in out

    status, out, _ = kb("verify", "a", "--json")
    chroma, replica = json.loads(out)
    assert status == 1
    assert (chroma["copy"], chroma["equal"], chroma["repaired"]) == ("chromadb", False, False)
    assert chroma["differences"] == [{"kind": "vectors_missing", "count": 1200, "examples": ["x#1", "x#2"]}]
    assert (replica["copy"], replica["equal"], replica["error"]) == ("replica query-1", True, None)


def test_a_difference_that_was_mended_is_a_success(kb: Kb, services: FakeServices) -> None:
    """With --repair, in either copy."""
    services.state.verified.verification.differences.append(Difference(kind=Difference.KIND_VECTORS_EXTRA, count=1))
    services.state.replica_verified.differences.append(Difference(kind=Difference.KIND_DOCUMENTS_MISSING, count=1))
    assert kb("verify", "a")[0] == 1
    assert kb("verify", "a", "--repair")[0] == 0


def test_orphans_and_chunks_in_quarantine_are_told_and_are_no_failure(kb: Kb, services: FakeServices) -> None:
    """With what to do about them; --drop-orphans reaches the service."""
    services.state.verified.orphaned_collections.append("kb_a_g1_0a1b2c3d")
    services.state.verified.quarantined_chunks = 3
    status, _, err = kb("verify", "a")
    assert status == 0
    assert "a: 3 chunks are in quarantine; `kb quarantine list a` says why\n" in err
    assert "kb_a_g1_0a1b2c3d is not known to the catalog; --drop-orphans drops it\n" in err

    _, _, err = kb("verify", "a", "--drop-orphans")
    assert "kb_a_g1_0a1b2c3d was dropped\n" in err
    (*_, request) = (request for request in services.state.requests if isinstance(request, maintenance_pb2.VerifyVectorsRequest))
    assert request.drop_orphans


def test_a_copy_that_cannot_be_compared_does_not_hide_the_other(kb: Kb, services: FakeServices) -> None:
    """The indexer is down: the query service's copy is compared all the same, and the status is 1."""
    services.stop_indexer()
    status, out, _ = kb("verify", "a")
    assert status == 1
    assert "the indexer does not answer" in out
    assert "equal" in out


@pytest.mark.parametrize("arguments", [(), ("a", "--all")])
def test_one_project_or_all_are_verified(kb: Kb, arguments: tuple[str, ...]) -> None:
    """Neither and both are wrong usage."""
    status, _, err = kb("verify", *arguments)
    assert status == 2
    assert "give a PROJECT or --all" in err


def test_a_rebuild_can_be_begun_again(kb: Kb, services: FakeServices) -> None:
    """--restart reaches the service; without it a rebuild that is under way goes on."""
    for arguments, expected in ((("rebuild", "a"), False), (("rebuild", "a", "--restart"), True)):
        assert kb(*arguments)[0] == 0
        (*_, request) = (request for request in services.state.requests if isinstance(request, project_pb2.RebuildVectorsRequest))
        assert request.restart is expected


@pytest.mark.parametrize("command", [("quarantine", "list"), ("quarantine", "retry"), ("verify",)])
def test_the_commands_explain_themselves_with_an_example(kb: Kb, command: tuple[str, ...]) -> None:
    """`--help` exits with 0 and shows a line that can be typed."""
    status, out, _ = kb(*command, "--help")
    assert status == 0
    assert f"kb {' '.join(command)} " in out

"""`kb project` and `kb ingest` with settings of keyword search, and `kb rebuild`, against both services in memory."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from shared.client import KnowledgeBeast
from shared.domain import DocumentId, DocumentInput, KeywordSettings
from shared.gen.knowledgebeast.indexer.v1 import project_pb2
from shared.gen.knowledgebeast.ops.v1 import status_pb2
from tests.fakes.servers import FakeServices
from tests.unit.conftest import Kb


def write(services: FakeServices, *projects: str, documents: int = 2) -> None:
    """Projects with so many documents each."""

    async def work() -> None:
        async with KnowledgeBeast(services.indexer, services.query) as client:
            for project in projects:
                await client.create_project(project)
                if documents:
                    await client.upsert(project, [DocumentInput(DocumentId(str(number)), "", "text", {}) for number in range(documents)])

    asyncio.run(work())


def sent(services: FakeServices) -> project_pb2.KeywordSettings:
    """The settings of the last project that was created."""
    (*_, request) = (request for request in services.state.requests if isinstance(request, project_pb2.CreateProjectRequest))
    return request.project.keyword


def test_settings_of_keyword_search_are_sent_and_shown(kb: Kb, services: FakeServices) -> None:
    """Every option reaches the service; `show` says them to people and, with --json, to programs."""
    options = ("--language", "german", "--no-stemming", "--no-stop-words", "--stop-word", "bzw", "--stop-word", "ggf")
    assert kb("project", "create", "p", *options)[0] == 0

    message = sent(services)
    assert (message.language, message.stemming, message.stop_words, list(message.more_stop_words)) == ("german", False, False, ["bzw", "ggf"])
    expected = {"language": "german", "stemming": False, "stop_words": False, "more_stop_words": ["bzw", "ggf"]}
    assert json.loads(kb("project", "show", "p", "--json")[1])["keyword"] == expected
    assert "keywords    german, no stems, no stop words, 2 stop words of its own (bzw, ggf)\n" in kb("project", "show", "p")[1]


def test_the_defaults_are_the_services(kb: Kb, services: FakeServices) -> None:
    """Without options: English, with stems and stop words."""
    assert kb("project", "create", "p")[0] == 0
    message = sent(services)
    assert KeywordSettings(message.language, stemming=message.stemming, stop_words=message.stop_words) == KeywordSettings()
    assert "keywords    english, stems, stop words\n" in kb("project", "show", "p")[1]


def test_a_language_that_there_is_not_is_wrong_usage(kb: Kb, services: FakeServices) -> None:
    """Exit status 2 with the languages that there are, before the service is asked."""
    status, _, err = kb("project", "create", "p", "--language", "klingon")
    assert status == 2
    assert "swedish" in err
    assert not services.state.requests


def test_a_project_that_ingesting_creates_has_the_language_that_is_named(kb: Kb, services: FakeServices) -> None:
    """With --create alone; without it the language would be that of another project, so it is refused."""
    Path("a.txt").write_text("Text")
    assert kb("ingest", "a.txt", "-p", "p", "--create", "--language", "french")[0] == 0
    assert sent(services).language == "french"

    status, _, err = kb("ingest", "a.txt", "-p", "p", "--language", "french")
    assert status == 2
    assert "add --create" in " ".join(err.replace("│", " ").split())


def test_a_rebuild_is_followed_to_its_end(kb: Kb, services: FakeServices) -> None:
    """The fake's vectors come one change closer with each look; then the project is active, and how long it took is said."""
    write(services, "p")
    status, out, err = kb("rebuild", "p")

    assert status == 0
    assert out.startswith("rebuilt p: 2 chunks in ")
    assert "rebuilding p: 2 of 2 chunks, " in err
    assert json.loads(kb("project", "show", "p", "--json")[1])["state"] == "active"


def test_all_projects_are_rebuilt_one_after_another(kb: Kb, services: FakeServices) -> None:
    """One JSON object a project, in the order of their ids."""
    write(services, "b", "a")
    status, out, _ = kb("rebuild", "--all", "--json")
    rebuilt = [json.loads(line) for line in out.splitlines()]

    assert status == 0
    assert [(each["id"], each["state"], each["chunk_count"]) for each in rebuilt] == [("a", "active", 2), ("b", "active", 2)]
    assert all(each["seconds"] > 0 and each["chunks_per_second"] > 0 for each in rebuilt)


def test_a_rebuild_need_not_be_waited_for(kb: Kb, services: FakeServices) -> None:
    """The command returns while the project is being rebuilt."""
    write(services, "p")
    status, out, _ = kb("rebuild", "p", "--no-wait")
    assert (status, out) == (0, "rebuilding p: 2 chunks\n")
    assert json.loads(kb("rebuild", "p", "--no-wait", "--json")[1])["seconds"] is None


def test_a_wait_for_a_rebuild_can_be_bounded(kb: Kb, services: FakeServices) -> None:
    """Status 1, and that the rebuild goes on."""
    write(services, "p", documents=200)
    status, _, err = kb("rebuild", "p", "--timeout", "0.6")
    assert status == 1
    assert "kb: not all vectors were back within 0.6 s; the rebuild goes on" in err


@pytest.mark.parametrize("arguments", [(), ("p", "--all")])
def test_one_project_or_all_are_rebuilt(kb: Kb, arguments: tuple[str, ...]) -> None:
    """Neither and both are wrong usage."""
    status, _, err = kb("rebuild", *arguments)
    assert status == 2
    assert "give a PROJECT or --all" in err


def test_the_command_explains_itself_with_an_example(kb: Kb) -> None:
    """`--help` exits with 0 and shows a line that can be typed."""
    status, out, _ = kb("rebuild", "--help")
    assert status == 0
    assert "kb rebuild notes" in out


def test_a_project_that_is_not_there_cannot_be_rebuilt(kb: Kb) -> None:
    """Status 1, and which."""
    status, _, err = kb("rebuild", "missing")
    assert status == 1
    assert "missing" in err


def test_a_rebuild_that_stands_still_says_why_and_waits_on(kb: Kb, services: FakeServices, monkeypatch: pytest.MonkeyPatch) -> None:
    """While ChromaDB is down it is named once; when it is back the command ends well."""
    write(services, "p")
    services.state.status = status_pb2.SERVICE_STATUS_UNHEALTHY
    monkeypatch.setattr("services.cli.commands.rebuild._EXPLAIN_AFTER", 0.3)
    looks = 0
    really = KnowledgeBeast.get_project

    async def held_up(self: KnowledgeBeast, project_id: str, *, timeout: float | None = None) -> object:
        """Nothing moves for six looks."""
        nonlocal looks
        looks += 1
        if looks <= 6:
            services.state.projects[project_id].vector_sequence = 0
        return await really(self, project_id, timeout=timeout)

    monkeypatch.setattr(KnowledgeBeast, "get_project", held_up)
    status, out, err = kb("rebuild", "p")

    assert status == 0
    assert out.startswith("rebuilt p: ")
    assert err.count("no vector is being stored: ChromaDB is down; it goes on when ChromaDB is back\n") == 1

"""The client against servers in memory."""

import socket
from collections.abc import Iterator

import pytest

from shared.client import HealthState, KnowledgeBeast, SearchQuery
from shared.domain import ChunkingSettings, DocumentId, DocumentInput, ProjectState
from shared.errors import (
    AlreadyExistsError,
    ConflictError,
    DeadlineExceededError,
    InvalidArgumentError,
    NotFoundError,
    UnavailableError,
)
from shared.filters import AllOf, AnyOf, Comparison, Containment, Existence, Filter, Membership, Negation, Operator
from tests.fakes.servers import REFUSED, FakeServices


@pytest.fixture
def services() -> Iterator[FakeServices]:
    """Both services in memory."""
    with FakeServices() as running:
        yield running


def _document(identity: str, text: str = "some text", **metadata: str | int | float | bool | tuple[str, ...]) -> DocumentInput:
    return DocumentInput(DocumentId(identity), f"Title of {identity}", text, metadata)


async def test_a_project_lives_through_create_get_update_delete(services: FakeServices) -> None:
    """Every call on projects gives the project as the service has it."""
    async with KnowledgeBeast(services.indexer, services.query) as kb:
        created = await kb.create_project("p", display_name="P", labels={"a": "1"}, chunking=ChunkingSettings(64, 0))
        updated = await kb.update_project("p", labels={"b": "2"}, etag=created.etag)
        read = await kb.get_project("p")
        deleted = await kb.delete_project("p")

    assert ("p", "P", {"a": "1"}, ChunkingSettings(64, 0), ProjectState.ACTIVE) == (
        created.id,
        created.display_name,
        created.labels,
        created.chunking,
        created.state,
    )
    assert (updated.labels, updated.display_name) == ({"b": "2"}, "P")
    assert updated == read
    assert deleted == 0


async def test_updating_nothing_changes_nothing(services: FakeServices) -> None:
    """An empty field mask would mean all fields, so none is sent."""
    async with KnowledgeBeast(services.indexer, services.query) as kb:
        created = await kb.create_project("p", display_name="P")

        assert created == await kb.update_project("p")


async def test_errors_are_those_of_the_domain(services: FakeServices) -> None:
    """Each status comes back as the error that the service raised, with its violations."""
    async with KnowledgeBeast(services.indexer, services.query) as kb:
        await kb.create_project("p")
        with pytest.raises(AlreadyExistsError):
            await kb.create_project("p")
        with pytest.raises(NotFoundError, match="missing"):
            await kb.get_project("missing")
        with pytest.raises(ConflictError):
            await kb.update_project("p", display_name="x", etag="stale")
        with pytest.raises(InvalidArgumentError) as refused:
            await kb.search("p", "")

    assert [violation.field for violation in refused.value.violations] == ["query"]


async def test_a_service_that_does_not_answer_is_named_with_its_address() -> None:
    """Nothing listens: the error says who and where, and which component."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
        async with KnowledgeBeast(address, address) as kb:
            with pytest.raises(UnavailableError, match=f"the indexer does not answer at {address}") as indexer:
                await kb.get_project("p")
            with pytest.raises(UnavailableError, match="the query does not answer") as query:
                await kb.search("p", "x")

    assert (indexer.value.component, query.value.component) == ("indexer", "query")


async def test_a_service_that_hangs_is_given_up_at_the_deadline() -> None:
    """A server that accepts and says nothing costs the timeout and no more."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        async with KnowledgeBeast(f"127.0.0.1:{silent.getsockname()[1]}", timeout=0.2) as kb:
            with pytest.raises(DeadlineExceededError, match=r"did not answer within 0\.2 s"):
                await kb.get_project("p")


async def test_lists_are_read_to_the_last_page(services: FakeServices) -> None:
    """The service has two entries a page; the client gives all, in order, with the filter on each page."""
    async with KnowledgeBeast(services.indexer, services.query) as kb:
        for name in "cabed":
            await kb.create_project(name)
        await kb.upsert("a", [_document(str(number), year=2000 + number) for number in range(7)])
        after = Comparison("year", Operator.GREATER, 2001)

        assert list("abcde") == [project.id async for project in kb.list_projects()]
        assert [document.id async for document in kb.list_documents("a", filter=after)] == ["2", "3", "4", "5", "6"]


async def test_documents_come_back_as_they_were_written(services: FakeServices) -> None:
    """Text, title and every kind of metadata value survive; a refused document does not touch its neighbours."""
    written = _document("a", "Grüße", year=2020, score=0.5, draft=False, tags=("x", "y"))
    async with KnowledgeBeast(services.indexer, services.query) as kb:
        await kb.create_project("p")
        first = await kb.upsert("p", [written, _document("b", REFUSED)])
        again = await kb.upsert("p", [written])
        read = await kb.get_document("p", "a")
        deleted = await kb.delete_documents("p", ["a", "missing"])
        with pytest.raises(NotFoundError):
            await kb.get_document("p", "a")

    assert (written.text, written.title, written.metadata) == (read.text, read.title, read.metadata)
    assert read.chunks[0].text == written.text
    assert (first.results[0].sequence, first.results[0].error) == (1, None)
    refusal = first.results[1].error
    assert refusal is not None
    assert (refusal.code, refusal.reason, refusal.violations[0].field) == (3, "INVALID_ARGUMENT", "documents[1].text")
    assert (again.results[0].unchanged, again.results[0].sequence) == (True, 1)
    assert deleted.deleted_count == 1


async def test_metadata_that_a_message_cannot_hold_is_refused_before_it_is_sent(services: FakeServices) -> None:
    """A nested value raises instead of being flattened."""
    nested = DocumentInput(DocumentId("a"), "", "text", {"field": {"a": 1}})  # type: ignore[dict-item] # what is tested
    async with KnowledgeBeast(services.indexer, services.query) as kb:
        with pytest.raises(InvalidArgumentError, match=r"metadata\.field"):
            await kb.upsert("p", [nested])


async def test_every_write_has_a_request_id_of_its_own(services: FakeServices) -> None:
    """So that a call that is repeated on the way is done once, and two calls twice."""
    async with KnowledgeBeast(services.indexer, services.query) as kb:
        await kb.create_project("p")
        await kb.upsert("p", [_document("a")])
        await kb.upsert("p", [_document("a")], request_id="mine")

    identifiers = [request.request_id for request in services.state.requests]
    assert len(set(identifiers)) == 3
    assert all(identifiers)
    assert identifiers[-1] == "mine"


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        (Comparison("lang", Operator.EQUAL, "de"), ["de0"]),
        (Comparison("lang", Operator.NOT_EQUAL, "de"), ["en1", "fr2"]),
        (Comparison("year", Operator.LESS, 2001), ["de0"]),
        (Comparison("year", Operator.LESS_OR_EQUAL, 2001), ["de0", "en1"]),
        (Comparison("year", Operator.GREATER, 2001), ["fr2"]),
        (Comparison("year", Operator.GREATER_OR_EQUAL, 2001), ["en1", "fr2"]),
        (Membership("lang", ("de", "fr")), ["de0", "fr2"]),
        (Containment("note", "half"), ["en1"]),
        (Existence("note"), ["en1"]),
        (Negation(Existence("note")), ["de0", "fr2"]),
        (Negation(Comparison("draft", Operator.EQUAL, True)), ["en1", "fr2"]),
        (AllOf((Comparison("year", Operator.GREATER, 2000), Comparison("lang", Operator.EQUAL, "en"))), ["en1"]),
        (AnyOf((Comparison("year", Operator.LESS, 2001), Comparison("lang", Operator.EQUAL, "en"))), ["de0", "en1"]),
    ],
)
async def test_every_filter_means_on_the_service_what_it_means_here(services: FakeServices, condition: Filter, expected: list[str]) -> None:
    """Filters go through the message unchanged, for listing, searching and deleting."""
    async with KnowledgeBeast(services.indexer, services.query) as kb:
        await kb.create_project("p")
        documents = [_document("de0", "word", lang="de", year=2000, draft=True), _document("fr2", "word", lang="fr", year=2002, draft=False)]
        await kb.upsert("p", [*documents, _document("en1", "word", lang="en", year=2001, draft=False, note="half done")])

        assert expected == [document.id async for document in kb.list_documents("p", filter=condition)]
        assert expected == [hit.document_id for hit in (await kb.search("p", SearchQuery("word", filter=condition))).hits]
        assert len(expected) == (await kb.delete_documents("p", filter=condition)).deleted_count


async def test_status_tells_the_components_of_each_service(services: FakeServices) -> None:
    """Both services answer, with figures."""
    async with KnowledgeBeast(services.indexer, services.query) as kb:
        indexer, query = await kb.status("indexer"), await kb.status("query")

    assert (indexer.service, query.service, query.state) == ("indexer", "query", HealthState.HEALTHY)
    assert (indexer.components[0].name, indexer.components[0].details) == ("chromadb", {"latency_ms": 5})

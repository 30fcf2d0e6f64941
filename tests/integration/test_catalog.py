"""The catalog on SQLite, through its ports, on real files."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import apsw
import numpy as np
import pytest

from services.indexer.application.ingest import content_hash
from services.indexer.catalog.migrations import migrations
from services.indexer.catalog.sqlite import RESTORED_MARKER, SqliteCatalog
from services.indexer.records import Advance, NewProject, PreparedDocument, ProjectKey, RequestKey, Written
from shared.domain import (
    Chunk,
    ChunkId,
    ChunkingSettings,
    DocumentId,
    DocumentInput,
    KeywordSettings,
    ProjectId,
    ProjectState,
    SequenceNumber,
    TraceContext,
)
from shared.errors import AlreadyExistsError, ConfigurationError, ConflictError, CorruptionError, InvalidArgumentError, NotFoundError

PROJECT = ProjectId("docs")
OLD_FILES = Path(__file__).parent.parent / "data"


@pytest.fixture
async def catalog(tmp_path: Path) -> AsyncIterator[SqliteCatalog]:
    """An empty catalog."""
    opened = SqliteCatalog.open(tmp_path)
    yield opened
    await opened.close()


def prepared(document_id: str, *texts: str, **metadata: str | int) -> PreparedDocument:
    """A document whose chunks are these texts, joined by blanks; a chunk's id is made of its text, as the real cutting does it."""
    chunks, start = [], 0
    for ordinal, text in enumerate(texts):
        chunks.append(Chunk(ChunkId(f"{document_id}#{text}"), ordinal, text, start, start + len(text)))
        start += len(text) + 1
    source = DocumentInput(DocumentId(document_id), "Title", " ".join(texts), metadata)
    return PreparedDocument(source, tuple(chunks), content_hash(source))


async def create(catalog: SqliteCatalog, project_id: str = PROJECT) -> ProjectKey:
    """A project to write to."""
    await catalog.create_project(NewProject(ProjectId(project_id), project_id, "", {}, "model", ChunkingSettings()), None)
    return (await catalog.find_project(ProjectId(project_id)))[0]


async def write(catalog: SqliteCatalog, key: ProjectKey, *documents: PreparedDocument) -> Sequence[Written]:
    """Writes documents."""
    return (await catalog.upsert_documents(PROJECT, key, documents, TraceContext(), None))[0]


async def embed_everything(catalog: SqliteCatalog) -> None:
    """Gives every chunk a vector that tells its text's length."""
    for project in await catalog.projects_to_embed():
        chunks = await catalog.unembedded(project, 10_000)
        vectors = np.array([[len(chunk.text), 0.0] for chunk in chunks], dtype=np.float32).reshape(len(chunks), 2)
        await catalog.store_embeddings(project, [chunk.key for chunk in chunks], vectors)


async def test_what_was_written_is_there_after_reopening(tmp_path: Path) -> None:
    """A document with its chunks, metadata and sequence survives a restart."""
    catalog = SqliteCatalog.open(tmp_path)
    key = await create(catalog)
    await write(catalog, key, prepared("a", "one", "two", lang="en", year=2020))
    await catalog.close()

    catalog = SqliteCatalog.open(tmp_path)
    document = await catalog.get_document(key, DocumentId("a"))
    await catalog.close()

    assert [chunk.text for chunk in document.chunks] == ["one", "two"]
    assert document.metadata == {"lang": "en", "year": 2020}
    assert document.sequence == 1


async def test_sequences_count_changes_and_nothing_else(catalog: SqliteCatalog) -> None:
    """Unchanged documents and deletes of missing ones use no sequence; everything else uses exactly one."""
    key = await create(catalog)
    first = await write(catalog, key, prepared("a", "one"), prepared("b", "two"))
    second = await write(catalog, key, prepared("a", "one"), prepared("b", "three"))
    deleted, head = await catalog.delete_documents(key, [(DocumentId("a"), None), (DocumentId("missing"), None)], TraceContext())

    assert [(row.sequence, row.unchanged) for row in first] == [(1, False), (2, False)]
    assert [(row.sequence, row.unchanged) for row in second] == [(1, True), (3, False)]
    assert (deleted, head) == (1, 4)
    assert (await catalog.get_project(PROJECT)).document_count == 1


async def test_a_later_duplicate_in_a_batch_wins(catalog: SqliteCatalog) -> None:
    """Both get a result; the document has the later content."""
    key = await create(catalog)
    written = await write(catalog, key, prepared("a", "one"), prepared("a", "two"))

    assert [row.sequence for row in written] == [1, 2]
    assert (await catalog.get_document(key, DocumentId("a"))).text == "two"
    assert (await catalog.get_project(PROJECT)).chunk_count == 1


async def test_a_chunk_that_stays_is_not_projected_again(catalog: SqliteCatalog) -> None:
    """After a change of one paragraph, only the new chunk needs a vector and only the old one is to be removed."""
    key = await create(catalog)
    await write(catalog, key, prepared("a", "same", "old"))
    await embed_everything(catalog)
    (project,) = await catalog.projects_to_project()
    page = await catalog.projection_page(project, (0, 0), 100)
    await catalog.advance(project, page.complete_to)

    await write(catalog, key, prepared("a", "same", "new"))
    (project,) = await catalog.projects_to_embed()
    assert [chunk.text for chunk in await catalog.unembedded(project, 10)] == ["new"]
    await embed_everything(catalog)
    (project,) = await catalog.projects_to_project()
    page = await catalog.projection_page(project, (int(project.vector_sequence) + 1, 0), 100)

    assert page.added == ["a#new"]
    assert page.removed == ["a#old"]


async def test_chunks_that_are_gone_are_dropped_once_the_vector_store_knows(catalog: SqliteCatalog) -> None:
    """A removed chunk is listed for removal until the cursor passes it, and not again after a rebuild."""
    key = await create(catalog)
    await write(catalog, key, prepared("a", "one"))
    await catalog.delete_documents(key, [(DocumentId("a"), None)], TraceContext())
    await embed_everything(catalog)
    (project,) = await catalog.projects_to_project()
    page = await catalog.projection_page(project, (0, 0), 100)
    assert page.removed == ["a#one"]
    await catalog.advance(project, page.complete_to)
    await catalog.restart(project)

    (project,) = await catalog.projects_to_project()
    assert (await catalog.projection_page(project, (0, 0), 100)).empty


async def test_a_rebuild_embeds_nothing_and_ends(catalog: SqliteCatalog) -> None:
    """After a restart of the projection all live chunks come with their vectors, and the project is active again at the end."""
    key = await create(catalog)
    await write(catalog, key, prepared("a", "one"), prepared("b", "three"))
    await embed_everything(catalog)
    (project,) = await catalog.projects_to_project()
    await catalog.advance(project, SequenceNumber(2))
    await catalog.restart(project)
    assert (await catalog.get_project(PROJECT)).state is ProjectState.REBUILDING
    assert list(await catalog.projects_to_embed()) == []

    (project,) = await catalog.projects_to_project()
    page = await catalog.projection_page(project, (0, 0), 100)
    advance = await catalog.advance(project, page.complete_to)

    assert page.vectors.tolist() == [[3.0, 0.0], [5.0, 0.0]]
    assert advance is Advance.REBUILT
    assert (await catalog.get_project(PROJECT)).state is ProjectState.ACTIVE


async def test_what_belongs_to_an_older_collection_moves_nothing(catalog: SqliteCatalog) -> None:
    """A writer that was under way when a rebuild began can neither move the new cursor nor begin the rebuild once more."""
    key = await create(catalog)
    await write(catalog, key, prepared("a", "one"), prepared("b", "three"))
    await embed_everything(catalog)
    (before,) = await catalog.projects_to_project()
    await catalog.advance(before, SequenceNumber(1))
    old = (await catalog.get_project(PROJECT)).collection
    _, rebuilding = await catalog.rebuild_vectors(PROJECT)

    assert await catalog.advance(before, SequenceNumber(2)) is Advance.SUPERSEDED
    assert not await catalog.restart(before)
    after = await catalog.get_project(PROJECT)
    assert after == rebuilding
    assert (after.state, int(after.vector_sequence)) == (ProjectState.REBUILDING, 0)
    assert after.collection != old
    assert list(await catalog.superseded_collections()) == [old]


async def test_a_rebuild_that_loses_its_collection_ends_where_the_first_one_would_have(catalog: SqliteCatalog) -> None:
    """Begun again half-way, the project is active only when all that it had before is back; what was written since is not waited for."""
    key = await create(catalog)
    await write(catalog, key, prepared("a", "one"), prepared("b", "two"), prepared("c", "three"))
    await embed_everything(catalog)
    (project,) = await catalog.projects_to_project()
    await catalog.advance(project, SequenceNumber(3))
    await catalog.rebuild_vectors(PROJECT)
    (project,) = await catalog.projects_to_project()
    assert await catalog.advance(project, SequenceNumber(1)) is Advance.DONE
    assert await catalog.restart(project)
    await write(catalog, key, prepared("d", "four"))

    (project,) = await catalog.projects_to_project()
    assert await catalog.advance(project, SequenceNumber(2)) is Advance.DONE
    assert await catalog.advance(project, SequenceNumber(3)) is Advance.REBUILT


async def test_a_project_without_vectors_has_nothing_to_rebuild(catalog: SqliteCatalog) -> None:
    """It stays active, or nothing would ever end its rebuild."""
    await create(catalog)
    _, project = await catalog.rebuild_vectors(PROJECT)

    assert project.state is ProjectState.ACTIVE


async def test_keyword_settings_are_kept_and_reach_the_list_and_its_feed(catalog: SqliteCatalog) -> None:
    """What a project was created with is what every reader of it sees."""
    keyword = KeywordSettings("german", stemming=False, stop_words=False, more_stop_words=("bzw", "usw"))
    created = await catalog.create_project(NewProject(PROJECT, PROJECT, "", {}, "model", ChunkingSettings(), keyword), None)
    listed, _ = await catalog.list_projects("", 10)
    batch = await catalog.project_list_batch(SequenceNumber(0), 10)

    assert created.keyword == keyword
    assert [project.keyword for project in listed] == [keyword]
    assert [change.project.keyword for change in batch.changes if change.project] == [keyword]


async def test_pages_and_batches_of_projects_are_bounded_in_size(catalog: SqliteCatalog) -> None:
    """Projects with very long lists of stop words come in several pages and batches, each of which fits a message, and none is lost."""
    words = tuple(f"{number:050}" for number in range(1_000))
    ids = [f"p{number:02}" for number in range(50)]
    for project_id in ids:
        keyword = KeywordSettings(more_stop_words=words)
        await catalog.create_project(NewProject(ProjectId(project_id), "", "", {}, "model", ChunkingSettings(), keyword), None)

    paged: list[str] = []
    more = True
    while more:
        page, more = await catalog.list_projects(paged[-1] if paged else "", 1_000)
        assert 0 < len(page) < 30
        paged += [project.id for project in page]
    fed: list[str] = []
    at, head = SequenceNumber(0), (await catalog.project_list_position())[0].sequence
    while at < head:
        batch = await catalog.project_list_batch(at, 500)
        assert 0 < len(batch.changes) < 30
        assert batch.range.start == at
        fed += [change.project_id for change in batch.changes]
        at = batch.range.end

    assert paged == ids
    assert fed == ids


async def test_a_large_document_is_projected_in_pages(catalog: SqliteCatalog) -> None:
    """Pages join without loss, and the cursor moves only when a sequence is complete."""
    key = await create(catalog)
    await write(catalog, key, prepared("small", "x"), prepared("large", *[f"chunk{number}" for number in range(25)]))
    await embed_everything(catalog)
    (project,) = await catalog.projects_to_project()
    position = (0, 0)
    added: list[str] = []
    complete: list[int] = []
    while True:
        page = await catalog.projection_page(project, position, 10)
        added += page.added
        complete.append(page.complete_to)
        position = page.position
        if page.complete_to == 2:
            break

    assert added == ["small#x", *[f"large#chunk{number}" for number in range(25)]]
    assert complete == [1, 1, 2]


async def test_a_failing_write_does_not_fail_the_writes_beside_it(catalog: SqliteCatalog) -> None:
    """Writes that share a commit succeed or fail alone."""
    key = await create(catalog)
    answers = await asyncio.gather(
        catalog.upsert_documents(PROJECT, key, [prepared("a", "one")], TraceContext(), None),
        catalog.create_project(NewProject(PROJECT, "again", "", {}, "model", ChunkingSettings()), None),
        catalog.upsert_documents(PROJECT, key, [prepared("b", "two")], TraceContext(), None),
        return_exceptions=True,
    )

    assert isinstance(answers[1], AlreadyExistsError)
    assert [document.id for document in await catalog.list_documents(key, "", 10)] == ["a", "b"]


async def test_a_repeated_request_gets_its_first_answer(catalog: SqliteCatalog) -> None:
    """The same request id writes once, even if the document was changed in between."""
    key = await create(catalog)
    request = RequestKey(str(uuid.uuid4()), b"fingerprint")
    first, _ = await catalog.upsert_documents(PROJECT, key, [prepared("a", "one")], TraceContext(), request)
    await write(catalog, key, prepared("a", "two"))
    again, _ = await catalog.upsert_documents(PROJECT, key, [prepared("a", "one")], TraceContext(), request)

    assert again == first
    assert (await catalog.get_document(key, DocumentId("a"))).text == "two"


async def test_a_request_id_used_for_another_request_is_refused(catalog: SqliteCatalog) -> None:
    """The id belongs to what was asked for first."""
    key = await create(catalog)
    identifier = str(uuid.uuid4())
    await catalog.upsert_documents(PROJECT, key, [prepared("a", "one")], TraceContext(), RequestKey(identifier, b"first"))

    with pytest.raises(InvalidArgumentError, match="request_id"):
        await catalog.upsert_documents(PROJECT, key, [prepared("b", "two")], TraceContext(), RequestKey(identifier, b"second"))


async def test_two_calls_with_one_request_id_get_one_answer(catalog: SqliteCatalog) -> None:
    """What was kept first is the answer, also for a call that was under way at the same time."""
    await create(catalog)
    request = RequestKey(str(uuid.uuid4()), b"fingerprint")
    assert await catalog.remember(PROJECT, request, b"first") == b"first"
    assert await catalog.remember(PROJECT, request, b"second") == b"first"


async def test_a_restored_copy_begins_a_new_incarnation(tmp_path: Path) -> None:
    """With the marker beside it, an older copy is not mistaken for the catalog that consumers knew: every epoch and collection is new."""
    catalog = SqliteCatalog.open(tmp_path)
    key = await create(catalog)
    await write(catalog, key, prepared("a", "one"))
    await embed_everything(catalog)
    (lagging,) = await catalog.projects_to_project()
    await catalog.advance(lagging, SequenceNumber(1))
    before, list_before = await catalog.get_project(PROJECT), (await catalog.project_list_position())[0]
    await catalog.close()
    copy = (tmp_path / "catalog.db").read_bytes()

    catalog = SqliteCatalog.open(tmp_path)
    await write(catalog, key, prepared("lost", "by the restore"))
    await catalog.close()
    (tmp_path / "catalog.db").write_bytes(copy)
    (tmp_path / RESTORED_MARKER).touch()
    catalog = SqliteCatalog.open(tmp_path)
    after, list_after = await catalog.get_project(PROJECT), (await catalog.project_list_position())[0]
    (rebuild,) = await catalog.projects_to_project()
    page = await catalog.projection_page(rebuild, (0, 0), 10)
    await catalog.close()

    assert after.epoch != before.epoch
    assert after.collection != before.collection
    assert list_after.epoch != list_before.epoch
    assert after.state is ProjectState.REBUILDING
    assert page.added == ["a#one"], "its vectors are kept"
    assert not (tmp_path / RESTORED_MARKER).exists()


async def test_a_document_changed_after_it_was_selected_is_not_deleted(catalog: SqliteCatalog) -> None:
    """A delete that names a sequence leaves later content alone."""
    key = await create(catalog)
    (written,) = await write(catalog, key, prepared("a", "one"))
    await write(catalog, key, prepared("a", "two"))

    deleted, _ = await catalog.delete_documents(key, [(DocumentId("a"), written.sequence)], TraceContext())

    assert deleted == 0
    assert (await catalog.get_document(key, DocumentId("a"))).text == "two"


async def test_a_stale_etag_is_refused(catalog: SqliteCatalog) -> None:
    """An update and a delete with the etag of an earlier state raise ConflictError."""
    await create(catalog)
    before = (await catalog.get_project(PROJECT)).etag
    await catalog.update_project(PROJECT, etag=before, display_name="New", description=None, labels=None)

    with pytest.raises(ConflictError):
        await catalog.update_project(PROJECT, etag=before, display_name="Newer", description=None, labels=None)
    with pytest.raises(ConflictError):
        await catalog.delete_project(PROJECT, etag=before)
    assert (await catalog.get_project(PROJECT)).display_name == "New"


async def test_a_project_created_again_is_another_one(catalog: SqliteCatalog) -> None:
    """It has a new epoch, a new collection and none of the documents; the old one is purged without touching it."""
    key = await create(catalog)
    await write(catalog, key, prepared("a", "one"))
    before = await catalog.get_project(PROJECT)
    await catalog.delete_project(PROJECT, etag="")
    with pytest.raises(NotFoundError):
        await catalog.find_project(PROJECT)
    new_key = await create(catalog)
    await write(catalog, new_key, prepared("a", "other"))

    (deleted,) = await catalog.deleted_projects()
    while await catalog.purge_documents(deleted.key, 10):
        pass
    await catalog.mark_purged(deleted.key)
    after = await catalog.get_project(PROJECT)

    assert deleted.collection == before.collection
    assert after.collection != before.collection
    assert after.epoch != before.epoch
    assert (await catalog.get_document(new_key, DocumentId("a"))).text == "other"
    assert list(await catalog.deleted_projects()) == []


async def test_a_second_indexer_cannot_open_the_catalog(catalog: SqliteCatalog, tmp_path: Path) -> None:
    """Two writers would allocate the same sequences, so the second is turned away with a reason."""
    await create(catalog)
    with pytest.raises(ConfigurationError, match="another indexer"):
        SqliteCatalog.open(tmp_path)


async def test_a_damaged_catalog_is_refused(tmp_path: Path) -> None:
    """A catalog with overwritten pages does not open; the message says what to do."""
    catalog = SqliteCatalog.open(tmp_path)
    key = await create(catalog)
    await write(catalog, key, *[prepared(f"d{number}", f"text {number}" * 50) for number in range(200)])
    await catalog.close()
    file = tmp_path / "catalog.db"
    content = bytearray(file.read_bytes())
    content[8192:40960] = b"\x5a" * 32768
    file.write_bytes(content)

    with pytest.raises(CorruptionError, match=r"catalog\.restored"):
        SqliteCatalog.open(tmp_path)


async def test_a_file_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    """An older service does not touch what it does not know."""
    await SqliteCatalog.open(tmp_path).close()
    connection = apsw.Connection(str(tmp_path / "catalog.db"))
    connection.pragma("user_version", 9_999)
    connection.close()

    with pytest.raises(ConfigurationError, match="9999"):
        SqliteCatalog.open(tmp_path)


@pytest.mark.parametrize(
    ("version", "keyword"),
    [(1, KeywordSettings()), (2, KeywordSettings("german", stemming=False, stop_words=True, more_stop_words=("bzw",)))],
)
async def test_a_file_of_an_older_version_is_brought_up_to_date(tmp_path: Path, version: int, keyword: KeywordSettings) -> None:
    """What a catalog of each schema version holds is there, complete, in today's; settings that it did not have are the defaults."""
    connection = apsw.Connection(str(tmp_path / "catalog.db"))
    connection.execute((OLD_FILES / f"catalog-v{version}.sql").read_text(encoding="utf-8"))
    assert connection.pragma("user_version") == version
    connection.close()

    catalog = SqliteCatalog.open(tmp_path)
    key, project = await catalog.find_project(ProjectId("library"))
    document = await catalog.get_document(key, DocumentId("guide"))
    batch = await catalog.document_batch(key, SequenceNumber(0), 100, SequenceNumber(0))
    vectors, _ = await catalog.vector_batch(key, SequenceNumber(0), (0, 0), SequenceNumber(project.vector_sequence))
    await catalog.close()

    assert [chunk.text for chunk in document.chunks] == ["First paragraph.", "Second paragraph."]
    assert document.metadata == {"lang": "en", "tags": ("a", "b")}
    assert (project.head, project.vector_sequence, project.document_count) == (3, 3, 1)
    assert project.keyword == keyword
    assert batch is not None
    assert batch.range.end == 3
    assert vectors.vectors.tolist() == [[1.0, 0.0], [0.0, 1.0]]
    connection = apsw.Connection(str(tmp_path / "catalog.db"))
    assert connection.pragma("user_version") == migrations()[-1][0]
    connection.close()

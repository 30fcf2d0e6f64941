"""The replica's files are a copy: lost, cut short or damaged, they are never a wrong answer, and come again from the feed (row 19 of the matrix)."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import apsw
import pytest

from services.cli.stack.stack import Stack
from services.query.replica import Replica
from shared.client import ComponentState, HealthState, KnowledgeBeast, SearchMode, SearchQuery
from shared.domain import Cursor, FeedStream, ProjectId, Reset, ResetReason, SequenceNumber
from shared.errors import NotFoundError
from shared.filters import AllOf
from shared.verification import DifferenceKind
from tests.e2e.test_search import TEXTS, documents, found
from tests.fakes.feed import make_batch, make_document, make_project, make_vectors, vector_of
from tests.waiting import eventually

P = ProjectId("p")
WORDS = ("alpha", "bravo", "charlie", "delta", "echo", "greek")
PAGE = 4_096


def write_history(folder: Path) -> Replica:
    """A replica with 30 documents, one of which was replaced and one deleted."""
    replica = Replica.open(folder, vectors_max=1_000)
    replica.put_project(make_project(P))
    replica.set_project_list_cursor(Cursor("list", SequenceNumber(1)))
    replica.apply_reset(P, Reset(ResetReason.NO_CURSOR, FeedStream.DOCUMENTS, "e1"))
    first = [
        make_document(f"d{number}", f"alpha {number} bravo\ncharlie {number} delta", title="Greek", metadata={"n": number}) for number in range(30)
    ]
    replica.apply_documents(P, make_batch(0, *first))
    replica.apply_vectors(P, make_vectors(0, 30, *[chunk for document in first for chunk in document.chunks]))
    changed = make_document("d4", "echo foxtrot")
    replica.apply_documents(P, make_batch(30, "d3", changed))
    replica.apply_vectors(P, make_vectors(30, 32, *changed.chunks))
    return replica


def answers(replica: Replica) -> tuple[Cursor | None, Cursor | None, object, object]:
    """The positions, what is found by keyword and filter, and what is found by vector."""
    try:
        project = replica.project(P)
    except NotFoundError:
        return None, None, None, None
    hits = {hit.pk: hit for hit in replica.hydrate(P, replica.allowed(P, AllOf(())).tolist())}
    content = sorted((hit.document_id, hit.title, repr(hit.metadata), repr(hit.chunk)) for hit in hits.values())
    words = {word: sorted(hits[each.pk].chunk.id for each in replica.keyword(P, word, 1_000)) for word in WORDS}
    near = [(hits[each.pk].chunk.id, round(each.score, 5)) for each in replica.vectors(P, vector_of("echo foxtrot"), 1_000) or []]
    return project.documents_cursor, project.vectors_cursor, (content, words), near


def flip(data: bytearray, rng: random.Random) -> None:
    """One bit is another."""
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def cut(data: bytearray, rng: random.Random) -> None:
    """The end is missing."""
    del data[rng.randrange(len(data)) :]


def blank(data: bytearray, rng: random.Random) -> None:
    """A page is all zeros."""
    at = rng.randrange(len(data))
    data[at : at + PAGE] = bytes(len(data[at : at + PAGE]))


@pytest.mark.parametrize("running", [True, False], ids=["killed", "stopped"])
@pytest.mark.parametrize("damage", [flip, cut, blank, None], ids=["flip", "cut", "blank", "lose"])
def test_damaged_files_are_no_wrong_answers(tmp_path: Path, damage: Callable[[bytearray, random.Random], None] | None, running: bool) -> None:
    """Whichever file is damaged: what a position says that there is, is there and right; else the position is an older one, or none."""
    replica = write_history(tmp_path / "whole")
    expected = answers(replica)
    if not running:
        replica.close()
    shutil.copytree(tmp_path / "whole", tmp_path / "copy")
    replica.close()
    files = (path.relative_to(tmp_path / "copy") for path in (tmp_path / "copy").rglob("*") if path.is_file() and path.stat().st_size)
    names = sorted(files, key=lambda name: (name.parent, name.suffix, name))
    assert {"replica.db", "vectors", "keyword"} <= {name.parts[0] for name in names}
    rng = random.Random(7)  # repeats the damage
    for name in [*names, *[Path("replica.db")] * 10]:
        folder = tmp_path / "damaged"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(tmp_path / "copy", folder)
        if damage is None:
            (folder / name).unlink()
        else:
            data = bytearray((folder / name).read_bytes())
            damage(data, rng)
            (folder / name).write_bytes(data)
        opened = Replica.open(folder, vectors_max=1_000)
        found_documents, found_vectors, content, near = answers(opened)
        if found_documents == expected[0]:
            assert content == expected[2], name
            assert found_vectors is None or (found_vectors, near) == (expected[1], expected[3]), name
        else:
            assert found_documents is None or found_documents.sequence < 32, name
        opened.close()


def test_every_vector_is_looked_at(tmp_path: Path) -> None:
    """A bit that flips in any of them is noticed when the replica is opened: the vectors are asked for again, and none is wrong."""
    write_history(tmp_path / "whole").close()
    rng = random.Random(7)  # repeats the damage
    for _ in range(20):
        folder = tmp_path / "damaged"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(tmp_path / "whole", folder)
        path = next((folder / "vectors").iterdir())
        data = bytearray(path.read_bytes())
        data[rng.randrange(len(data.rstrip(b"\0")))] ^= 1 << rng.randrange(8)
        path.write_bytes(data)
        opened = Replica.open(folder, vectors_max=1_000)
        # The slots of chunks that are gone hold what nobody reads.
        assert answers(opened)[1] is None or answers(opened)[3] == near_of_whole(tmp_path)
        opened.close()


def near_of_whole(tmp_path: Path) -> object:
    """What the undamaged replica finds by vector."""
    replica = Replica.open(tmp_path / "whole", vectors_max=1_000)
    try:
        return answers(replica)[3]
    finally:
        replica.close()


def test_a_database_older_than_its_index_is_what_counts(tmp_path: Path) -> None:
    """Its newest changes are lost, as with its log: as many chunks as before, but others. Index and vectors are brought to what it has."""
    first, second = make_document("a", "alpha"), make_document("a", "bravo")
    replica = Replica.open(tmp_path / "replica", vectors_max=10)
    replica.put_project(make_project(P))
    replica.apply_reset(P, Reset(ResetReason.NO_CURSOR, FeedStream.DOCUMENTS, "e1"))
    replica.apply_documents(P, make_batch(0, first))
    replica.apply_vectors(P, make_vectors(0, 1, *first.chunks))
    replica.close()
    older = (tmp_path / "replica" / "replica.db").read_bytes()
    replica = Replica.open(tmp_path / "replica", vectors_max=10)
    replica.apply_documents(P, make_batch(1, second))
    replica.apply_vectors(P, make_vectors(1, 2, *second.chunks))
    replica.apply_documents(P, make_batch(2, make_document("b", "charlie"), "b"))
    replica.close()
    (tmp_path / "replica" / "replica.db").write_bytes(older)
    replica = Replica.open(tmp_path / "replica", vectors_max=10)
    assert replica.project(P).documents_cursor == Cursor("e1", SequenceNumber(1))
    assert [len(replica.keyword(P, word, 5)) for word in ("alpha", "bravo")] == [1, 0]
    replica.apply_documents(P, make_batch(1, second))
    assert [len(replica.keyword(P, word, 5)) for word in ("alpha", "bravo")] == [0, 1]
    assert [hit.score for hit in replica.vectors(P, vector_of("bravo"), 5) or []] == []
    replica.close()


def test_an_empty_copy_does_not_count_as_caught_up(tmp_path: Path) -> None:
    """After a reset nothing is known of the head: until the feed tells it, the copy has not been heard of."""
    replica = write_history(tmp_path / "replica")
    assert replica.project(P).contact_time is not None
    replica.apply_reset(P, Reset(ResetReason.EPOCH_CHANGED, FeedStream.DOCUMENTS, "e2"))
    assert replica.project(P).lag == 0
    assert replica.project(P).contact_time is None
    replica.apply_documents(P, make_batch(0, make_document("a", "alpha"), epoch="e2"))
    assert replica.project(P).contact_time is not None
    replica.close()


async def write_and_settle(stack: Stack, client: KnowledgeBeast) -> None:
    """Five documents that are everywhere."""
    await client.create_project("docs")
    token = (await client.upsert("docs", documents(TEXTS))).consistency_token
    assert found(await client.search("docs", SearchQuery("yeast", SearchMode.KEYWORD, at_least_as_fresh=token))) == ["bread"]
    await eventually(lambda: client.get_project("docs"), lambda project: int(project.vector_sequence) == int(project.head))


async def test_a_service_whose_copy_was_damaged_is_ready_when_it_is_whole_again(own_stack: Stack) -> None:
    """A word that changed on disk is no error to SQLite; the service notices, copies again, and its first answer is right."""
    async with KnowledgeBeast(own_stack.indexer_address, own_stack.query_address, timeout=30) as client:
        await write_and_settle(own_stack, client)
        own_stack.kill_query()
        folder = replica_folder(own_stack)
        damaged = 0
        for path in (folder / "replica.db", folder / "replica.db-wal"):
            if path.exists():
                data = path.read_bytes()
                damaged += data.count(b"yeast")
                path.write_bytes(data.replace(b"yeast", b"beast"))
        assert damaged
        await own_stack.start_query()
        answer = await client.search("docs", SearchQuery("yeast", SearchMode.KEYWORD))
        assert found(answer) == ["bread"]
        assert "yeast" in answer.hits[0].chunk.text


async def test_a_copy_that_goes_wrong_while_it_is_used_is_found_and_mended(own_stack: Stack) -> None:
    """An operator asks for the comparison, is told what differs, and has it mended without a restart; GetStatus shows the copy."""
    async with KnowledgeBeast(own_stack.indexer_address, own_stack.query_address, timeout=30) as client:
        await write_and_settle(own_stack, client)
        clean = await client.verify_replica("docs", repair=True)
        assert (clean.equal, clean.replica, int(clean.sequence), clean.compared) == (True, "query", 5, 5)
        connection = apsw.Connection(str(replica_folder(own_stack) / "replica.db"))
        connection.set_busy_timeout(5_000)
        connection.execute("UPDATE chunk SET text = 'nothing of it' WHERE document = (SELECT pk FROM document WHERE id = 'bread')")
        connection.close()
        told = await client.verify_replica("docs")
        assert [(each.kind, each.count, each.examples) for each in told.differences] == [(DifferenceKind.DOCUMENTS_DIFFERENT, 1, ("bread",))]
        assert not told.repaired
        assert (await client.verify_replica("docs", repair=True)).repaired
        await eventually(lambda: client.verify_replica("docs"), lambda seen: seen.equal)
        answer = await client.search("docs", SearchQuery("yeast", SearchMode.KEYWORD))
        assert "yeast" in answer.hits[0].chunk.text
        # The state is that of the last look, some seconds ago.
        held = {"projects": 1, "documents": 5, "chunks": 5}
        await eventually(lambda: component(client, "replica"), lambda seen: (seen.state, seen.details) == (HealthState.HEALTHY, held))
        with pytest.raises(NotFoundError):
            await client.verify_replica("nothing")


async def component(client: KnowledgeBeast, name: str) -> ComponentState:
    """What the query service says of one of its components."""
    return next(each for each in (await client.status("query")).components if each.name == name)


def replica_folder(stack: Stack) -> Path:
    """Where the query service of a stack keeps its copy."""
    return next(stack.data_dir.rglob("replica.db")).parent

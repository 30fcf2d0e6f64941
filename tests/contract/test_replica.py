"""The replica on real files: what it gives out, and what is left after a crash at every step."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import apsw
import numpy as np
import pytest

from services.query.replica import FeedGapError, Replica, ReplicaHit
from shared.domain import (
    Cursor,
    Document,
    DocumentBatch,
    FeedStream,
    Heartbeat,
    ProjectId,
    Range,
    Reset,
    ResetReason,
    SequenceNumber,
    VectorBatch,
    VectorSequence,
)
from shared.errors import ConfigurationError, NotFoundError, UnavailableError
from shared.filters import AllOf, Comparison, Negation, Operator
from shared.resilience.deadline import Deadline
from tests.fakes.feed import DIMENSION, TIME, make_batch, make_document, make_project, make_range, make_vectors, vector_of

P, Q = ProjectId("p"), ProjectId("q")
EVERYTHING = Negation(Comparison("no such field", Operator.EQUAL, 0))
DOCUMENTS = Reset(ResetReason.NO_CURSOR, FeedStream.DOCUMENTS, "e1")
VECTORS = Reset(ResetReason.COMPACTED, FeedStream.VECTORS, "e1")


def hits(replica: Replica, project: ProjectId = P) -> list[ReplicaHit]:
    """Every chunk that is current, by key."""
    return replica.hydrate(project, replica.allowed(project, EVERYTHING).tolist())


def texts(replica: Replica, query: str, project: ProjectId = P) -> set[str]:
    """Texts that a keyword search gives."""
    return {hit.chunk.text for hit in replica.hydrate(project, [found.pk for found in replica.keyword(project, query, 100)])}


def nearest(replica: Replica, text: str, project: ProjectId = P) -> str | None:
    """Text of the nearest chunk that has a vector."""
    found = replica.vectors(project, vector_of(text), 1)
    return replica.hydrate(project, [found[0].pk])[0].chunk.text if found else None


def prepare(replica: Replica, project: ProjectId = P) -> None:
    """Makes a project ready for documents."""
    replica.put_project(make_project(project))
    replica.apply_reset(project, DOCUMENTS)


@pytest.fixture
def replica(tmp_path: Path) -> Iterator[Replica]:
    """A replica with an empty project `p`."""
    opened = Replica.open(tmp_path / "replica", vectors_max=100)
    prepare(opened)
    yield opened
    opened.close()


ONE = make_document("one", "alpha first\nbravo second", title="Greek", metadata={"year": 2020, "tags": ("x", "y"), "ok": True, "share": 0.5})
TWO = make_document("two", "charlie third", metadata={"year": 2021})


def test_gives_out_what_was_applied(replica: Replica) -> None:
    """Documents come back by keyword, by vector, by filter and by id, exactly as they were sent."""
    replica.apply_documents(P, make_batch(0, ONE, TWO))
    replica.apply_vectors(P, make_vectors(0, 2, *ONE.chunks, *TWO.chunks))
    first, second, third = hits(replica)
    assert (first.document_id, first.title, first.metadata, first.chunk) == ("one", "Greek", ONE.metadata, ONE.chunks[0])
    assert [type(value) for value in ONE.metadata.values()] == [type(first.metadata[name]) for name in ONE.metadata]
    assert second.chunk == ONE.chunks[1]
    assert texts(replica, "greek") == {"alpha first", "bravo second"}
    assert nearest(replica, "charlie third") == "charlie third"
    assert replica.allowed(P, Comparison("year", Operator.GREATER, 2020)).tolist() == [third.pk]
    assert replica.resolve(P, [TWO.chunks[0].id]) == {TWO.chunks[0].id: third.pk}
    counts = replica.counts(P)
    assert (counts.documents, counts.chunks, counts.vectors) == (2, 3, 3)
    project = replica.project(P)
    assert (project.documents_cursor, project.vectors_cursor, project.lag) == (Cursor("e1", SequenceNumber(2)), Cursor("e1", SequenceNumber(2)), 0)
    pks, vectors = replica.vectors_of(P, np.array([third.pk, first.pk]))
    assert pks.tolist() == [third.pk, first.pk]
    assert np.array_equal(vectors[0], vector_of("charlie third"))


def test_an_update_keeps_the_chunks_that_stay(replica: Replica) -> None:
    """Unchanged chunks keep key and vector though they move; replaced and deleted ones are gone from every side at once."""
    replica.apply_documents(P, make_batch(0, ONE, TWO))
    replica.apply_vectors(P, make_vectors(0, 2, *ONE.chunks, *TWO.chunks))
    before = {hit.chunk.text: hit.pk for hit in hits(replica)}
    changed = make_document("one", "delta new\nbravo second", title="Greek", metadata={"year": 1999})
    replica.apply_documents(P, make_batch(2, changed, "two"))
    after = {hit.chunk.text: hit for hit in hits(replica)}
    assert set(after) == {"delta new", "bravo second"}
    assert after["bravo second"].pk == before["bravo second"]
    assert after["bravo second"].chunk == changed.chunks[1]
    assert after["bravo second"].metadata == {"year": 1999}
    assert after["delta new"].pk > max(before.values())
    assert nearest(replica, "alpha first") == "bravo second"
    assert texts(replica, "alpha charlie delta") == {"delta new"}
    assert replica.hydrate(P, list(before.values()))[0].chunk.text == "bravo second"
    assert replica.resolve(P, [chunk.id for chunk in (*ONE.chunks, *TWO.chunks)]) == {ONE.chunks[1].id: before["bravo second"]}
    assert replica.counts(P).vectors == 1


def test_a_new_title_is_found_though_the_chunks_stay(replica: Replica) -> None:
    """The title is indexed with every chunk, also when it is so long that the chunk ids do not show the change."""
    replica.apply_documents(P, make_batch(0, make_document("one", "alpha", title="0123456789 zebra")))
    [before] = hits(replica)
    replica.apply_documents(P, make_batch(1, make_document("one", "alpha", title="0123456789 okapi")))
    assert [before.pk] == [hit.pk for hit in replica.keyword(P, "okapi", 5)]
    assert replica.keyword(P, "zebra", 5) == []


@pytest.mark.parametrize("covered", [make_range(1, 2), make_range(0, 1, epoch="e2")], ids=["gap", "epoch"])
def test_what_does_not_continue_the_copy_is_refused(replica: Replica, covered: Range) -> None:
    """A gap or another epoch raises, and nothing of the batch is applied."""
    batch = make_batch(0, ONE)
    with pytest.raises(FeedGapError):
        replica.apply_documents(P, DocumentBatch(covered, batch.changes))
    with pytest.raises(FeedGapError):
        replica.apply_vectors(P, VectorBatch(covered, [], np.empty((0, DIMENSION), np.float32)))
    assert hits(replica) == []
    assert replica.project(P).documents_cursor == Cursor("e1", SequenceNumber(0))


def test_vectors_before_their_documents_are_refused(replica: Replica) -> None:
    """They would be dropped as unknown and never come again."""
    with pytest.raises(FeedGapError):
        replica.apply_vectors(P, make_vectors(0, 1, *ONE.chunks))


def test_events_before_a_reset_are_refused(tmp_path: Path) -> None:
    """A project that has just been added has no cursor: its feed begins with a reset."""
    opened = Replica.open(tmp_path / "r", vectors_max=0)
    assert opened.put_project(make_project(P))
    with pytest.raises(FeedGapError):
        opened.apply_documents(P, make_batch(0, ONE))
    with pytest.raises(FeedGapError):
        opened.apply_heartbeat(P, Heartbeat("e1", SequenceNumber(0), VectorSequence(0), TIME))
    opened.close()


def test_a_reset_of_documents_drops_all_and_of_vectors_the_vectors(replica: Replica) -> None:
    """What was dropped is in no answer, and the next batch begins at 0."""
    replica.apply_documents(P, make_batch(0, ONE))
    replica.apply_vectors(P, make_vectors(0, 1, *ONE.chunks))
    replica.apply_reset(P, VECTORS)
    assert replica.vectors(P, vector_of("alpha first"), 5) == []
    assert texts(replica, "alpha") == {"alpha first"}
    replica.apply_vectors(P, make_vectors(0, 1, *ONE.chunks))
    assert nearest(replica, "alpha first") == "alpha first"
    replica.apply_reset(P, Reset(ResetReason.EPOCH_CHANGED, FeedStream.DOCUMENTS, "e2"))
    assert hits(replica) == []
    assert replica.keyword(P, "alpha", 5) == []
    assert replica.vectors(P, vector_of("alpha first"), 5) == []
    replica.apply_documents(P, make_batch(0, TWO, epoch="e2"))
    assert texts(replica, "charlie") == {"charlie third"}


def test_a_project_created_again_has_nothing_of_the_old_one(replica: Replica) -> None:
    """Another epoch in the project list drops the content at once; dropping a project leaves the others."""
    prepare(replica, Q)
    replica.apply_documents(Q, make_batch(0, TWO))
    replica.apply_documents(P, make_batch(0, ONE))
    old = [hit.pk for hit in hits(replica)]
    assert replica.put_project(make_project(P, epoch="e2"))
    assert hits(replica) == []
    assert replica.hydrate(P, old) == []
    assert replica.project(P).documents_cursor is None
    replica.drop_project(P)
    replica.drop_project(P)
    with pytest.raises(NotFoundError):
        replica.project(P)
    assert [each.project.id for each in replica.projects()] == [Q]
    assert texts(replica, "charlie", Q) == {"charlie third"}
    assert replica.hydrate(Q, old) == []


def test_new_settings_keep_the_content(replica: Replica) -> None:
    """The same incarnation, or one that the project's own feed has told of already, keeps what it has."""
    replica.apply_documents(P, make_batch(0, ONE))
    assert not replica.put_project(make_project(P, head=9, generation=2))
    assert (replica.project(P).project.generation, replica.project(P).head) == (2, 9)
    replica.apply_reset(P, Reset(ResetReason.EPOCH_CHANGED, FeedStream.DOCUMENTS, "e2"))
    replica.apply_documents(P, make_batch(0, TWO, epoch="e2"))
    assert not replica.put_project(make_project(P, epoch="e2"))
    assert texts(replica, "charlie") == {"charlie third"}


def test_projects_do_not_see_each_other(replica: Replica) -> None:
    """Equal ids and words in two projects stay apart, also when keys of the other are asked for."""
    prepare(replica, Q)
    replica.apply_documents(P, make_batch(0, ONE))
    replica.apply_documents(Q, make_batch(0, ONE))
    mine, theirs = hits(replica), hits(replica, Q)
    assert not {hit.pk for hit in mine} & {hit.pk for hit in theirs}
    assert replica.hydrate(P, [hit.pk for hit in theirs]) == []
    assert {hit.pk for hit in replica.keyword(P, "alpha bravo", 10)} == {hit.pk for hit in mine}


def test_filters_that_python_takes_for_equal_are_not(replica: Replica) -> None:
    """1 and True hash alike; the remembered answer of one is not the other's. A later write is in the next answer."""
    replica.apply_documents(P, make_batch(0, make_document("a", "x", metadata={"v": 1}), make_document("b", "y", metadata={"v": True})))
    one, true = (replica.hydrate(P, replica.allowed(P, Comparison("v", Operator.EQUAL, value)).tolist()) for value in (1, True))
    assert [hit.document_id for hit in one] == ["a"]
    assert [hit.document_id for hit in true] == ["b"]
    replica.apply_documents(P, make_batch(2, make_document("c", "z", metadata={"v": 1})))
    assert len(replica.allowed(P, Comparison("v", Operator.EQUAL, 1))) == 2
    assert len(replica.allowed(P, AllOf(()))) == 3


def test_more_vectors_than_may_be_kept_are_dropped_until_there_is_room(tmp_path: Path) -> None:
    """Beyond the bound there are none at all, also after opening; with a larger bound they are asked for from the beginning."""
    many = make_document("many", "\n".join(f"line {number}" for number in range(5)))
    opened = Replica.open(tmp_path / "r", vectors_max=4)
    prepare(opened)
    opened.apply_documents(P, make_batch(0, ONE, many))
    opened.apply_vectors(P, make_vectors(0, 1, *ONE.chunks))
    assert opened.project(P).vectors_available
    opened.apply_vectors(P, make_vectors(1, 2, *many.chunks))
    assert not opened.project(P).vectors_available
    assert opened.vectors(P, vector_of("x"), 3) is None
    assert not opened.wants_vectors(P)
    assert opened.project(P).vectors_cursor == Cursor("e1", SequenceNumber(2))
    assert list((tmp_path / "r" / "vectors").iterdir()) == []
    opened.close()
    opened = Replica.open(tmp_path / "r", vectors_max=4)
    assert not opened.wants_vectors(P)
    opened.close()
    opened = Replica.open(tmp_path / "r", vectors_max=7)
    assert opened.wants_vectors(P)
    assert opened.project(P).vectors_cursor is None
    opened.close()


def test_vectors_can_be_switched_off(tmp_path: Path) -> None:
    """With a bound of 0 nothing is kept, also of what was kept before."""
    opened = Replica.open(tmp_path / "r", vectors_max=9)
    prepare(opened)
    opened.apply_documents(P, make_batch(0, ONE))
    opened.apply_vectors(P, make_vectors(0, 1, *ONE.chunks))
    opened.close()
    opened = Replica.open(tmp_path / "r", vectors_max=0)
    assert opened.vectors(P, vector_of("alpha first"), 3) is None
    assert list((tmp_path / "r" / "vectors").iterdir()) == []
    assert texts(opened, "alpha") == {"alpha first"}
    opened.close()


def test_a_query_of_another_dimension_has_no_answer(replica: Replica) -> None:
    """Vectors of one model cannot answer for another; a batch of another dimension is refused."""
    replica.apply_documents(P, make_batch(0, ONE))
    replica.apply_vectors(P, make_vectors(0, 1, *ONE.chunks))
    assert replica.vectors(P, np.ones(DIMENSION + 1, np.float32), 3) is None
    with pytest.raises(FeedGapError):
        replica.apply_vectors(P, VectorBatch(make_range(1, 1), [ONE.chunks[0].id], np.ones((1, DIMENSION + 1), np.float32)))


async def test_waits_end_when_the_copy_has_come_far_enough(replica: Replica) -> None:
    """Documents by their cursor; vectors by what the indexer told or by the copy's own."""
    assert not await replica.wait_for_documents(P, Cursor("e1", SequenceNumber(1)), Deadline.after(0.01))
    threading.Timer(0.0, replica.apply_documents, (P, make_batch(0, ONE))).start()
    assert await replica.wait_for_documents(P, Cursor("e1", SequenceNumber(1)), Deadline.after(30))
    assert not await replica.wait_for_vectors(P, Cursor("e1", SequenceNumber(1)), Deadline.after(0.01))
    replica.apply_vectors(P, make_vectors(0, 1, *ONE.chunks))
    assert await replica.wait_for_vectors(P, Cursor("e1", SequenceNumber(1)), Deadline.after(0))
    replica.apply_heartbeat(P, Heartbeat("e1", SequenceNumber(4), VectorSequence(3), TIME))
    assert await replica.wait_for_vectors(P, Cursor("e1", SequenceNumber(3)), Deadline.after(0))
    assert replica.project(P).lag == 3
    with pytest.raises(FeedGapError):
        replica.apply_heartbeat(P, Heartbeat("e2", SequenceNumber(4), VectorSequence(3), TIME))


# --- crashes and damage ------------------------------------------------------------------------------------------------------------------

LAST = make_document("three", "echo\nfoxtrot", title="0123456789 okapi")
HISTORY: list[Callable[[Replica], None]] = [
    lambda replica: replica.apply_documents(P, make_batch(0, ONE, TWO)),
    lambda replica: replica.apply_vectors(P, make_vectors(0, 2, *ONE.chunks, *TWO.chunks)),
    lambda replica: replica.apply_documents(P, make_batch(2, make_document("one", "delta new\nbravo second", title="Greek"), "two")),
    lambda replica: replica.apply_documents(P, make_batch(4, make_document("three", "echo", title="0123456789 zebra"))),
    lambda replica: replica.apply_documents(P, make_batch(5, make_document("three", "echo", title="0123456789 okapi"))),
    lambda replica: replica.apply_documents(P, make_batch(6, LAST)),
    lambda replica: replica.apply_vectors(P, make_vectors(2, 7, *LAST.chunks)),
]
QUERIES = ["alpha", "bravo", "charlie", "delta", "echo", "foxtrot", "greek", "title", "zebra", "okapi"]


def describe(replica: Replica) -> object:
    """Everything that callers can see, but for keys."""
    names = {hit.pk: hit.chunk.id for hit in hits(replica)}
    project = replica.project(P)
    found = {query: sorted(names[hit.pk] for hit in replica.keyword(P, query, 50)) for query in QUERIES}
    near = {
        hit.chunk.text: [(names[one.pk], round(one.score, 5)) for one in replica.vectors(P, vector_of(hit.chunk.text), 9) or ()]
        for hit in hits(replica)
    }
    content = sorted((hit.chunk.id, hit.chunk.ordinal, hit.title, repr(hit.metadata)) for hit in hits(replica))
    return content, found, near, replica.counts(P), project.documents_cursor, project.vectors_cursor


def pending(path: Path) -> bool:
    """There is work noted for the keyword index."""
    connection = apsw.Connection(str(path / "replica.db"))
    count = connection.execute("SELECT count(*) FROM index_pending").get
    connection.close()
    return bool(count)


def test_a_crash_after_any_step_is_healed_by_repeating_the_feed(tmp_path: Path) -> None:
    """From the files as they are after every step of every write, opening and repeating from the cursor gives the same replica."""
    copies: list[tuple[str, Path, int]] = []
    applied: list[int] = []

    def crash(step: str) -> None:
        if applied:
            target = tmp_path / f"crash{len(copies)}"
            shutil.copytree(tmp_path / "replica", target)
            copies.append((step, target, len(applied) - 1))

    replica = Replica.open(tmp_path / "replica", vectors_max=100, step=crash)
    prepare(replica)
    for position, event in enumerate(HISTORY):
        applied.append(position)
        event(replica)
    expected = describe(replica)
    replica.close()
    steps = [step for step, _, _ in copies]
    assert {"documents stored", "documents indexed", "documents finished", "vectors flushed", "vectors finished"} == set(steps)
    for step, path, at in copies:
        assert pending(path) == (step in {"documents stored", "documents indexed"}), step
        again = Replica.open(path, vectors_max=100)
        for query in QUERIES:
            there = {hit.pk for hit in hits(again) if query in f"{hit.title} {hit.chunk.text}".lower()}
            assert {hit.pk for hit in again.keyword(P, query, 50)} == there, (step, at, query)
        for event in HISTORY[at + step.endswith("finished") :]:
            event(again)
        assert describe(again) == expected, (step, at)
        again.close()


@pytest.mark.parametrize("step", ["documents dropped", "project dropped"])
def test_a_crash_while_dropping_leaves_nothing_behind(tmp_path: Path, step: str) -> None:
    """After a crash in the middle of a reset or of the end of a project, nothing of it is found, and the copy can begin again."""
    dropping = False

    def crash(name: str) -> None:
        if dropping and name == step:
            shutil.copytree(tmp_path / "replica", tmp_path / "copy")

    replica = Replica.open(tmp_path / "replica", vectors_max=100, step=crash)
    prepare(replica)
    replica.apply_documents(P, make_batch(0, ONE))
    replica.apply_vectors(P, make_vectors(0, 1, *ONE.chunks))
    dropping = True
    if step == "project dropped":
        replica.drop_project(P)
    else:
        replica.apply_reset(P, DOCUMENTS)
    replica.close()
    again = Replica.open(tmp_path / "copy", vectors_max=100)
    assert [each.documents_cursor for each in again.projects()] == ([None] if step == "documents dropped" else [])
    prepare(again)
    assert again.keyword(P, "alpha", 5) == []
    again.apply_documents(P, make_batch(0, ONE))
    again.apply_vectors(P, make_vectors(0, 1, *ONE.chunks))
    assert (texts(again, "alpha"), nearest(again, "alpha first")) == ({"alpha first"}, "alpha first")
    again.close()


def test_a_failed_write_is_repeated_by_the_next_one(tmp_path: Path) -> None:
    """When a step fails while the process lives on, the same event again completes the work."""
    failing = False

    def step(name: str) -> None:
        if failing and name == "documents stored":
            raise UnavailableError("disk", component="replica")

    replica = Replica.open(tmp_path / "replica", vectors_max=100, step=step)
    prepare(replica)
    replica.apply_documents(P, make_batch(0, ONE))
    failing = True
    with pytest.raises(UnavailableError):
        replica.apply_documents(P, make_batch(1, "one", TWO))
    assert texts(replica, "alpha charlie") == set()
    assert replica.project(P).documents_cursor == Cursor("e1", SequenceNumber(1))
    failing = False
    replica.apply_documents(P, make_batch(1, "one", TWO))
    assert texts(replica, "alpha charlie") == {"charlie third"}
    replica.close()


@pytest.fixture
def closed(tmp_path: Path) -> Path:
    """The files of a replica that was closed."""
    opened = Replica.open(tmp_path / "replica", vectors_max=100)
    prepare(opened)
    opened.set_project_list_cursor(Cursor("list", SequenceNumber(7)))
    opened.apply_documents(P, make_batch(0, ONE))
    opened.apply_vectors(P, make_vectors(0, 1, *ONE.chunks))
    opened.apply_heartbeat(P, Heartbeat("e1", SequenceNumber(5), VectorSequence(1), TIME))
    opened.close()
    return tmp_path / "replica"


def test_everything_is_there_after_opening_again(closed: Path) -> None:
    """Documents, vectors, cursors and what heartbeats told survive a restart."""
    opened = Replica.open(closed, vectors_max=100)
    assert texts(opened, "alpha") == {"alpha first"}
    assert nearest(opened, "bravo second") == "bravo second"
    assert opened.project_list_cursor == Cursor("list", SequenceNumber(7))
    project = opened.project(P)
    assert (project.project, project.head, project.vector_sequence, project.contact_time) == (make_project(P), 5, 1, None)
    opened.close()


def test_a_lost_index_is_made_from_the_documents(closed: Path) -> None:
    """Without its keyword index the replica needs no feed to have one again."""
    shutil.rmtree(closed / "keyword")
    opened = Replica.open(closed, vectors_max=100)
    assert texts(opened, "alpha") == {"alpha first"}
    assert opened.project(P).documents_cursor == Cursor("e1", SequenceNumber(1))
    opened.close()


def test_lost_vectors_are_asked_for_again(closed: Path) -> None:
    """Without the file of vectors their cursor is gone, and the documents stay."""
    for path in (closed / "vectors").iterdir():
        path.unlink()
    opened = Replica.open(closed, vectors_max=100)
    assert opened.project(P).vectors_cursor is None
    assert opened.project(P).documents_cursor == Cursor("e1", SequenceNumber(1))
    assert opened.counts(P).vectors == 0
    opened.close()


def garbage(path: Path) -> None:
    """Damages the database."""
    (path / "replica.db").write_bytes(b"this is no database, it only has the size of one " * 200)


def other_version(path: Path) -> None:
    """Pretends that another version laid out the database."""
    connection = apsw.Connection(str(path / "replica.db"))
    connection.pragma("user_version", 99)
    connection.close()


def torn_pages(path: Path) -> None:
    """Overwrites everything behind the first page of the database."""
    data = (path / "replica.db").read_bytes()
    (path / "replica.db").write_bytes(data[:4096] + b"\x55" * (len(data) - 4096))


@pytest.mark.parametrize("damage", [garbage, other_version, torn_pages])
def test_a_database_of_no_use_is_begun_again(closed: Path, damage: Callable[[Path], None]) -> None:
    """A damaged file, or one of another version, gives an empty replica that works; nothing of the old index or vectors shows."""
    damage(closed)
    opened = Replica.open(closed, vectors_max=100)
    assert opened.projects() == ()
    assert opened.project_list_cursor is None
    prepare(opened)
    assert opened.keyword(P, "alpha", 5) == []
    opened.apply_documents(P, make_batch(0, TWO))
    assert texts(opened, "charlie") == {"charlie third"}
    opened.close()


def test_one_process_a_folder(closed: Path) -> None:
    """A second replica on the same files is refused until the first is closed; a closed one says so."""
    first = Replica.open(closed, vectors_max=100)
    with pytest.raises(ConfigurationError, match="KB_DATA_DIR"):
        Replica.open(closed, vectors_max=100)
    first.close()
    first.close()
    with pytest.raises(UnavailableError, match="closed"):
        first.hydrate(P, [1])
    Replica.open(closed, vectors_max=100).close()


def test_readers_see_whole_documents_while_one_writes(replica: Replica) -> None:
    """Threads that search during many updates only ever get a document as it was written at some moment."""
    stop, problems = threading.Event(), list[str]()

    def version(number: int) -> Document:
        return make_document("doc", f"alpha {number}\nbravo {number}", title=f"t{number}", metadata={"number": number})

    def read() -> None:
        while not stop.is_set():
            by_word = replica.hydrate(P, [hit.pk for hit in replica.keyword(P, "alpha bravo", 10)])
            near = replica.vectors(P, vector_of("alpha 3"), 10) or []
            by_filter = replica.hydrate(P, replica.allowed(P, EVERYTHING).tolist())
            for found in (by_word, replica.hydrate(P, [hit.pk for hit in near]), by_filter):
                if len({hit.title for hit in found}) > 1 or any(hit.metadata["number"] != int(hit.chunk.text.split()[1]) for hit in found):
                    problems.append(repr(found))

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for number in range(25):
        replica.apply_documents(P, make_batch(number, version(number)))
        replica.apply_vectors(P, make_vectors(number, number + 1, *version(number).chunks))
    stop.set()
    for reader in readers:
        reader.join()
    assert problems == []
    assert texts(replica, "alpha") == {"alpha 24"}


def test_a_position_is_not_seen_before_the_vectors_that_it_stands_for(replica: Replica) -> None:
    """Who finds the cursor at a write finds the write's vectors: a search that asks for that write must not run in between."""
    stop, problems = threading.Event(), list[str]()

    def read() -> None:
        while not stop.is_set():
            cursor = replica.project(P).vectors_cursor
            found = len(replica.vectors(P, vector_of("alpha"), 1_000) or [])
            if cursor is not None and found < cursor.sequence:
                problems.append(f"{found} vectors at {cursor.sequence}")

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for number in range(30):
        document = make_document(f"doc{number}", f"alpha {number}")
        replica.apply_documents(P, make_batch(number, document))
        replica.apply_vectors(P, make_vectors(number, number + 1, *document.chunks))
    stop.set()
    for reader in readers:
        reader.join()
    assert problems == []

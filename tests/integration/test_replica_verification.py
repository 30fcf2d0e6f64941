"""A replica finds out in which way it is not the catalog, says so, and mends itself.

Catalog, feed, follower and files are real, and so is the damage, which is done behind the replica's back.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apsw
import numpy as np
import pytest

from services.indexer.application.digest import Digests
from services.indexer.application.feed import ChangeFeed
from services.indexer.application.signals import Signals
from services.indexer.catalog.sqlite import SqliteCatalog
from services.indexer.records import Failure, ProjectKey
from services.query.application.verify import VerifyReplica
from services.query.application.verify_schedule import VerifySchedule
from services.query.replica import Replica
from services.query.replica.follower import Follower
from services.query.replica.integrity import row_checksum
from services.query.replica.model import CopyInspection
from shared.digest import DEFAULT_PARTS, ProjectDigest, SequenceRange
from shared.domain import ChunkId, DocumentId, FeedStream, ProjectId, Reset, ResetReason, SequenceNumber, TraceContext
from shared.errors import DeadlineExceededError, NotFoundError, UnavailableError
from shared.observability import metrics
from shared.resilience.backoff import Backoff
from shared.resilience.deadline import Deadline
from shared.verification import DifferenceKind, Verification
from tests.integration.test_catalog import PROJECT, create, embed_everything, prepared, write

DOCUMENTS = 30
CHUNKS = 2 * DOCUMENTS


class CatalogDigestsInProcess:
    """Satisfies CatalogDigests without a network. `down`: as if the indexer did not answer."""

    def __init__(self, digests: Digests) -> None:
        self._digests = digests
        self.down = False
        self.asked: list[SequenceRange] = []

    async def digest(self, project_id: ProjectId, wanted: SequenceRange, parts: int, *, named: bool, deadline: Deadline) -> ProjectDigest:
        """See the port."""
        assert deadline.remaining() > 0
        if self.down:
            raise UnavailableError("down", component="change_feed")
        self.asked.append(wanted)
        return await self._digests.read(project_id, wanted, parts, named=named, unsent=False)

    async def unsent(self, project_id: ProjectId, deadline: Deadline) -> ProjectDigest:
        """See the port."""
        assert deadline.remaining() > 0
        nothing = SequenceRange(SequenceNumber(0), SequenceNumber(0))
        return await self._digests.read(project_id, nothing, 1, named=False, unsent=True)


@dataclass
class Pair:
    """A catalog and a replica that follows it."""

    folder: Path
    catalog: SqliteCatalog
    key: ProjectKey
    replica: Replica
    follower: Follower
    following: asyncio.Task[None]
    digests: CatalogDigestsInProcess
    verify: VerifyReplica

    async def check(self, *, repair: bool = False, seconds: float = 30.0) -> Verification:
        """Verifies the project."""
        return await self.verify.run(PROJECT, Deadline.after(seconds), repair=repair)

    async def at_rest(self) -> None:
        """Waits until the replica has everything, vectors included, and mends nothing."""
        position = await self.catalog.position(self.key)
        async with asyncio.timeout(30):
            while True:
                here = {each.project.id: each for each in self.replica.projects()}.get(PROJECT)
                cursors = {each.sequence for each in (here.documents_cursor, here.vectors_cursor) if each} if here else set()
                if here and here.vectors_cursor and cursors == {position.head} and here.contact_time and not self.follower.mending():
                    return
                await asyncio.sleep(0.005)  # what is waited for lies in threads and files, which set no event

    def damage(self, *statements: str) -> None:
        """Changes the replica's database behind its back."""
        connection = apsw.Connection(str(self.folder / "replica" / "replica.db"))
        try:
            for statement in statements:
                connection.execute(statement)
        finally:
            connection.close()


@asynccontextmanager
async def opened(folder: Path, *, documents: int = DOCUMENTS) -> AsyncIterator[Pair]:
    """Both, with documents of two chunks each, at rest."""
    catalog, signals = SqliteCatalog.open(folder / "catalog"), Signals()
    key = await create(catalog)
    await write(catalog, key, *[prepared(f"d{number}", f"alpha{number}", f"bravo{number}") for number in range(documents)])
    await embed_everything(catalog)
    replica = Replica.open(folder / "replica", vectors_max=1_000)
    follower = Follower(ChangeFeed(catalog, signals, heartbeat_seconds=0.02), replica, backoff=Backoff(initial=0.001, maximum=0.01))
    task = asyncio.create_task(follower.run())
    digests = CatalogDigestsInProcess(Digests(catalog))
    pair = Pair(folder, catalog, key, replica, follower, task, digests, VerifyReplica(replica, digests, follower, "one"))
    try:
        await pair.at_rest()
        yield pair
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        replica.close()
        await catalog.close()


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Pair]:
    """A catalog and its replica."""
    async with opened(tmp_path) as found:
        yield found


def found(verification: Verification) -> dict[DifferenceKind, tuple[int, tuple[str, ...]]]:
    """What differs."""
    return {each.kind: (each.count, each.examples) for each in verification.differences}


def counted(kind: DifferenceKind) -> float:
    """How many of a kind have been counted."""
    return metrics.REGISTRY.get_sample_value("kb_replica_differences_total", {"kind": kind.value}) or 0.0


def best(pair: Pair, word: str) -> list[str]:
    """The text that a word finds first."""
    return [hit.chunk.text for hit in pair.replica.hydrate(PROJECT, [each.pk for each in pair.replica.keyword(PROJECT, word, 1)])]


async def test_a_right_copy_is_found_right(pair: Pair) -> None:
    """Nothing differs, the head and the number of chunks are told, and nothing is repaired."""
    await pair.catalog.delete_documents(pair.key, [(DocumentId("d3"), None)], TraceContext())
    await write(pair.catalog, pair.key, prepared("d4", "other"))
    await embed_everything(pair.catalog)
    await pair.at_rest()
    verification = await pair.check(repair=True)
    assert verification == Verification(PROJECT, SequenceNumber(DOCUMENTS + 2), CHUNKS - 3, (), replica="one")
    assert verification.equal


LOST = "DELETE FROM chunk WHERE document = (SELECT pk FROM document WHERE id = '{0}')", "DELETE FROM document WHERE id = '{0}'"


def lose(pair: Pair) -> None:
    """Two documents are gone."""
    for name in ("d7", "d21"):
        pair.damage(*(statement.format(name) for statement in LOST))


def invent(pair: Pair) -> None:
    """A document that the catalog does not have."""
    values = (1, "ghost", "t", "{}", 5, "hash", 0, 0)
    columns = "project, id, title, metadata, sequence, content_hash, create_time, update_time, checksum"
    pair.damage(f"INSERT INTO document ({columns}) VALUES {(*values, row_checksum(*values))}")  # noqa: S608 - constants


def age(pair: Pair) -> None:
    """A document is at an older version."""
    pair.damage("UPDATE document SET sequence = 2 WHERE id = 'd9'")


def lose_a_chunk(pair: Pair) -> None:
    """A document has lost one of its chunks."""
    pair.damage("DELETE FROM chunk WHERE id = 'd5#bravo5'")


def corrupt_a_text(pair: Pair) -> None:
    """A chunk says something else than it did, which no digest shows."""
    pair.damage("UPDATE chunk SET text = 'zulu' WHERE id = 'd5#bravo5'")


def corrupt_metadata(pair: Pair) -> None:
    """A document's metadata is another."""
    pair.damage("UPDATE document SET metadata = '{\"a\":1}' WHERE id = 'd5'")


@pytest.mark.parametrize(
    ("damage", "kind", "examples"),
    [
        (lose, DifferenceKind.DOCUMENTS_MISSING, ("d21", "d7")),
        (invent, DifferenceKind.DOCUMENTS_EXTRA, ("ghost",)),
        (age, DifferenceKind.DOCUMENTS_DIFFERENT, ("d9",)),
        (lose_a_chunk, DifferenceKind.DOCUMENTS_DIFFERENT, ("d5",)),
        (corrupt_a_text, DifferenceKind.DOCUMENTS_DIFFERENT, ("d5",)),
        (corrupt_metadata, DifferenceKind.DOCUMENTS_DIFFERENT, ("d5",)),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
async def test_documents_that_differ_are_named_counted_and_fetched_again(
    pair: Pair, damage: Callable[[Pair], None], kind: DifferenceKind, examples: tuple[str, ...]
) -> None:
    """Which they are, and after the repair the copy is right again."""
    damage(pair)
    before = counted(kind)
    verification = await pair.check()
    assert found(verification)[kind] == (len(examples), examples)
    assert not verification.repaired
    assert counted(kind) == before + len(examples)
    mended = await pair.check(repair=True)
    assert mended.repaired
    assert "fetched" in mended.repair_message
    await pair.at_rest()
    assert (await pair.check()).equal
    assert pair.replica.counts(PROJECT).chunks == CHUNKS
    assert best(pair, "bravo5") == ["bravo5"]


async def test_a_copy_that_is_being_fetched_again_says_so_until_it_is_there(pair: Pair) -> None:
    """While the copy is being mended its project is named, and searches go on with what has arrived."""
    lose(pair)
    await pair.check(repair=True)
    assert pair.follower.mending() == (PROJECT,)
    await pair.at_rest()
    assert pair.follower.mending() == ()


def unindex(pair: Pair) -> None:
    """Two chunks leave the keyword index, one comes in twice."""
    pks = pair.replica.resolve(PROJECT, [ChunkId("d1#alpha1"), ChunkId("d2#alpha2"), ChunkId("d3#alpha3")])
    index = pair.replica._index
    index.delete([pks[ChunkId("d1#alpha1")], pks[ChunkId("d2#alpha2")]])
    index.add(1, pks[ChunkId("d3#alpha3")], "Title", "alpha3")
    index.commit()


async def test_a_keyword_index_that_differs_from_the_chunks_is_made_again(pair: Pair) -> None:
    """Chunks that it lacks or has twice are named; it is made again from the chunks, without the indexer."""
    unindex(pair)
    verification = await pair.check(repair=True)
    assert found(verification) == {DifferenceKind.KEYWORD_INDEX: (3, ("d1#alpha1", "d2#alpha2", "d3#alpha3"))}
    assert "keyword index" in verification.repair_message
    assert (await pair.check()).equal
    assert pair.follower.mending() == ()
    for word in ("alpha1", "alpha2", "alpha3"):
        assert best(pair, word) == [word]


async def test_a_keyword_index_whose_files_are_damaged_is_made_again(pair: Pair) -> None:
    """A byte that flips in the postings changes no key; the file's checksum tells."""
    path = next((pair.folder / "replica" / "keyword").glob("*.term"))
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 1
    path.write_bytes(data)
    verification = await pair.check(repair=True)
    assert found(verification)[DifferenceKind.KEYWORD_INDEX][0] == CHUNKS
    assert (await pair.check()).equal
    assert best(pair, "alpha1") == ["alpha1"]


async def test_vectors_that_are_lost_or_damaged_are_fetched_again(pair: Pair) -> None:
    """One that has no place any more, and one whose numbers changed: both are named, and the vectors come again."""
    pks = pair.replica.resolve(PROJECT, [ChunkId("d1#alpha1"), ChunkId("d2#alpha2")])
    pair.damage("UPDATE chunk SET vector_slot = NULL WHERE id = 'd1#alpha1'")
    [(slot,)] = (
        apsw.Connection(str(pair.folder / "replica" / "replica.db")).execute("SELECT vector_slot FROM chunk WHERE id = 'd2#alpha2'").fetchall()
    )
    path = next((pair.folder / "replica" / "vectors").iterdir())
    vectors = np.memmap(path, dtype=np.float32, mode="r+").reshape(-1, 2)
    vectors[int(str(slot)), 1] += 1
    verification = await pair.check(repair=True)
    assert found(verification) == {DifferenceKind.REPLICA_VECTORS: (2, ("d1#alpha1", "d2#alpha2"))}
    await pair.at_rest()
    assert (await pair.check()).equal
    assert pair.replica.counts(PROJECT).vectors == CHUNKS
    assert pair.replica.vectors_of(PROJECT, np.array([pks[ChunkId("d2#alpha2")]]))[1].tolist() == [[6.0, 0.0]]


async def test_chunks_that_the_catalog_has_no_vectors_of_are_not_missed(pair: Pair) -> None:
    """A chunk in quarantine has no vector anywhere; one that is not embedded yet has none either."""
    await write(pair.catalog, pair.key, prepared("poison", "poison"))
    [project] = await pair.catalog.projects_to_embed()
    await pair.catalog.store_embeddings(project, [], np.empty((0, 2), np.float32), [Failure(ChunkId("poison#poison"), "cannot be embedded")])
    await pair.at_rest()
    assert (await pair.check()).equal
    await write(pair.catalog, pair.key, prepared("new", "new"))
    await eventually_applied(pair, "new")
    assert (await pair.check()).equal


async def eventually_applied(pair: Pair, word: str) -> None:
    """Waits until a word can be found."""
    async with asyncio.timeout(30):
        while not pair.replica.keyword(PROJECT, word, 1):
            await asyncio.sleep(0.005)


async def test_a_copy_that_does_not_come_to_the_head_is_not_compared(pair: Pair) -> None:
    """Without the newest change there is no moment to compare at: DeadlineExceededError, and no false alarm."""
    pair.following.cancel()
    await write(pair.catalog, pair.key, prepared("late", "late"))
    with pytest.raises(DeadlineExceededError):
        await pair.check(seconds=0.3)


async def test_changes_while_comparing_are_no_differences(pair: Pair) -> None:
    """Writes that go on all the time neither make differences nor keep the comparison from ending."""
    stop = asyncio.Event()

    async def keep_writing() -> None:
        number = 0
        while not stop.is_set():
            await write(pair.catalog, pair.key, prepared(f"d{number % DOCUMENTS}", f"version{number}"))
            number += 1
            await asyncio.sleep(0.05)

    writer = asyncio.create_task(keep_writing())
    try:
        for _ in range(5):
            assert (await pair.check()).equal
    finally:
        stop.set()
        await writer


class BeginsAnew:
    """A replica whose copy begins anew between the comparison of its documents and the look at its inside."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._times = 0
        self.begun = threading.Event()

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever the replica has
        return getattr(self._replica, name)

    def inspect(self, project_id: ProjectId) -> CopyInspection:
        """See ProjectCopy."""
        self._times += 1
        if self._times == 1:
            epoch = self._replica.project(project_id).project.epoch
            self._replica.apply_reset(project_id, Reset(ResetReason.NO_CURSOR, FeedStream.DOCUMENTS, epoch))
            self.begun.set()
        return self._replica.inspect(project_id)


async def test_a_copy_that_begins_anew_meanwhile_is_compared_when_it_is_whole(pair: Pair) -> None:
    """An empty copy has nothing wrong in it, and is not what was asked about."""
    copy = BeginsAnew(pair.replica)
    verify = VerifyReplica(copy, pair.digests, pair.follower, "one")
    asked = asyncio.create_task(verify.run(PROJECT, Deadline.after(30), repair=False))
    assert await asyncio.to_thread(copy.begun.wait, 20)
    pair.follower.watch_again(PROJECT, afresh=False)
    verification = await asked
    assert (verification.equal, verification.compared) == (True, CHUNKS)


async def test_errors_say_what_is_wrong(pair: Pair) -> None:
    """No such project, and no indexer."""
    with pytest.raises(NotFoundError):
        await pair.verify.run(ProjectId("nothing"), Deadline.after(5), repair=False)
    pair.digests.down = True
    with pytest.raises(UnavailableError):
        await pair.check()


async def test_a_long_history_is_narrowed_down_to_what_differs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only ranges that differ are asked for again, and only they are told document by document."""
    monkeypatch.setattr("services.query.application.verify_documents.MAX_NAMED_SEQUENCES", 10)
    async with opened(tmp_path, documents=1_500) as pair:
        pair.damage("UPDATE document SET sequence = 100 WHERE id = 'd700'")
        verification = await pair.check()
        assert found(verification) == {DifferenceKind.DOCUMENTS_DIFFERENT: (1, ("d700",))}
    widths = [wanted.width for wanted in pair.digests.asked]
    assert widths[0] == 1_500
    assert len(widths) <= 6
    assert sum(widths[1:]) <= 2 * (1_500 // DEFAULT_PARTS + 1)


async def test_a_project_of_many_chunks_is_compared_a_piece_at_a_time(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where either side ends a walk early the next one goes on; nothing is passed over."""
    monkeypatch.setattr("shared.digest.MAX_CHUNKS", 7)
    assert (await pair.check()).equal
    assert len(pair.digests.asked) > 5
    lose(pair)
    age(pair)
    assert found(await pair.check())[DifferenceKind.DOCUMENTS_MISSING] == (2, ("d21", "d7"))
    assert found(await pair.check())[DifferenceKind.DOCUMENTS_DIFFERENT] == (1, ("d9",))


async def test_a_round_mends_every_project_and_notes_when(pair: Pair) -> None:
    """The schedule's work: each project is verified with repair; a round that was not complete is not noted."""
    schedule = VerifySchedule(pair.verify, pair.replica, 3600)
    lose(pair)
    metrics.REPLICA_VERIFIED.set(0)
    pair.digests.down = True
    await schedule.round()
    assert metrics.REGISTRY.get_sample_value("kb_replica_verified_timestamp_seconds") == 0
    pair.digests.down = False
    await schedule.round()
    assert metrics.REGISTRY.get_sample_value("kb_replica_verified_timestamp_seconds")
    await pair.at_rest()
    assert (await pair.check()).equal

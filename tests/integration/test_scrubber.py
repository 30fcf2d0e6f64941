"""What the disk has changed in the catalog is found, told, and can be mended by writing it again."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import apsw
import pytest

from services.indexer.application.followers import Followers
from services.indexer.application.ingest import content_hash
from services.indexer.application.scrubber import Damage, Scrubber
from services.indexer.catalog.sqlite import SqliteCatalog
from services.indexer.checks import check_database
from services.indexer.records import PreparedDocument, ProjectKey, StoredDocument, StoredPage
from shared.domain import DocumentId, DocumentInput, TraceContext
from shared.errors import CorruptionError, UnavailableError
from shared.health import HealthMonitor
from shared.observability.metrics import REGISTRY
from shared.resilience.pace import Pace
from shared.serving import ServingStates
from tests.integration.test_catalog import PROJECT, create, write

RATE = 1e12


def document(document_id: str, text: str, **metadata: str | int) -> PreparedDocument:
    """A document with the hash that the service gives it."""
    source = DocumentInput(DocumentId(document_id), "A title", text, metadata)
    return PreparedDocument(source, (), content_hash(source))


@pytest.fixture
async def catalog(tmp_path: Path) -> AsyncIterator[SqliteCatalog]:
    """A catalog with fifty documents."""
    catalog = SqliteCatalog.open(tmp_path)
    key = await create(catalog)
    await write(catalog, key, *(document(f"d{number}", f"the sentence with number {number} é", year=number) for number in range(50)))
    yield catalog
    await catalog.close()


async def scrub(catalog: SqliteCatalog) -> Damage:
    """What one look finds."""
    scrubber = Scrubber(catalog, Pace(RATE))
    assert await scrubber.step() is False
    assert REGISTRY.get_sample_value("kb_catalog_damaged_documents") == scrubber.damage.count + scrubber.damage.unreadable
    return scrubber.damage


async def change(folder: Path, sql: str) -> None:
    """Changes a row behind the service's back, as a disk would: the hash stays."""
    connection = apsw.Connection(str(folder / "catalog.db"))
    connection.execute(sql)
    connection.close()


async def test_a_sound_catalog_has_no_damage(catalog: SqliteCatalog) -> None:
    """Every document has the hash of its content, whatever its characters and metadata."""
    assert await scrub(catalog) == Damage()


@pytest.mark.parametrize(
    "damage",
    [
        "text = 'the sentence with number 8 é'",
        "text = CAST(x'ff80' AS TEXT)",
        "title = 'B title'",
        "metadata = CAST('{\"year\":8}' AS BLOB)",
        "metadata = x'7b22'",
        "metadata = CAST('7' AS BLOB)",
        "content_hash = 'other'",
    ],
)
async def test_a_document_that_is_not_what_was_written_is_named(catalog: SqliteCatalog, tmp_path: Path, damage: str) -> None:
    """Whichever part it is, and though it may be no text any more; the others are not suspected."""
    await change(tmp_path, f"UPDATE document SET {damage} WHERE id = 'd7'")  # noqa: S608 - the test's own SQL
    assert await scrub(catalog) == Damage(1, ("docs/d7",))
    assert await scrub(catalog) == Damage(1, ("docs/d7",)), "it stays so until it is mended"


async def test_a_bit_that_the_disk_turns_inside_a_text_is_found(tmp_path: Path) -> None:
    """In the file itself; SQLite's check at the start has nothing against it."""
    catalog = SqliteCatalog.open(tmp_path)
    key = await create(catalog)
    await write(catalog, key, document("d", "an unmistakable sentence"))
    await catalog.close()
    path = tmp_path / "catalog.db"
    data = bytearray(path.read_bytes())
    data[data.index(b"unmistakable")] ^= 0b0000_0100
    path.write_bytes(data)

    catalog = SqliteCatalog.open(tmp_path)
    assert (await catalog.get_document(key, DocumentId("d"))).text == "an qnmistakable sentence"
    assert await scrub(catalog) == Damage(1, ("docs/d",))
    await catalog.close()


async def test_writing_the_document_again_mends_it(catalog: SqliteCatalog, tmp_path: Path) -> None:
    """With its old content, which would be unchanged if its hash were believed."""
    await change(tmp_path, "UPDATE document SET text = 'something else' WHERE id = 'd7'")
    await scrub(catalog)
    key, _ = await catalog.find_project(PROJECT)
    (written,) = await write(catalog, key, document("d7", "the sentence with number 7 é", year=7))
    assert not written.unchanged
    assert (await catalog.get_document(key, DocumentId("d7"))).text == "the sentence with number 7 é"
    assert await scrub(catalog) == Damage()


async def test_deleting_the_document_ends_it_too(catalog: SqliteCatalog, tmp_path: Path) -> None:
    """A tombstone has no content."""
    await change(tmp_path, "UPDATE document SET text = 'something else' WHERE id = 'd7'")
    await scrub(catalog)
    key, _ = await catalog.find_project(PROJECT)
    await catalog.delete_documents(key, [(DocumentId("d7"), None)], TraceContext())
    assert await scrub(catalog) == Damage()


async def test_reading_a_text_that_is_no_text_any_more_says_what_to_do(catalog: SqliteCatalog, tmp_path: Path) -> None:
    """An error of the domain, and of this document alone."""
    await change(tmp_path, "UPDATE document SET text = CAST(x'ff80' AS TEXT) WHERE id = 'd7'")
    key, _ = await catalog.find_project(PROJECT)
    with pytest.raises(CorruptionError, match="restore"):
        await catalog.get_document(key, DocumentId("d7"))
    assert (await catalog.get_document(key, DocumentId("d8"))).text.endswith("é")


class _Watched:
    """A catalog whose pages and marks are seen, and in which something can happen in between.

    Attributes:
        asked: Behind which keys pages were wanted.
        fails_at: The page, by its number, that fails once.
    """

    def __init__(self, catalog: SqliteCatalog, key: ProjectKey) -> None:
        self._catalog = catalog
        self._key = key
        self.asked: list[int] = []
        self.fails_at: int | None = None
        self.rewritten: PreparedDocument | None = None

    async def stored_page(self, after: int, size: int) -> StoredPage | None:
        """See ScrubCatalog."""
        self.asked.append(after)
        if len(self.asked) == self.fails_at:
            raise UnavailableError("the catalog is busy: retry", component="database")
        return await self._catalog.stored_page(after, size)

    async def mark_damaged(self, documents: Sequence[StoredDocument]) -> Sequence[StoredDocument]:
        """See ScrubCatalog. A write comes in between."""
        if self.rewritten is not None:
            await write(self._catalog, self._key, self.rewritten)
        return await self._catalog.mark_damaged(documents)


async def test_a_document_that_is_written_between_the_look_and_the_mark_is_left_alone(catalog: SqliteCatalog, tmp_path: Path) -> None:
    """What was read is no more: it is not told, and the new content keeps its hash."""
    await change(tmp_path, "UPDATE document SET text = 'something else' WHERE id IN ('d7', 'd8')")
    key, _ = await catalog.find_project(PROJECT)
    watched = _Watched(catalog, key)
    watched.rewritten = document("d7", "a new sentence")
    scrubber = Scrubber(watched, Pace(RATE))
    await scrubber.step()
    assert scrubber.damage == Damage(1, ("docs/d8",))
    assert await scrub(catalog) == Damage(1, ("docs/d8",))
    (written,) = await write(catalog, key, document("d7", "a new sentence"))
    assert written.unchanged


async def test_a_look_that_fails_tells_what_it_has_found_and_goes_on_from_there(tmp_path: Path) -> None:
    """Large documents come one by one; what was found before the failure is told at once, and what was looked at is not looked at again."""
    catalog = SqliteCatalog.open(tmp_path)
    key = await create(catalog)
    await write(catalog, key, *(document(f"d{number}", f"{number} " + "x" * 3_000_000) for number in range(3)))
    await change(tmp_path, "UPDATE document SET title = 'B title'")
    watched = _Watched(catalog, key)
    watched.fails_at = 2
    scrubber = Scrubber(watched, Pace(RATE))
    with pytest.raises(UnavailableError):
        await scrubber.step()
    assert scrubber.damage == Damage(1, ("docs/d0",))
    assert not await scrubber.step()
    assert watched.asked == [0, 1, 1, 2, 3]
    assert scrubber.damage == Damage(3, ("docs/d0", "docs/d1", "docs/d2"))
    await write(catalog, key, *(document(f"d{number}", "small") for number in range(3)))
    await scrubber.step()
    assert scrubber.damage == Damage()
    await catalog.close()


async def test_a_large_document_takes_as_long_as_many_small_ones(tmp_path: Path) -> None:
    """The pace counts bytes."""
    catalog = SqliteCatalog.open(tmp_path)
    key = await create(catalog)
    await write(catalog, key, *(document(f"d{number}", "x" * 3_000_000) for number in range(4)))
    waited: list[float] = []

    async def sleep(seconds: float) -> None:
        waited.append(seconds)

    await Scrubber(catalog, Pace(3e6, clock=lambda: 0.0, sleep=sleep)).step()
    assert waited == pytest.approx([1, 2, 3], rel=0.01)
    await catalog.close()


async def health(catalog: SqliteCatalog, damage: Damage) -> tuple[str, bool, str]:
    """What is told of the database: its state, whether callers are sent here, and why."""
    monitor = HealthMonitor("indexer", ServingStates(("indexer",)), required={"database"})
    monitor.add_check("database", lambda: check_database(catalog, damage, Followers()))
    await monitor.start()
    monitor.set_ready(True)
    report = monitor.reports()["database"]
    await monitor.stop()
    assert report.details.get("damaged_documents", 0) == damage.count
    assert report.details.get("unreadable", 0) == damage.unreadable
    return report.status.value, monitor.ready, report.message


def spoil(path: Path, inside: bytes, at: int, value: bytes) -> None:
    """Writes over the page of the file in which something is."""
    data = bytearray(path.read_bytes())
    begin = data.index(inside) // 4096 * 4096 + at
    data[begin : begin + len(value)] = value
    path.write_bytes(data)


async def test_documents_that_cannot_be_read_are_told_and_passed_over(tmp_path: Path) -> None:
    """The chains of the pages of their texts are broken; the one behind them, that is not what was written, is found all the same."""
    catalog = SqliteCatalog.open(tmp_path)
    key = await create(catalog)
    words = ("unmistakable", "irreplaceable")
    long = [document(f"d{number}", "x" * 50_000 + f" {word} " + "x" * 50_000) for number, word in enumerate(words)]
    await write(catalog, key, *long, document("d2", "two"))
    await catalog.close()
    catalog = SqliteCatalog.open(tmp_path)
    await change(tmp_path, "UPDATE document SET text = 'something else' WHERE id = 'd2'")
    for word in words:
        spoil(tmp_path / "catalog.db", f" {word} ".encode(), 0, b"\x00\xff\xff\xff")
    found = await scrub(catalog)
    assert found == Damage(1, ("docs/d2",), unreadable=2)
    status, ready, message = await health(catalog, found)
    assert (status, ready) == ("degraded", True)
    assert "docs/d2" in message
    assert "cannot be read" in message
    await catalog.close()


async def test_a_place_where_no_document_can_be_read_is_told_and_passed_over(tmp_path: Path) -> None:
    """A page of the table is broken, so nobody knows which documents there were: those before and behind it are looked at."""
    catalog = SqliteCatalog.open(tmp_path)
    key = await create(catalog)
    await write(catalog, key, *(document(f"d{number}", f"sentence {number:03} " * 8) for number in range(600)))
    await catalog.close()
    catalog = SqliteCatalog.open(tmp_path)
    await change(tmp_path, "UPDATE document SET title = 'B title' WHERE id IN ('d250', 'd350', 'd599')")
    spoil(tmp_path / "catalog.db", b"sentence 300 ", 0, b"\xff")
    assert await scrub(catalog) == Damage(3, ("docs/d250", "docs/d350", "docs/d599"), unreadable=1)
    assert (await health(catalog, Damage(unreadable=1)))[:2] == ("degraded", True)
    await catalog.close()

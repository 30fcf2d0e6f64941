"""What the disk has changed in the catalog is found, told, and can be mended by writing it again."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import apsw
import pytest

from services.indexer.application.ingest import content_hash
from services.indexer.application.scrubber import Damage, Scrubber
from services.indexer.catalog.sqlite import SqliteCatalog
from services.indexer.records import PreparedDocument
from shared.domain import DocumentId, DocumentInput, TraceContext
from shared.errors import CorruptionError
from shared.observability.metrics import REGISTRY
from shared.resilience.pace import Pace
from tests.integration.test_catalog import PROJECT, create, write

RATE = 1e6


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
    assert REGISTRY.get_sample_value("kb_catalog_damaged_documents") == scrubber.damage.count
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

"""A document that the disk has changed, and all the others behind it."""

from __future__ import annotations

from pathlib import Path

import apsw
import pytest

from services.indexer.catalog.sqlite import SqliteCatalog
from shared.domain import DocumentBatch, DocumentId, SequenceNumber
from tests.integration.test_catalog import create, embed_everything, prepared, write

NO_TEXT = "CAST(x'ff80' AS TEXT)"
BEGIN = SequenceNumber(0)


def change(folder: Path, sql: str) -> None:
    """Changes a row behind the service's back, as a disk would."""
    connection = apsw.Connection(str(folder / "catalog.db"))
    connection.execute(sql)
    connection.close()


@pytest.mark.parametrize(
    "damage", [f"text = {NO_TEXT}", f"title = {NO_TEXT}", f"tracestate = {NO_TEXT}", "metadata = x'7b22'", "metadata = CAST('7' AS BLOB)"]
)
async def test_a_damaged_document_holds_up_no_other(tmp_path: Path, damage: str) -> None:
    """What comes behind it is embedded and sent to the replicas, with what can be read of it."""
    catalog = SqliteCatalog.open(tmp_path)
    key = await create(catalog)
    await write(catalog, key, prepared("a", "alpha"), prepared("b", "bravo", "black", year=7), prepared("c", "charlie"))
    change(tmp_path, f"UPDATE document SET {damage} WHERE id = 'b'")  # noqa: S608 - the test's own SQL

    await embed_everything(catalog)
    batch = await catalog.document_batch(key, BEGIN, 100, BEGIN)

    assert isinstance(batch, DocumentBatch)
    assert ((await catalog.position(key)).embedded_sequence, batch.range.end) == (3, 3)
    sent = {change.document_id: change.document for change in batch.changes if change.document}
    assert [chunk.text for document in (sent[DocumentId("a")], sent[DocumentId("c")]) for chunk in document.chunks] == ["alpha", "charlie"]
    assert len(sent[DocumentId("b")].chunks) == sent[DocumentId("b")].chunk_count == 2
    await catalog.close()


async def test_a_damaged_text_is_sent_with_marks_where_it_cannot_be_read(tmp_path: Path) -> None:
    """It has another length than it was cut for: what is left of its chunks is sent, and those behind its end are empty."""
    catalog = SqliteCatalog.open(tmp_path)
    key = await create(catalog)
    await write(catalog, key, prepared("b", "bravo", "black"))
    change(tmp_path, "UPDATE document SET text = CAST(x'6272e1766f' AS TEXT) WHERE id = 'b'")  # `br`, no UTF-8, `vo`

    batch = await catalog.document_batch(key, BEGIN, 100, BEGIN)
    (project,) = await catalog.projects_to_embed()

    assert batch is not None
    assert [chunk.text for one in batch.changes if one.document for chunk in one.document.chunks] == ["br\ufffdvo", ""]
    assert [chunk.text for chunk in await catalog.unembedded(project, 10)] == ["br\ufffdvo", ""]
    await catalog.close()

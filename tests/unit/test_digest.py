"""What both sides of a comparison compute."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared import digest
from shared.digest import Digest, SequenceRange, document_digest, documents_of, walk
from shared.domain import DocumentId, SequenceNumber


def covering(start: int, end: int) -> SequenceRange:
    """`(start, end]`."""
    return SequenceRange(SequenceNumber(start), SequenceNumber(end))


def test_a_checksum_is_what_the_proto_says() -> None:
    """The first 8 bytes of BLAKE2b over id, sequence and chunk ids, separated by NULs, as a big-endian number; summed up modulo 2^64."""
    one = document_digest(DocumentId("a"), 7, ["a#1", "a#2"])
    assert one.checksum == int(hashlib.blake2b(b"a\x007\x00a#1\x00a#2").hexdigest()[:16], 16)
    two = document_digest(DocumentId("ä"), 8, [])
    total = digest.digest(covering(0, 8), [one, two])
    assert total == Digest(covering(0, 8), 2, 2, (one.checksum + two.checksum) % 2**64)


def test_the_order_of_documents_does_not_matter_and_that_of_chunks_does() -> None:
    """Documents are summed up; the chunks of a document are a text."""
    one, two = document_digest(DocumentId("a"), 1, ["x", "y"]), document_digest(DocumentId("b"), 2, ["z"])
    assert digest.digest(covering(0, 2), [one, two]) == digest.digest(covering(0, 2), [two, one])
    assert one.checksum != document_digest(DocumentId("a"), 1, ["y", "x"]).checksum


@given(start=st.integers(0, 10_000), width=st.integers(0, 10_000), parts=st.integers(1, 1_000))
def test_parts_join_and_are_the_range(start: int, width: int, parts: int) -> None:
    """No more than asked for, none empty, each beginning where the one before ends."""
    cut = covering(start, start + width).split(parts)
    assert len(cut) <= parts
    assert all(part.width > 0 for part in cut)
    assert [part.start for part in cut] == [start, *(part.end for part in cut)][: len(cut)]
    assert (not cut and not width) or cut[-1].end == start + width


def test_rows_become_documents() -> None:
    """Rows of the same document follow each other; one without chunks is a row without a chunk."""
    rows: list[tuple[str, int, str | None]] = [("a", 1, "a#1"), ("a", 1, "a#2"), ("b", 2, None)]
    assert [(each.id, each.sequence, each.chunk_count) for each in documents_of(rows)] == [("a", 1, 2), ("b", 2, 0)]


def test_a_walk_ends_with_the_part_that_makes_it_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that one call is bounded whatever a project has; what was walked is whole."""
    monkeypatch.setattr(digest, "MAX_CHUNKS", 4)
    parts, documents = walk(covering(0, 10).split(5), lambda part: [document_digest(DocumentId(f"d{part.end}"), part.end, ["x", "y"])], named=True)
    assert [(part.range.start, part.range.end) for part in parts] == [(0, 2), (2, 4)]
    assert [document.id for document in documents] == ["d2", "d4"]

"""Bytes to text, titles, excerpts."""

import codecs

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.cli.excerpt import excerpt
from services.cli.ingest.text import decode, heading, is_binary


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ("grün".encode(), ("grün", None)),
        (codecs.BOM_UTF8 + "grün".encode(), ("grün", None)),
        ("grün".encode("utf-16"), ("grün", None)),
        ("grün".encode("utf-32"), ("grün", None)),
        ("grün".encode("latin-1"), ("grün", "latin-1")),
        (b"", ("", None)),
    ],
)
def test_text_is_decoded_by_its_mark_or_as_utf8_or_as_latin_1(data: bytes, expected: tuple[str, str | None]) -> None:
    """A byte order mark decides, else UTF-8, else Latin-1, which is said."""
    assert expected == decode(data)


def test_control_characters_make_a_file_binary_unless_it_has_a_mark() -> None:
    """NUL is binary in plain bytes and part of every letter in UTF-16."""
    assert is_binary(b"\x7fELF\x00\x01")
    assert not is_binary(b"plain\ttext\r\n\x1b[1mbold")
    assert not is_binary("text".encode("utf-16"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("intro\n\n## Second level ##\n# First", "Second level"),
        ("```\n# a comment\n```\n# Title", "Title"),
        ("~~~\n```\n# no\n~~~\n# Yes", "Yes"),
        ("#hashtag\n#\n", ""),
        ("# " + "x" * 2000, "x" * 1000),
    ],
)
def test_the_first_heading_outside_code_is_the_title(text: str, expected: str) -> None:
    """Fenced code, hashtags and empty headings are passed over; a long title is cut."""
    assert expected == heading(text)


def _matched(text: str, query: str, width: int = 240) -> list[str]:
    part = excerpt(text, query, width)
    return [part.text[start:end] for start, end in part.matches]


def test_an_excerpt_marks_the_words_of_the_query_in_their_other_forms() -> None:
    """Case and the commonest endings do not hide a word."""
    assert _matched("Files need opening first.", "open file") == ["Files", "opening"]


def test_an_excerpt_is_taken_where_most_different_words_are() -> None:
    """One word that stands often weighs less than two different ones."""
    text = "gzip " * 50 + "and then " * 50 + "gzip with a compression level" + " end" * 100

    part = excerpt(text, "gzip compression", width=80)

    assert "compression" in part.text
    assert part.text.startswith("…")
    assert part.text.endswith("…")
    assert len(part.text) <= 82


def test_an_excerpt_without_a_match_is_the_beginning() -> None:
    """A hit found by meaning shares no word with the query."""
    part = excerpt("Begin here. " + "more " * 100, "unrelated", width=20)

    assert part.text == "Begin here. more…"
    assert part.matches == ()


@given(st.text(max_size=300), st.text(max_size=30), st.integers(min_value=1, max_value=100))
def test_matches_always_lie_within_the_excerpt_and_are_words(text: str, query: str, width: int) -> None:
    """Offsets fit any text, query and width."""
    part = excerpt(text, query, width)

    for start, end in part.matches:
        assert 0 <= start < end <= len(part.text)
        assert "…" not in part.text[start:end]

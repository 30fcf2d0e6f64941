"""Bytes to text, titles, and parts of texts on one line."""

import codecs

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.cli.highlight import beginning, highlighted
from services.cli.ingest.text import decode, heading, is_binary
from shared.search import Snippet, TextRange


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


def _snippet(text: str, *words: str) -> Snippet:
    """A snippet that is a text's own, with the first place of each word as a match."""
    matches = tuple(TextRange(text.index(word), text.index(word) + len(word)) for word in words)
    return Snippet(text, 0, len(text), matches)


def test_a_snippet_is_shown_on_one_line_with_its_matches_highlighted() -> None:
    """Line breaks and indentation become single spaces, and the matches stay on their words."""
    shown = highlighted(_snippet("open  the\n\n    file\tnow", "open", "file", "now"), more_before=True, more_after=True)

    assert shown.plain == "…open the file now…"
    assert [shown.plain[span.start : span.end] for span in shown.spans] == ["open", "file", "now"]


def test_a_snippet_at_an_end_of_the_text_has_no_ellipsis_there() -> None:
    """An ellipsis says that the text goes on, and only that."""
    assert highlighted(_snippet("all of it"), more_before=False, more_after=False).plain == "all of it"
    assert highlighted(_snippet("the end"), more_before=True, more_after=False).plain == "…the end"


@given(st.lists(st.tuples(st.text("ab", min_size=1, max_size=4), st.text(" \n\t", min_size=1, max_size=4)), max_size=8), st.booleans())
def test_matches_stay_on_their_words_whatever_white_space_is_between(parts: list[tuple[str, str]], more: bool) -> None:
    """Every word is a match, and every highlighted part is that word."""
    text, matches = "", []
    for word, space in parts:
        matches.append(TextRange(len(text), len(text) + len(word)))
        text += word + space

    shown = highlighted(Snippet(text, 0, len(text), tuple(matches)), more_before=more, more_after=more)

    assert [shown.plain[span.start : span.end] for span in shown.spans] == [word for word, _ in parts]


@given(st.text(max_size=80), st.integers(min_value=1, max_value=60))
def test_the_beginning_of_a_text_fits_its_width(text: str, width: int) -> None:
    """Cut between words where there are any, and marked if something is missing."""
    part = beginning(text, width)

    assert len(part) <= width
    assert "\n" not in part
    assert part == " ".join(text.split()) or part.endswith("…")


def test_the_beginning_of_a_text_is_cut_between_words() -> None:
    """A text that fits is whole."""
    assert beginning("Begin here, then more", 12) == "Begin here,…"
    assert beginning("  Begin\n here ", 12) == "Begin here"
    assert beginning("x" * 20, 5) == "xxxx…"

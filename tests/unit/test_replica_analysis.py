"""How text is cut into words."""

from __future__ import annotations

import unicodedata
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.query.replica.analysis import spans, words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The quick-brown fox.", "the quick brown fox"),
        ("snake_case", "snake_case snake case"),
        ("CamelCase", "camelcase camel case"),
        ("HTTPServer2", "httpserver2 http server 2"),
        ("os.path.join()", "os.path.join os path join"),
        ("__init__", "init"),
        ("pi = 3.14", "pi 3.14 3 14"),
        ("C++ and C#", "c++ c and c# c"),
        ("Brown's dogs'", "brown dogs"),
        ("don’t", "dont don t"),
        ("ＡＢＣ ﬁne Straße", "abc fine strasse"),
        ("résumé_final", "résumé_final résumé final"),
        ("東京タワー", "東 京 タ ワ ー 東京 京タ タワ ワー"),
        ("猫とcat", "猫 と 猫と cat"),
        ("한국어 검색", "한국어 검색"),
        ("नमस्ते दुनिया", "नमस्ते दुनिया"),
        ("I ❤️ 😀!", "i ❤ 😀"),
        ("👩‍🚀", "👩‍🚀 👩 🚀"),
        ("👍🏽", "👍🏽 👍 🏽"),
        ("... --- ___", ""),
        ("", ""),
    ],
)
def test_words_of_a_text(text: str, expected: str) -> None:
    """Words, identifiers with their parts, unspaced scripts and emoji come out as documented."""
    assert words(text) == expected


def test_a_query_of_an_unspaced_script_asks_for_pairs() -> None:
    """Two characters or more are sought as pairs, one alone as itself."""
    assert words("東京都", query=True) == "東京 京都"
    assert words("東", query=True) == "東"


def test_a_run_without_end_is_cut() -> None:
    """A million letters give terms of bounded length."""
    assert {len(word) for word in words("x" * 1_000_000).split()} == {100}
    assert max(len(word) for word in words("aB" * 500_000).split()) <= 100


@given(st.text(alphabet=st.characters(min_codepoint=32, max_codepoint=126)) | st.text())
def test_text_is_cut_the_same_beside_other_text(text: str) -> None:
    """The short ways for ASCII and for spaced scripts give what the general way gives, so an index and a query that went different ways meet."""
    assert f"{words(text)} 猫".strip() == words(f"{text} 猫")


@given(st.text(alphabet="aé_.'’ÄC+#1 猫東\u0301😀🚀\u200d"))
def test_places_are_where_the_words_are(text: str) -> None:
    """What stands at the places, in order, gives the words of the text; places do not overlap."""
    places = spans(text)
    assert all(end <= start for (_, end, _), (start, _, _) in pairwise(places))
    normal = unicodedata.normalize("NFKC", text)
    if normal == text:
        assert words(text) == " ".join(filter(None, (words(text[start:end]) for start, end, _ in places)))


@given(st.text())
def test_every_letter_and_digit_is_found_in_some_word(text: str) -> None:
    """Nothing that a person could look for is lost, and no word has white space in it or is empty."""
    found = words(text)
    assert all(found.split(" ")) or not found
    for word in words("".join(letter for letter in text if letter.isascii() and letter.isalnum())).split():
        assert word
    letters = {letter.lower() for letter in text if letter.isascii() and letter.isalnum()}
    assert letters <= set(found)

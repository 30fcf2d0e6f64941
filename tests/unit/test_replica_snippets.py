"""The parts of a text around the words that were looked for."""

from __future__ import annotations

from functools import partial
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.query.replica.languages import query_terms, stem_language, word_terms
from services.query.replica.snippets import snippets
from shared.domain import KeywordSettings
from shared.search import Snippet, Snippets

ENGLISH = KeywordSettings()


def find(text: str, query: str, wanted: Snippets | None = None, settings: KeywordSettings = ENGLISH) -> tuple[Snippet, ...]:
    """The snippets of one text."""
    terms_of_word = partial(word_terms, stem_language(settings))
    return snippets([text], frozenset(query_terms(settings, query)), terms_of_word, wanted or Snippets())[0]


def matched(text: str, query: str, settings: KeywordSettings = ENGLISH) -> list[str]:
    """The words that match, in a text that is one snippet."""
    [snippet] = find(text, query, Snippets(2_000), settings)
    assert snippet.text == text
    return [snippet.text[match.start : match.end] for match in snippet.matches]


@pytest.mark.parametrize(
    ("text", "query", "expected"),
    [
        ("He was running to the runs.", "run", ["running", "runs"]),
        ("A Café, two cafes", "CAFE", ["Café", "cafes"]),
        ("call snake_case_name() or Case", "case", ["snake_case_name", "Case"]),
        ("an HttpServer and os.path.join", "server path", ["HttpServer", "os.path.join"]),
        ("The brown's dogs", "brown", ["brown's"]),
        ("C++ and C", "c++", ["C++", "C"]),
        ("deploy 🚀 and 👩\u200d🚀!", "🚀", ["🚀", "👩\u200d🚀"]),
        ("the retry of the call", "the retry", ["retry"]),
        ("to be", "to be", ["to", "be"]),
        ("東京都に行く", "東京都", ["東京都"]),
        ("東京と京都", "京都", ["京都"]),
        ("黒い猫がいる猫", "猫", ["猫", "猫"]),
        ("a resume\u0301 here", "resume", ["resume\u0301"]),
        ("ＡＢＣ ﬁne ½ abc", "abc fine", ["ＡＢＣ", "ﬁne", "abc"]),
        ("nothing here", "else", []),
    ],
)
def test_whole_words_match_by_the_analysis_of_the_index(text: str, query: str, expected: list[str]) -> None:
    """Inflected, accented and compound words match as wholes, unspaced scripts by pairs; places are of the text as it is, not as it is normalised."""
    assert expected == matched(text, query)


def test_the_language_of_the_project_decides() -> None:
    """German words match by German stems."""
    assert matched("viele Häuser", "Haus", KeywordSettings(language="german")) == ["Häuser"]
    assert matched("viele Häuser", "Haus", KeywordSettings(language="none")) == []


FILLER = "lorem ipsum dolor sit amet " * 20


def test_the_part_with_the_most_distinct_words_comes_first() -> None:
    """Two different words beat three times the same; with equals the earlier part is chosen."""
    text = f"{FILLER}retry retry retry {FILLER}retry policy {FILLER}policy retry {FILLER}"
    [snippet] = find(text, "retry policy", Snippets(80))
    assert "retry policy" in snippet.text
    assert snippet.start < text.index("policy retry")


def test_several_parts_come_in_the_order_of_the_text() -> None:
    """The best is chosen first and stands where it stands."""
    text = f"{FILLER}retry {FILLER}retry policy {FILLER}retry retry {FILLER}"
    found = find(text, "retry policy", Snippets(60, 2))
    assert [len(snippet.matches) for snippet in found] == [2, 2]
    assert ["policy" in snippet.text for snippet in found] == [True, False]
    assert len(find(text, "retry policy", Snippets(60, 5))) == 3


def test_parts_are_cut_between_words() -> None:
    """With words on both sides of what was found, and no white space at the ends."""
    text = f"{FILLER}retry {FILLER}"
    [snippet] = find(text, "retry", Snippets(60))
    assert set(snippet.text.split()) <= {*FILLER.split(), "retry"}
    assert snippet.text == snippet.text.strip()
    assert snippet.text.split().index("retry") not in {0, len(snippet.text.split()) - 1}
    assert 50 < len(snippet.text) <= 60


def test_without_a_match_it_is_the_beginning() -> None:
    """Cut between words, or within one that is too long; of no text there is nothing."""
    assert find(FILLER, "retry", Snippets(20)) == (Snippet("lorem ipsum dolor", 0, 17, ()),)
    assert find("x" * 50, "retry", Snippets(20)) == (Snippet("x" * 20, 0, 20, ()),)
    assert find("", "retry") == ()


def test_unspaced_text_is_cut_between_characters() -> None:
    """Long runs without spaces do not push the part beyond its length."""
    text = "あ" * 100 + "東京" + "い" * 100
    [snippet] = find(text, "東京", Snippets(30))
    assert len(snippet.text) == 30
    assert [snippet.text[match.start : match.end] for match in snippet.matches] == ["東京"]


WORDS = st.sampled_from(["retry", "Retries", "policy", "call", "x", "snake_case", "東京都", "猫", "cafe\u0301", "🚀", "", "y" * 30, ".", "\n"])
TEXTS = st.lists(st.tuples(WORDS, st.sampled_from([" ", "", "  ", ", "]))).map(lambda parts: "".join(word + gap for word, gap in parts)) | st.text()


@given(TEXTS, st.lists(WORDS, min_size=1, max_size=4).map(" ".join), st.integers(20, 80), st.integers(1, 5))
def test_every_part_is_of_the_text_and_within_its_bounds(text: str, query: str, length: int, count: int) -> None:
    """Whatever the text: places fit, parts are no longer than asked for and do not overlap, matches stand in them in order."""
    found = find(text, query, Snippets(length, count))
    assert len(found) <= count
    assert bool(found) == bool(text)
    for before, after in pairwise(found):
        assert before.end <= after.start
    for snippet in found:
        assert text[snippet.start : snippet.end] == snippet.text
        assert 0 < len(snippet.text) <= length
        assert snippet.matches or len(found) == 1
        assert all(0 <= match.start < match.end <= len(snippet.text) for match in snippet.matches)
        assert all(before.end <= after.start for before, after in pairwise(snippet.matches))

"""What a project's language makes of its words."""

from __future__ import annotations

import pytest

from services.query.replica.languages import query_terms, stem_language, text_terms, word_terms
from shared.domain import LANGUAGES, KeywordSettings


def of(language: str) -> KeywordSettings:
    """The settings of a language."""
    return KeywordSettings(language=language)


def terms(settings: KeywordSettings, text: str) -> set[str]:
    """What a text is indexed by."""
    return {token.text for token in text_terms(settings, text).tokens}


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_language_reads_texts_and_queries_alike(language: str) -> None:
    """A word is looked for by the terms that it is indexed by, in any language that a project may be set to."""
    for word in ("running", "häuser", "книги", "répétées", "καφές", "كتاب", "東京", "snake_case"):
        assert set(query_terms(of(language), word)) <= terms(of(language), word)
        assert query_terms(of(language), word)


@pytest.mark.parametrize(
    ("language", "text", "query"),
    [
        ("german", "Häuser", "Haus"),
        ("german", "die Übungen", "Übung"),
        ("german", "große Straßen", "Strasse"),
        ("french", "répétées", "répéter"),
        ("french", "des chevaux mangés", "cheval mange"),
        ("portuguese", "as informações", "informação"),
        ("russian", "о книгах", "книга"),
        ("russian", "ёлка", "елки"),
        ("spanish", "las acciones", "acción"),
        ("turkish", "öğrenciler", "öğrenci"),
        ("none", "Café", "CAFE"),
    ],
)
def test_inflected_and_accented_words_meet(language: str, text: str, query: str) -> None:
    """Stemmers see the accents that they need; folding comes after them."""
    assert set(query_terms(of(language), query)) <= terms(of(language), text)


def test_folding_before_stemming_would_part_words() -> None:
    """The order matters: without its accents the French stemmer takes these for different words."""
    assert query_terms(of("french"), "répétées") == query_terms(of("french"), "répéter")
    assert query_terms(of("french"), "repetees") != query_terms(of("french"), "repeter")


@pytest.mark.parametrize(
    ("language", "query", "expected"),
    [
        ("english", "the retry of a call", ["retri", "call"]),
        ("german", "die Wiederholung für das Haus", ["wiederhol", "haus"]),
        ("french", "le cheval et la maison", ["cheval", "maison"]),
        ("russian", "что такое книга и как", ["так", "книг"]),
        ("greek", "το σπίτι", ["το", "σπιτ"]),
        ("none", "the retries of", ["the", "retries", "of"]),
    ],
)
def test_stop_words_of_the_language_are_left_out(language: str, query: str, expected: list[str]) -> None:
    """Those of the project's own language alone; `none`, and a language without a list, have none."""
    assert expected == query_terms(of(language), query)


def test_a_query_of_stop_words_alone_is_looked_for() -> None:
    """Rather than nothing, it is everything that was typed."""
    assert query_terms(of("english"), "to be or not to be") == ["to", "be", "or", "not"]
    assert query_terms(KeywordSettings(more_stop_words=("quokka",)), "quokka") == ["quokka"]


def test_settings_switch_stemming_and_stop_words_off() -> None:
    """Each by itself."""
    assert query_terms(KeywordSettings(stemming=False), "the retries") == ["retries"]
    assert query_terms(KeywordSettings(stop_words=False), "the retries") == ["the", "retri"]
    assert stem_language(KeywordSettings(stemming=False)) == stem_language(of("none"))


def test_more_stop_words_are_read_as_texts_are() -> None:
    """Upper case and width do not matter, and of a word with parts the whole is left out; they work without a language, too."""
    settings = KeywordSettings(language="none", more_stop_words=("Foo", "ＢＡＲ", "snake_case", "東京"))
    assert query_terms(settings, "foo bar baz snake_case 東京都") == ["baz", "snake", "case", "京都"]


def test_a_word_gives_the_terms_that_it_is_found_by() -> None:
    """With the parts of compounds; of two characters of an unspaced script their pair."""
    assert word_terms("english", "HTTPServers") == {"httpserver", "http", "server"}
    assert word_terms("none", "東京") == {"東京"}
    assert word_terms("english", "x" * 101) == {"x" * 100, "x"}

"""From words to the terms of the keyword index, as a project's settings say: stop words, stemming, accent folding.

English is folded to ASCII before it is stemmed, so that an accent makes no difference (`résumés` = `resumes`). Other languages are stemmed first,
because their stemmers need the accents (French `répétées` = `répéter`), and folded then: their words are best looked for with their accents.
"""

from __future__ import annotations

from functools import lru_cache

from tantivy import Filter, PreTokenizedString, TextAnalyzer, TextAnalyzerBuilder, Tokenizer

from services.query.replica.analysis import words
from shared.domain import LANGUAGES, KeywordSettings

# The languages for which tantivy has a list of stop words.
_WITH_STOP_WORDS = frozenset(
    {
        *("danish", "dutch", "english", "finnish", "french", "german", "hungarian", "italian"),
        *("norwegian", "portuguese", "russian", "spanish", "swedish"),
    }
)
_UNSTEMMED = "none"
# Words whose terms are remembered (half a kilobyte each), and the length up to which a word is worth it.
_REMEMBERED_WORDS = 32_768
_LONGEST_REMEMBERED = 40
# Settings of projects whose query analysis is remembered: with 1,000 stop words of their own, 0.1 MB each.
_REMEMBERED_SETTINGS = 128


def stem_language(settings: KeywordSettings) -> str:
    """The language that words are stemmed in, or `none`: all that the terms in the index depend on."""
    return settings.language if settings.stemming else _UNSTEMMED


def text_terms(settings: KeywordSettings, text: str) -> PreTokenizedString:
    """The terms of a text, as the index takes them."""
    return _text_analyzer(stem_language(settings)).pre_tokenize(words(text))


def query_terms(settings: KeywordSettings, text: str) -> list[str]:
    """The distinct terms of a query, in order. Stop words are left out, unless there is nothing else."""
    found = words(text, query=True)
    return list(dict.fromkeys(_query_analyzer(settings).analyze(found) or _text_analyzer(stem_language(settings)).analyze(found)))


def word_terms(language: str, word: str) -> frozenset[str]:
    """The terms that a word is found by; for two or more characters of an unspaced script, their pairs.

    Args:
        language: what `stem_language` gives.
        word: one word of a text.
    """
    return _word_terms_remembered(language, word) if len(word) <= _LONGEST_REMEMBERED else _word_terms(language, word)


def _word_terms(language: str, word: str) -> frozenset[str]:
    return frozenset(_text_analyzer(language).analyze(words(word, query=True)))


_word_terms_remembered = lru_cache(_REMEMBERED_WORDS)(_word_terms)


@lru_cache(len(LANGUAGES))
def _text_analyzer(language: str) -> TextAnalyzer:
    return _finish(TextAnalyzerBuilder(Tokenizer.whitespace()), language)


@lru_cache(_REMEMBERED_SETTINGS)
def _query_analyzer(settings: KeywordSettings) -> TextAnalyzer:
    builder = TextAnalyzerBuilder(Tokenizer.whitespace())
    if settings.stop_words and settings.language in _WITH_STOP_WORDS:
        builder = builder.filter(Filter.stopword(settings.language))
    if settings.more_stop_words:
        # Of a word with parts, the whole: leaving out `snake_case` leaves `case` in.
        own = [whole for word in settings.more_stop_words for whole in words(word, query=True).split()[:1]]
        builder = builder.filter(Filter.custom_stopword(own))
    return _finish(builder, stem_language(settings))


def _finish(builder: TextAnalyzerBuilder, language: str) -> TextAnalyzer:
    if language == _UNSTEMMED:
        return builder.filter(Filter.ascii_fold()).build()
    if language == "english":
        return builder.filter(Filter.ascii_fold()).filter(Filter.stemmer(language)).build()
    return builder.filter(Filter.stemmer(language)).filter(Filter.ascii_fold()).build()

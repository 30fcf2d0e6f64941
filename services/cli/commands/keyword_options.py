"""Options of how keyword search reads the texts of a project that is created."""

from __future__ import annotations

from typing import Annotated

import typer

from shared.domain import LANGUAGES, KeywordSettings

DEFAULT_LANGUAGE = KeywordSettings().language

Language = Annotated[
    str,
    typer.Option(
        "--language",
        metavar="LANGUAGE",
        help=f"Language of stemming and stop words: {', '.join(LANGUAGES[:-1])}, or `none` for texts of several languages.",
    ),
]
NoStemming = Annotated[bool, typer.Option("--no-stemming", help="Do not reduce words to their stems.")]
NoStopWords = Annotated[bool, typer.Option("--no-stop-words", help="Look for the language's stop words, too.")]
StopWords = Annotated[list[str] | None, typer.Option("--stop-word", metavar="WORD", help="A word to leave out of queries. Repeatable.")]


def settings(language: str, *, no_stemming: bool, no_stop_words: bool, stop_words: list[str] | None) -> KeywordSettings:
    """What the options say. Raises typer.BadParameter, which exits with 2, for a language that there is not."""
    if language not in LANGUAGES:
        raise typer.BadParameter(f"{language!r} is not one of {', '.join(LANGUAGES)}", param_hint="--language")
    return KeywordSettings(language, stemming=not no_stemming, stop_words=not no_stop_words, more_stop_words=tuple(stop_words or ()))

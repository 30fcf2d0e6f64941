"""The filters of `kb`: `year>=2020`, `lang in de,en`, `title~draft`, `author?`, `not draft=true`. Pure.

    filter      = "not" filter | membership | existence | comparison | containment
    membership  = field "in" value ("," value)*
    existence   = ["!"] field "?"               the document has the field; with "!" it has not
    comparison  = field operator value          operator: = != < <= > >=
    containment = field "~" text                the field, or an element of its list, contains the text

Values are read as `services.cli.values.parse_scalar` says; a comma within quotes does not separate. What a field contains is always text, also
without quotes. The first operator counts: `title=a~b` compares, `title~a=b` looks for a part.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from services.cli.values import parse_scalar
from shared.errors import InvalidArgumentError
from shared.filters import AllOf, Comparison, Containment, Existence, Filter, Membership, Negation, Operator

_NEGATION = re.compile(r"not\s+(?P<inner>.+)", re.IGNORECASE | re.DOTALL)
_MEMBERSHIP = re.compile(r"(?P<field>[^\s=!<>~]+)\s+in\s+(?P<values>.+)", re.IGNORECASE | re.DOTALL)
_EXISTENCE = re.compile(r"(?P<negated>!\s*)?(?P<field>[^=!<>~?\s][^=!<>~?]*)\?")
_CONDITION = re.compile(r"(?P<field>[^=!<>~]+?)\s*(?P<operator>!=|<=|>=|=|<|>|~)(?P<value>.*)", re.DOTALL)
_LIST_ITEM = re.compile(r"""\s*("[^"]*"|'[^']*'|[^,]*)\s*(?:,|$)""")
_QUOTES = "\"'"
_HELP = "write it like year>=2020, lang=en, status!=draft, `lang in de,en`, title~retry (contains), author? (has the field) or `not lang=en`"


def parse_filter(text: str) -> Filter:
    """One filter. Raises InvalidArgumentError that says how to write it."""
    text = text.strip()
    if match := _NEGATION.fullmatch(text):
        return Negation(parse_filter(match["inner"]))
    if match := _MEMBERSHIP.fullmatch(text):
        return Membership(match["field"], tuple(map(parse_scalar, _items(match["values"]))))
    if match := _EXISTENCE.fullmatch(text):
        existence = Existence(match["field"].strip())
        return Negation(existence) if match["negated"] else existence
    if match := _CONDITION.fullmatch(text):
        field, sign, value = match["field"].strip(), match["operator"], match["value"]
        if sign != "~":
            return Comparison(field, Operator(sign), parse_scalar(value))
        if part := _text(value):
            return Containment(field, part)
    raise InvalidArgumentError.of("filter", f"{text!r} is not a filter: {_HELP}")


def parse_filters(texts: Sequence[str]) -> Filter | None:
    """Several filters that must all match; None for none."""
    filters = tuple(map(parse_filter, texts))
    if len(filters) <= 1:
        return filters[0] if filters else None
    return AllOf(filters)


def _text(text: str) -> str:
    """Text, without the quotes around it."""
    text = text.strip()
    return text[1:-1] if len(text) >= 2 and text[0] == text[-1] and text[0] in _QUOTES else text


def _items(text: str) -> list[str]:
    items, position = [], 0
    while position < len(text):
        match = _LIST_ITEM.match(text, position)
        if match is None or not match[1].strip():
            raise InvalidArgumentError.of("filter", f"{text!r} is not a list of values: {_HELP}")
        items.append(match[1])
        position = match.end()
    return items

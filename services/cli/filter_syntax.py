r"""The filters of `kb`: `year>=2020`, `lang in de,en`, `not draft=true`. Pure.

    filter     = "not" filter | membership | comparison
    membership = field "in" value ("," value)*
    comparison = field operator value          operator: = != < <= > >=

Values are read as `services.cli.values.parse_scalar` says; a comma within quotes does not separate.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from services.cli.values import parse_scalar
from shared.errors import InvalidArgumentError
from shared.filters import AllOf, Comparison, Filter, Membership, Negation, Operator

_NEGATION = re.compile(r"not\s+(?P<inner>.+)", re.IGNORECASE | re.DOTALL)
_MEMBERSHIP = re.compile(r"(?P<field>[^\s=!<>]+)\s+in\s+(?P<values>.+)", re.IGNORECASE | re.DOTALL)
_COMPARISON = re.compile(r"(?P<field>[^=!<>]+?)\s*(?P<operator>!=|<=|>=|=|<|>)(?P<value>.*)", re.DOTALL)
_LIST_ITEM = re.compile(r"""\s*("[^"]*"|'[^']*'|[^,]*)\s*(?:,|$)""")
_HELP = "write it like year>=2020, lang=en, status!=draft, `lang in de,en` or `not lang=en`"


def parse_filter(text: str) -> Filter:
    """One filter. Raises InvalidArgumentError that says how to write it."""
    text = text.strip()
    if match := _NEGATION.fullmatch(text):
        return Negation(parse_filter(match["inner"]))
    if match := _MEMBERSHIP.fullmatch(text):
        return Membership(match["field"], tuple(map(parse_scalar, _items(match["values"]))))
    if match := _COMPARISON.fullmatch(text):
        return Comparison(match["field"].strip(), Operator(match["operator"]), parse_scalar(match["value"]))
    raise InvalidArgumentError.of("filter", f"{text!r} is not a filter: {_HELP}")


def parse_filters(texts: Sequence[str]) -> Filter | None:
    """Several filters that must all match; None for none."""
    filters = tuple(map(parse_filter, texts))
    if len(filters) <= 1:
        return filters[0] if filters else None
    return AllOf(filters)


def _items(text: str) -> list[str]:
    items, position = [], 0
    while position < len(text):
        match = _LIST_ITEM.match(text, position)
        if match is None or not match[1].strip():
            raise InvalidArgumentError.of("filter", f"{text!r} is not a list of values: {_HELP}")
        items.append(match[1])
        position = match.end()
    return items

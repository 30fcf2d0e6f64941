"""Filters on metadata: one definition of what matches, for searching, listing and deleting alike. Pure.

Text compares with text, numbers with numbers, booleans with booleans; values of different types are never equal and never ordered. A
field that a document lacks matches nothing but a negation. A field that holds a list matches when any of its elements does; it exists also when
it has none.
"""

from __future__ import annotations

import enum
import operator
from collections.abc import Callable
from dataclasses import dataclass

from shared.domain import Metadata, MetadataScalar


class Operator(enum.Enum):
    """How a field is compared with a value."""

    EQUAL = "="
    NOT_EQUAL = "!="
    LESS = "<"
    LESS_OR_EQUAL = "<="
    GREATER = ">"
    GREATER_OR_EQUAL = ">="


@dataclass(frozen=True, slots=True)
class Comparison:
    """`field operator value`."""

    field: str
    operator: Operator
    value: MetadataScalar


@dataclass(frozen=True, slots=True)
class Membership:
    """`field in values`."""

    field: str
    values: tuple[MetadataScalar, ...]


@dataclass(frozen=True, slots=True)
class Containment:
    """`field` is text, or a list with a text, that contains `text`; upper and lower case are different."""

    field: str
    text: str


@dataclass(frozen=True, slots=True)
class Existence:
    """There is a `field`, whatever its value."""

    field: str


@dataclass(frozen=True, slots=True)
class AllOf:
    """Every filter matches."""

    filters: tuple[Filter, ...]


@dataclass(frozen=True, slots=True)
class AnyOf:
    """At least one filter matches."""

    filters: tuple[Filter, ...]


@dataclass(frozen=True, slots=True)
class Negation:
    """The filter does not match."""

    filter: Filter


Condition = Comparison | Membership | Containment | Existence
Filter = Condition | AllOf | AnyOf | Negation
Predicate = Callable[[Metadata], bool]

_ORDER: dict[Operator, Callable[[MetadataScalar, MetadataScalar], bool]] = {
    Operator.LESS: operator.lt,
    Operator.LESS_OR_EQUAL: operator.le,
    Operator.GREATER: operator.gt,
    Operator.GREATER_OR_EQUAL: operator.ge,
}


def _kind(value: object) -> type:
    """The type that a value compares within: int and float are one, bool (a subclass of int in Python) is another."""
    if isinstance(value, bool):
        return bool
    return float if isinstance(value, int | float) else str


def _elements(metadata: Metadata, field: str) -> tuple[MetadataScalar, ...]:
    """The values of a field: none when it is absent, several when it holds a list."""
    value = metadata.get(field)
    if value is None:
        return ()
    return value if isinstance(value, tuple) else (value,)


def _comparison(condition: Comparison) -> Predicate:
    field, wanted, kind = condition.field, condition.value, _kind(condition.value)
    if condition.operator is Operator.EQUAL:
        return lambda metadata: any(_kind(value) is kind and value == wanted for value in _elements(metadata, field))
    if condition.operator is Operator.NOT_EQUAL:
        return lambda metadata: any(_kind(value) is not kind or value != wanted for value in _elements(metadata, field))
    holds = _ORDER[condition.operator]
    return lambda metadata: any(_kind(value) is kind and holds(value, wanted) for value in _elements(metadata, field))


def _condition(condition: Condition) -> Predicate:
    match condition:
        case Comparison():
            return _comparison(condition)
        case Membership(field, values):
            wanted = {(_kind(value), value) for value in values}
            return lambda metadata: any((_kind(value), value) in wanted for value in _elements(metadata, field))
        case Containment(field, text):
            return lambda metadata: any(isinstance(value, str) and text in value for value in _elements(metadata, field))
        case Existence(field):
            return lambda metadata: metadata.get(field) is not None


def compile_filter(condition: Filter) -> Predicate:
    """A function that tells whether a document's metadata matches."""
    match condition:
        case AllOf(filters):
            every = [compile_filter(part) for part in filters]
            return lambda metadata: all(predicate(metadata) for predicate in every)
        case AnyOf(filters):
            some = [compile_filter(part) for part in filters]
            return lambda metadata: any(predicate(metadata) for predicate in some)
        case Negation(inner):
            predicate = compile_filter(inner)
            return lambda metadata: not predicate(metadata)
        case _:
            return _condition(condition)

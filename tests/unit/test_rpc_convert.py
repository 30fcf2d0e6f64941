"""Conversions between messages and the domain: what passes, what is refused, and under which path."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, cast

import pytest
from google.protobuf import struct_pb2, timestamp_pb2
from hypothesis import given
from hypothesis import strategies as st

from shared.domain import Metadata
from shared.errors import FieldViolation, InvalidArgumentError
from shared.filters import AllOf, AnyOf, Comparison, Containment, Existence, Filter, Membership, Negation, Operator
from shared.gen.knowledgebeast.common.v1 import filter_pb2
from shared.rpc.convert import metadata_from_struct, struct_from_metadata, time_of, timestamp
from shared.rpc.convert_filter import filter_from_proto


def struct(values: Mapping[str, object]) -> struct_pb2.Struct:
    """A Struct of Python values."""
    message = struct_pb2.Struct()
    message.update(cast("Any", values))
    return message


names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=128).filter(lambda name: not name.startswith(("kb_", "chroma:")))
integers = st.integers(-(2**53), 2**53)
fractions = st.floats(allow_nan=False, allow_infinity=False).filter(lambda number: not number.is_integer())
texts = st.text(st.characters(codec="utf-8"), max_size=20)
scalars = st.one_of(texts, integers, fractions, st.booleans())
lists = st.one_of(*(st.lists(kind, min_size=1, max_size=5).map(tuple) for kind in (texts, integers, fractions, st.booleans())))


@given(st.dictionaries(names, st.one_of(scalars, lists), max_size=10))
def test_metadata_survives_the_way_there_and_back(metadata: Metadata) -> None:
    """Every allowed value keeps its value and its type."""
    result = metadata_from_struct(struct_from_metadata(metadata))
    assert result == metadata
    assert {name: repr(value) for name, value in result.items()} == {name: repr(value) for name, value in metadata.items()}


def test_a_list_of_whole_and_fractional_numbers_is_one_of_floats() -> None:
    """A list has one type."""
    assert repr(metadata_from_struct(struct({"n": [1, 2.5]}))["n"]) == "(1.0, 2.5)"


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("year", None, "null is not allowed"),
        ("year", {"nested": 1}, "a nested object is not allowed"),
        ("year", [], "an empty list is not allowed"),
        ("year", [1, "a"], "one type"),
        ("year", [True, 1], "one type"),
        ("year", [[1]], "a list is not allowed in a list"),
        ("year", [None], "null is not allowed in a list"),
        ("year", math.nan, "finite"),
        ("year", math.inf, "finite"),
        ("year", [1.5, -math.inf], "finite"),
        ("year", 2.0**53 + 2, "within ±2^53"),
        ("year", -1e300, "within ±2^53"),
        ("kb_year", 1, "must not begin"),
        ("chroma:document", 1, "must not begin"),
        ("", 1, "1 to 128 characters"),
        ("y" * 129, 1, "1 to 128 characters"),
    ],
)
def test_a_field_that_is_not_allowed_is_named_by_its_path(field: str, value: object, expected: str) -> None:
    """Each violation has the exact path and says what is wrong."""
    with pytest.raises(InvalidArgumentError) as raised:
        metadata_from_struct(struct({field: value}), "documents[3].metadata")
    (violation,) = raised.value.violations
    assert violation.field == f"documents[3].metadata.{field[:128]}"
    assert expected in violation.description


def test_violations_of_several_documents_are_collected() -> None:
    """Given a list, the conversion adds to it and raises nothing; the fields that are right come back."""
    found: list[FieldViolation] = []
    assert metadata_from_struct(struct({"a": None, "b": 1}), "documents[0].metadata", found) == {"b": 1}
    metadata_from_struct(struct({"c": []}), "documents[1].metadata", found)
    assert [violation.field for violation in found] == ["documents[0].metadata.a", "documents[1].metadata.c"]


@pytest.mark.parametrize(
    ("values", "allowed"),
    [
        ({f"f{n}": n for n in range(64)}, True),
        ({f"f{n}": n for n in range(65)}, False),
        ({"text": "x" * (32 * 1024 - len('{"text":""}'))}, True),
        ({"text": "x" * (32 * 1024 - len('{"text":""}') + 1)}, False),
    ],
)
def test_the_limits_of_metadata_are_exact(values: dict[str, object], allowed: bool) -> None:
    """64 fields and 32 KB pass, one more does not."""
    if allowed:
        assert metadata_from_struct(struct(values)) == values
    else:
        with pytest.raises(InvalidArgumentError, match="at most"):
            metadata_from_struct(struct(values))


def comparison(field: str = "year", operator: int = filter_pb2.Comparison.OPERATOR_EQUAL, value: object = 2020) -> filter_pb2.Filter:
    """A comparison of a field with a value."""
    message = filter_pb2.Comparison(field=field, value=struct({"v": value}).fields["v"])
    message.operator = operator  # type: ignore[assignment] # also numbers that are no operator
    return filter_pb2.Filter(comparison=message)


def nested(depth: int) -> filter_pb2.Filter:
    """A filter of this depth."""
    return comparison() if depth == 1 else filter_pb2.Filter(negation=nested(depth - 1))


def all_of(*parts: filter_pb2.Filter) -> filter_pb2.Filter:
    """A conjunction."""
    return filter_pb2.Filter(all_of=filter_pb2.FilterList(filters=parts))


def membership(*values: object) -> filter_pb2.Filter:
    """A membership in values."""
    return filter_pb2.Filter(membership=filter_pb2.Membership(field="lang", values=struct({"v": list(values)}).fields["v"].list_value.values))


def containment(text: str, field: str = "lang") -> filter_pb2.Filter:
    """A field that contains a text."""
    return filter_pb2.Filter(containment=filter_pb2.Containment(field=field, text=text))


def existence(field: str = "lang") -> filter_pb2.Filter:
    """A field that is there."""
    return filter_pb2.Filter(existence=filter_pb2.Existence(field=field))


def test_a_filter_is_converted_whole() -> None:
    """Every kind of condition arrives as its counterpart."""
    message = all_of(
        comparison("year", filter_pb2.Comparison.OPERATOR_GREATER_OR_EQUAL, 2020),
        filter_pb2.Filter(any_of=filter_pb2.FilterList(filters=[membership("de", "en"), comparison("ok", value=True)])),
        filter_pb2.Filter(negation=comparison("lang", filter_pb2.Comparison.OPERATOR_NOT_EQUAL, "fr")),
        containment("e", "title"),
        filter_pb2.Filter(negation=existence("draft")),
    )
    expected: Filter = AllOf(
        (
            Comparison("year", Operator.GREATER_OR_EQUAL, 2020),
            AnyOf((Membership("lang", ("de", "en")), Comparison("ok", Operator.EQUAL, True))),
            Negation(Comparison("lang", Operator.NOT_EQUAL, "fr")),
            Containment("title", "e"),
            Negation(Existence("draft")),
        )
    )
    assert filter_from_proto(message) == expected


def test_a_number_beyond_the_exact_integers_may_be_compared_with() -> None:
    """`year < 1e300` is a fair question, though no document may hold that number."""
    result = filter_from_proto(comparison("year", filter_pb2.Comparison.OPERATOR_LESS, 1e300))
    assert result == Comparison("year", Operator.LESS, 1e300)


@pytest.mark.parametrize(
    ("message", "path", "expected"),
    [
        (filter_pb2.Filter(), "filter", "set one of comparison, membership, all_of, any_of, negation, containment, existence"),
        (comparison(operator=0), "filter.comparison.operator", "is not set"),
        (comparison(operator=99), "filter.comparison.operator", "is not set"),
        (comparison(operator=filter_pb2.Comparison.OPERATOR_LESS, value=True), "filter.comparison.operator", "no order"),
        (comparison(value=math.nan), "filter.comparison.value", "finite"),
        (comparison(value=None), "filter.comparison.value", "null is not allowed"),
        (comparison(value=[1]), "filter.comparison.value", "a list is not allowed"),
        (comparison(field=""), "filter.comparison.field", "1 to 128 characters"),
        (
            filter_pb2.Filter(comparison=filter_pb2.Comparison(field="a", operator=filter_pb2.Comparison.OPERATOR_EQUAL)),
            "filter.comparison.value",
            "no type",
        ),
        (membership(), "filter.membership.values", "1 to 1,000"),
        (membership(*range(1001)), "filter.membership.values", "1 to 1,000"),
        (membership("a", math.inf), "filter.membership.values[1]", "finite"),
        (containment(""), "filter.containment.text", "1 to 1,000"),
        (containment("x" * 1001), "filter.containment.text", "1 to 1,000"),
        (containment("x", "kb_x"), "filter.containment.field", "must not begin"),
        (existence(""), "filter.existence.field", "1 to 128 characters"),
        (all_of(*[all_of(*[existence(), containment("x")] * 13)] * 3), "filter", "78 conditions; at most 64"),
        (all_of(), "filter.all_of.filters", "1 to 32"),
        (all_of(*[comparison()] * 33), "filter.all_of.filters", "1 to 32"),
        (all_of(comparison(), filter_pb2.Filter()), "filter.all_of.filters[1]", "has no condition"),
        (nested(9), "filter" + ".negation" * 8, "deeper than 8"),
        (all_of(*[all_of(*[comparison()] * 13)] * 5), "filter", "65 conditions; at most 64"),
    ],
)
def test_a_filter_that_is_not_allowed_is_refused_with_its_path(message: filter_pb2.Filter, path: str, expected: str) -> None:
    """Each promise of filter.proto is kept, and the violation says where it was broken."""
    with pytest.raises(InvalidArgumentError) as raised:
        filter_from_proto(message)
    assert raised.value.violations[0].field == path
    assert expected in raised.value.violations[0].description


@pytest.mark.parametrize(
    "message",
    [nested(8), all_of(*[all_of(*[comparison()] * 16)] * 4), membership(*range(1000)), all_of(*[comparison()] * 32), containment("é" * 1000)],
)
def test_a_filter_at_the_limits_passes(message: filter_pb2.Filter) -> None:
    """8 levels, 64 conditions, 1,000 values, 32 parts and 1,000 characters are allowed."""
    filter_from_proto(message)


@given(st.datetimes(min_value=datetime(1970, 1, 1), max_value=datetime(9999, 1, 1), timezones=st.just(UTC)))  # noqa: DTZ001 - hypothesis adds the zone
def test_times_survive_the_way_there_and_back(time: datetime) -> None:
    """A time keeps its microseconds."""
    assert time_of(timestamp(time)) == time


def test_times_are_utc() -> None:
    """A time of another zone is the same moment; one without a zone is refused."""
    local = datetime(2024, 1, 1, 12, tzinfo=timezone(timedelta(hours=2)))
    assert timestamp(local) == timestamp_pb2.Timestamp(seconds=int(local.timestamp()))
    assert time_of(timestamp(local)).utcoffset() == timedelta(0)
    with pytest.raises(ValueError, match="time zone"):
        timestamp(datetime(2024, 1, 1))  # noqa: DTZ001 - that it is refused is the point

"""What people type: values and filters."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.cli.filter_syntax import parse_filter, parse_filters
from services.cli.values import parse_scalar
from shared.domain import MetadataScalar
from shared.errors import InvalidArgumentError
from shared.filters import AllOf, Comparison, Containment, Existence, Filter, Membership, Negation, Operator


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2020", 2020),
        ("-3", -3),
        ("0.5", 0.5),
        ("1e3", 1000.0),
        ("true", True),
        ("False", False),
        ("word", "word"),
        ("'2020'", "2020"),
        ('"true"', "true"),
        ("9007199254740993", "9007199254740993"),
        ("1e999", "1e999"),
        ("nan", "nan"),
        ("inf", "inf"),
        ("1.2.3", "1.2.3"),
        ("", ""),
        ("'", "'"),
    ],
)
def test_values_have_the_type_that_they_look_like(text: str, expected: MetadataScalar) -> None:
    """Integers, numbers and booleans are read as such; quotes, and what could not be kept exactly, stay text."""
    value = parse_scalar(text)

    assert (expected, type(expected)) == (value, type(value))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("year>=2020", Comparison("year", Operator.GREATER_OR_EQUAL, 2020)),
        ("year <= 2020", Comparison("year", Operator.LESS_OR_EQUAL, 2020)),
        ("year>2020", Comparison("year", Operator.GREATER, 2020)),
        ("year<2020", Comparison("year", Operator.LESS, 2020)),
        ("lang=en", Comparison("lang", Operator.EQUAL, "en")),
        ("lang!=en", Comparison("lang", Operator.NOT_EQUAL, "en")),
        ("draft=true", Comparison("draft", Operator.EQUAL, True)),
        ("year='2020'", Comparison("year", Operator.EQUAL, "2020")),
        ("title=a=b", Comparison("title", Operator.EQUAL, "a=b")),
        ("title=war in peace", Comparison("title", Operator.EQUAL, "war in peace")),
        ("note=", Comparison("note", Operator.EQUAL, "")),
        ("lang in de,en", Membership("lang", ("de", "en"))),
        ('name in "a, b", c', Membership("name", ("a, b", "c"))),
        ("year IN 1, 2", Membership("year", (1, 2))),
        ("not lang in a,b", Negation(Membership("lang", ("a", "b")))),
        ("NOT not year=1", Negation(Negation(Comparison("year", Operator.EQUAL, 1)))),
        ("nothing=1", Comparison("nothing", Operator.EQUAL, 1)),
        ("title~retry", Containment("title", "retry")),
        ("title ~ 'a b '", Containment("title", "a b ")),
        ("year~3", Containment("year", "3")),
        ("title~a=b", Containment("title", "a=b")),
        ("title=a~b", Comparison("title", Operator.EQUAL, "a~b")),
        ("title=is it?", Comparison("title", Operator.EQUAL, "is it?")),
        ("not title~x", Negation(Containment("title", "x"))),
        ("author?", Existence("author")),
        ("!author?", Negation(Existence("author"))),
        ("not author ?", Negation(Existence("author"))),
    ],
)
def test_filters_are_read_as_they_are_written(text: str, expected: Filter) -> None:
    """Each form of the syntax gives the filter that it says."""
    assert expected == parse_filter(text)


@pytest.mark.parametrize("text", ["", "year", "=3", "lang in ", "lang in a,,b", "not", "not ", "year~", "year~''", "~3", "?", " ?", "!?", "!year"])
def test_what_is_no_filter_is_refused_with_the_way_to_write_one(text: str) -> None:
    """A filter that cannot be read raises an error with examples."""
    with pytest.raises(InvalidArgumentError, match="year>=2020"):
        parse_filter(text)


def test_several_filters_must_all_match() -> None:
    """No filter is None, one stands alone, several are joined."""
    one, two = Comparison("a", Operator.EQUAL, 1), Comparison("b", Operator.EQUAL, 2)

    assert parse_filters([]) is None
    assert one == parse_filters(["a=1"])
    assert AllOf((one, two)) == parse_filters(["a=1", "b=2"])


@given(st.text(max_size=60))
def test_any_text_is_either_a_filter_or_refused(text: str) -> None:
    """No text raises anything but InvalidArgumentError."""
    with suppress(InvalidArgumentError):
        parse_filter(text)

"""What a filter matches, by the rules that filter.proto states."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.domain import Metadata
from shared.filters import AllOf, AnyOf, Comparison, Containment, Existence, Filter, Membership, Negation, Operator, compile_filter

DOCUMENT: Metadata = {"year": 2020, "rating": 4.5, "lang": "en", "draft": False, "tags": ("red", "green"), "scores": (1, 5), "none": ()}


@pytest.mark.parametrize(
    ("condition", "matches"),
    [
        (Comparison("year", Operator.EQUAL, 2020), True),
        (Comparison("year", Operator.EQUAL, 2020.0), True),
        (Comparison("year", Operator.EQUAL, "2020"), False),
        (Comparison("year", Operator.NOT_EQUAL, 2019), True),
        (Comparison("year", Operator.LESS, 2021), True),
        (Comparison("year", Operator.LESS, 2020), False),
        (Comparison("year", Operator.LESS_OR_EQUAL, 2020), True),
        (Comparison("rating", Operator.GREATER, 4), True),
        (Comparison("rating", Operator.GREATER_OR_EQUAL, 4.6), False),
        (Comparison("lang", Operator.GREATER, "de"), True),
        (Comparison("lang", Operator.GREATER, 1), False),
        (Comparison("draft", Operator.EQUAL, False), True),
        (Comparison("draft", Operator.EQUAL, 0), False),
        (Comparison("missing", Operator.EQUAL, 1), False),
        (Comparison("missing", Operator.NOT_EQUAL, 1), False),
        (Negation(Comparison("missing", Operator.EQUAL, 1)), True),
        (Comparison("tags", Operator.EQUAL, "green"), True),
        (Comparison("tags", Operator.EQUAL, "blue"), False),
        (Comparison("scores", Operator.GREATER, 4), True),
        (Comparison("scores", Operator.GREATER, 5), False),
        (Membership("lang", ("de", "en")), True),
        (Membership("lang", ("de", "fr")), False),
        (Membership("year", ("2020", 2021)), False),
        (Membership("draft", (0,)), False),
        (Containment("lang", "e"), True),
        (Containment("lang", "en"), True),
        (Containment("lang", "E"), False),
        (Containment("tags", "ree"), True),
        (Containment("tags", "blue"), False),
        (Containment("tags", "dg"), False),
        (Containment("year", "20"), False),
        (Containment("draft", "a"), False),
        (Containment("missing", "a"), False),
        (Negation(Containment("missing", "a")), True),
        (Existence("lang"), True),
        (Existence("draft"), True),
        (Existence("tags"), True),
        (Existence("none"), True),
        (Existence("missing"), False),
        (Comparison("none", Operator.NOT_EQUAL, 1), False),
        (AllOf((Comparison("lang", Operator.EQUAL, "en"), Comparison("year", Operator.GREATER, 2010))), True),
        (AllOf((Comparison("lang", Operator.EQUAL, "en"), Comparison("year", Operator.GREATER, 2030))), False),
        (AnyOf((Comparison("lang", Operator.EQUAL, "de"), Comparison("year", Operator.GREATER, 2010))), True),
    ],
    ids=str,
)
def test_a_document_matches_or_not(condition: Filter, matches: bool) -> None:
    """Types compare with their own kind; lists match by any element; a missing field matches nothing but a negation."""
    assert compile_filter(condition)(DOCUMENT) is matches


VALUES = st.one_of(st.integers(-3, 3), st.sampled_from(["a", "b"]), st.booleans())
LEAVES: st.SearchStrategy[Filter] = st.one_of(
    st.builds(Comparison, st.sampled_from(["x", "y"]), st.sampled_from([Operator.EQUAL, Operator.NOT_EQUAL]), VALUES),
    st.builds(Membership, st.sampled_from(["x", "y"]), st.lists(VALUES, min_size=1, max_size=3).map(tuple)),
    st.builds(Containment, st.sampled_from(["x", "y"]), st.sampled_from(["a", "b"])),
    st.builds(Existence, st.sampled_from(["x", "y"])),
)
FILTERS = st.recursive(
    LEAVES, lambda inner: st.one_of(st.builds(Negation, inner), st.builds(AllOf, st.tuples(inner, inner)), st.builds(AnyOf, st.tuples(inner, inner)))
)
DOCUMENTS = st.dictionaries(st.sampled_from(["x", "y"]), VALUES)


@given(FILTERS, FILTERS, DOCUMENTS)
def test_composition_follows_logic(first: Filter, second: Filter, document: Metadata) -> None:
    """De Morgan's laws hold for any filters and any document."""
    one, two = compile_filter(first)(document), compile_filter(second)(document)
    assert compile_filter(AllOf((first, second)))(document) is (one and two)
    assert compile_filter(AnyOf((first, second)))(document) is (one or two)
    assert compile_filter(Negation(AllOf((first, second))))(document) is compile_filter(AnyOf((Negation(first), Negation(second))))(document)

"""The metadata index against the definition of what matches."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from services.query.replica.documents import Delta
from services.query.replica.metadata import MetadataIndex
from shared.domain import Metadata, MetadataScalar
from shared.filters import AllOf, AnyOf, Comparison, Containment, Existence, Filter, Membership, Negation, Operator, compile_filter

NAMES = st.sampled_from(["a", "b", "c"])
SCALARS: st.SearchStrategy[MetadataScalar] = st.one_of(
    st.sampled_from(["x", "y", "xy", "1", "", "é", "x\x00", "\x00", "\U0001f600", "\uffff", "a text of more than sixteen bytes"]),
    st.integers(0, 2),
    st.sampled_from([0.5, 1.0, 2.0**53, 1e300]),
    st.sampled_from([2**53 + 1, -(2**60)]),
    st.booleans(),
)
LISTS = st.one_of(
    st.lists(st.sampled_from(["x", "y", "xyz"]), max_size=2),
    st.lists(st.integers(0, 2), min_size=1, max_size=2),
    st.lists(st.booleans(), min_size=1, max_size=2),
).map(tuple)
METADATA: st.SearchStrategy[Metadata] = st.dictionaries(NAMES, st.one_of(SCALARS, LISTS), max_size=3)
LEAVES: st.SearchStrategy[Filter] = st.one_of(
    st.builds(Comparison, NAMES, st.sampled_from(Operator), SCALARS),
    st.builds(Membership, NAMES, st.lists(SCALARS, min_size=1, max_size=3).map(tuple)),
    st.builds(Containment, NAMES, st.sampled_from(["x", "y", "xy", "yz", "\x00", "é", "more"])),
    st.builds(Existence, NAMES),
)
FILTERS: st.SearchStrategy[Filter] = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.builds(AllOf, st.lists(inner, max_size=3).map(tuple)), st.builds(AnyOf, st.lists(inner, max_size=3).map(tuple)), st.builds(Negation, inner)
    ),
    max_leaves=6,
)


@settings(deadline=None, max_examples=200)
@given(st.lists(METADATA, max_size=8), st.lists(st.tuples(st.integers(0, 9), st.none() | METADATA), max_size=12), FILTERS)
def test_selects_exactly_what_the_filter_matches(first: list[Metadata], later: list[tuple[int, Metadata | None]], condition: Filter) -> None:
    """After any history of writes and removals the selection is the documents for which the compiled filter says yes."""
    documents = dict(enumerate(first, start=1))
    chunks = {key * 10 + place: key for key in documents for place in range(key % 3)}
    index = MetadataIndex(documents.items(), sorted(chunks.items()))
    next_key = 1_000
    for choice, metadata in later:
        key = sorted(documents)[choice % len(documents)] if documents and choice < 8 else None
        if key is None:
            if metadata is not None:
                next_key += 10
                documents[next_key] = metadata
                chunks |= {next_key: next_key, next_key + 1: next_key}
                index.apply(Delta(documents=[(next_key, metadata)], chunks=[(next_key, next_key), (next_key + 1, next_key)]))
        elif metadata is not None:
            documents[key] = metadata
            index.apply(Delta(documents=[(key, metadata)]))
        else:
            gone = [chunk for chunk, document in chunks.items() if document == key]
            del documents[key]
            for chunk in gone:
                del chunks[chunk]
            index.apply(Delta(removed_documents=[key], removed_chunks=gone))
    assert index.documents_of([*chunks, 10**9]) == chunks
    predicate = compile_filter(condition)
    assert [chunk for chunk, document in sorted(chunks.items()) if predicate(documents[document])] == index.select(condition).tolist()


def test_a_field_with_an_empty_list_exists() -> None:
    """It has no element that could match anything else."""
    index = MetadataIndex([(1, {"a": ()}), (2, {"b": 1})], [(1, 1), (2, 2)])
    assert index.select(Existence("a")).tolist() == [1]
    assert index.select(Negation(Existence("a"))).tolist() == [2]
    assert index.select(Comparison("a", Operator.NOT_EQUAL, 1)).tolist() == []


def test_holes_ask_for_a_new_index() -> None:
    """An index that was written over often enough says so."""
    index = MetadataIndex([(1, {"a": 0})], [(1, 1)])
    assert not index.worn
    for number in range(10_001):
        index.apply(Delta(documents=[(1, {"a": number})]))
    assert index.worn
    assert index.select(Comparison("a", Operator.EQUAL, 10_000)).tolist() == [1]

"""From the client's types to messages; `encode_search` has those of searching. Pure.

Only what a message cannot hold is refused here; the services check the rest, so that their rules stand in one place.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from google.protobuf import struct_pb2

from shared.domain import DocumentInput, Metadata, MetadataScalar, MetadataValue
from shared.errors import InvalidArgumentError
from shared.filters import AllOf, AnyOf, Comparison, Condition, Containment, Existence, Filter, Membership, Negation, Operator
from shared.gen.knowledgebeast.common.v1 import filter_pb2
from shared.gen.knowledgebeast.indexer.v1 import indexer_pb2

_OPERATORS = {
    Operator.EQUAL: filter_pb2.Comparison.OPERATOR_EQUAL,
    Operator.NOT_EQUAL: filter_pb2.Comparison.OPERATOR_NOT_EQUAL,
    Operator.LESS: filter_pb2.Comparison.OPERATOR_LESS,
    Operator.LESS_OR_EQUAL: filter_pb2.Comparison.OPERATOR_LESS_OR_EQUAL,
    Operator.GREATER: filter_pb2.Comparison.OPERATOR_GREATER,
    Operator.GREATER_OR_EQUAL: filter_pb2.Comparison.OPERATOR_GREATER_OR_EQUAL,
}


def _scalar(field: str, value: MetadataScalar) -> struct_pb2.Value:
    if isinstance(value, bool):  # before int, of which it is a subclass
        return struct_pb2.Value(bool_value=value)
    if isinstance(value, int | float):
        try:
            return struct_pb2.Value(number_value=value)
        except OverflowError as error:
            raise InvalidArgumentError.of(field, "numbers must fit a double") from error
    if isinstance(value, str):
        return struct_pb2.Value(string_value=value)
    raise InvalidArgumentError.of(field, "must be text, a number, a boolean, or a list of one of these")


def _value(field: str, value: MetadataValue) -> struct_pb2.Value:
    if isinstance(value, tuple):
        return struct_pb2.Value(list_value=struct_pb2.ListValue(values=[_scalar(field, element) for element in value]))
    return _scalar(field, value)


def struct(metadata: Metadata) -> struct_pb2.Struct:
    """Metadata as a message. Raises InvalidArgumentError for a value of another type than metadata has."""
    return struct_pb2.Struct(fields={name: _value(f"metadata.{name}", value) for name, value in metadata.items()})


def document(value: DocumentInput) -> indexer_pb2.DocumentInput:
    """A document as it is written. Raises InvalidArgumentError as `struct` does."""
    return indexer_pb2.DocumentInput(id=value.id, title=value.title, text=value.text, metadata=struct(value.metadata))


def documents(values: Iterable[DocumentInput]) -> Sequence[indexer_pb2.DocumentInput]:
    """Documents as they are written. Raises InvalidArgumentError as `struct` does."""
    return [document(value) for value in values]


def filter_message(condition: Filter | None) -> filter_pb2.Filter | None:
    """A filter as a message; None stays None, which a message's constructor takes for "not set"."""
    return None if condition is None else _filter(condition)


def _filter(condition: Filter) -> filter_pb2.Filter:
    match condition:
        case AllOf(filters):
            return filter_pb2.Filter(all_of=_filter_list(filters))
        case AnyOf(filters):
            return filter_pb2.Filter(any_of=_filter_list(filters))
        case Negation(inner):
            return filter_pb2.Filter(negation=_filter(inner))
        case _:
            return _condition(condition)


def _filter_list(filters: Iterable[Filter]) -> filter_pb2.FilterList:
    return filter_pb2.FilterList(filters=map(_filter, filters))


def _condition(condition: Condition) -> filter_pb2.Filter:
    match condition:
        case Comparison(field, operator, value):
            comparison = filter_pb2.Comparison(field=field, operator=_OPERATORS[operator], value=_scalar(field, value))
            return filter_pb2.Filter(comparison=comparison)
        case Membership(field, values):
            return filter_pb2.Filter(membership=filter_pb2.Membership(field=field, values=[_scalar(field, value) for value in values]))
        case Containment(field, text):
            return filter_pb2.Filter(containment=filter_pb2.Containment(field=field, text=text))
        case Existence(field):
            return filter_pb2.Filter(existence=filter_pb2.Existence(field=field))

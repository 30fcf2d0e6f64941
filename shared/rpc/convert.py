"""Pure conversions between messages and the domain that both services need: metadata, filters, times.

What a client sent is checked here, completely, so that nothing behind this file has to. Each check collects `FieldViolation`s with the exact
path of the field; the rules are those of the comments in `indexer.proto` and `filter.proto`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

import orjson
from google.protobuf import struct_pb2, timestamp_pb2

from shared.domain import Metadata, MetadataScalar, MetadataValue
from shared.errors import FieldViolation, InvalidArgumentError

MAX_METADATA_FIELDS: Final = 64
MAX_METADATA_BYTES: Final = 32 * 1024
MAX_NAME_CHARACTERS: Final = 128
RESERVED_PREFIXES: Final = ("kb_", "chroma:")
MAX_INTEGER: Final = 2**53  # beyond it, a float64 (what Struct carries) no longer has every integer

_ALLOWED: Final = "text, a finite number, a boolean, or a non-empty list of one of these"


def metadata_from_struct(struct: struct_pb2.Struct, path: str = "metadata", violations: list[FieldViolation] | None = None) -> Metadata:
    """The metadata of a Struct. Whole numbers become integers; a list that mixes whole numbers and fractions becomes one of floats.

    Args:
        struct: what was sent.
        path: path of the struct in the request, for the violations.
        violations: where to add what is wrong; the result then has the fields that are right. If None, what is wrong is raised.

    Raises:
        InvalidArgumentError: with every violation, when `violations` is None.
    """
    found: list[FieldViolation] = []
    metadata: dict[str, MetadataValue] = {}
    fields = struct.fields
    if len(fields) > MAX_METADATA_FIELDS:
        found.append(FieldViolation(path, f"has {len(fields)} fields; at most {MAX_METADATA_FIELDS} are allowed"))
    else:
        for name, value in sorted(fields.items()):  # names are unique, so values are never compared; a map has no order of its own
            problem = name_problem(name)
            if problem:
                found.append(FieldViolation(f"{path}.{name[:MAX_NAME_CHARACTERS]}", problem))
                continue
            try:
                metadata[name] = _value(value)
            except ValueError as error:
                found.append(FieldViolation(f"{path}.{name}", str(error)))
    if not found and metadata:
        size = len(orjson.dumps(metadata))
        if size > MAX_METADATA_BYTES:
            found.append(FieldViolation(path, f"has {size} bytes as JSON; at most {MAX_METADATA_BYTES} are allowed"))
    if found:
        if violations is None:
            raise InvalidArgumentError("; ".join(f"{each.field}: {each.description}" for each in found[:5]), tuple(found))
        violations.extend(found)
    return metadata


def name_problem(name: str) -> str:
    """What is wrong with the name of a metadata field; empty when it may be used."""
    if not 1 <= len(name) <= MAX_NAME_CHARACTERS:
        return f"a field name has 1 to {MAX_NAME_CHARACTERS} characters"
    if name.startswith(RESERVED_PREFIXES):
        return "a field name must not begin with `kb_` or `chroma:`"
    return ""


def scalar(value: struct_pb2.Value) -> MetadataScalar:
    """What a filter compares with: a text, number or boolean of a Value. A whole number is an integer while that is exact, else a float.

    Raises:
        ValueError: says what is allowed.
    """
    kind = value.WhichOneof("kind")
    if kind == "string_value":
        return value.string_value
    if kind == "number_value":
        number = value.number_value
        return number if math.isfinite(number) and abs(number) > MAX_INTEGER else _number(number)
    if kind == "bool_value":
        return value.bool_value
    raise ValueError(f"{_words(kind)} is not allowed here; allowed: text, a finite number or a boolean")


def struct_from_metadata(metadata: Metadata) -> struct_pb2.Struct:
    """The Struct of metadata: the inverse of `metadata_from_struct`."""
    struct = struct_pb2.Struct()
    fields = struct.fields
    for name, value in metadata.items():
        _fill(fields[name], value)
    return struct


def timestamp(time: datetime) -> timestamp_pb2.Timestamp:
    """The Timestamp of an aware datetime, exact to the microsecond.

    Raises:
        ValueError: when the datetime has no time zone.
    """
    if time.tzinfo is None:
        raise ValueError("a time without a time zone")
    message = timestamp_pb2.Timestamp()
    message.FromDatetime(time)
    return message


def time_of(message: timestamp_pb2.Timestamp) -> datetime:
    """The aware UTC datetime of a Timestamp, cut to microseconds."""
    return message.ToDatetime(tzinfo=UTC)


def _value(value: struct_pb2.Value) -> MetadataValue:
    kind = value.WhichOneof("kind")
    if kind == "string_value":
        return value.string_value
    if kind == "number_value":
        return _number(value.number_value)
    if kind == "bool_value":
        return value.bool_value
    if kind == "list_value":
        return _list(value.list_value.values)
    raise ValueError(f"{_words(kind)} is not allowed; allowed: {_ALLOWED}")


def _list(values: Sequence[struct_pb2.Value]) -> tuple[MetadataScalar, ...]:
    kinds = {value.WhichOneof("kind") for value in values}
    if len(kinds) != 1:
        raise ValueError("an empty list is not allowed" if not kinds else "a list must hold values of one type")
    kind = kinds.pop()
    if kind == "string_value":
        return tuple(value.string_value for value in values)
    if kind == "bool_value":
        return tuple(value.bool_value for value in values)
    if kind == "number_value":
        numbers = tuple(_number(value.number_value) for value in values)
        return numbers if all(isinstance(number, int) for number in numbers) else tuple(float(number) for number in numbers)
    raise ValueError(f"{_words(kind)} is not allowed in a list")


def _number(value: float) -> int | float:
    """A whole number is an integer: JSON, and so Struct, does not tell them apart."""
    if not math.isfinite(value):
        raise ValueError("a number must be finite")
    if not value.is_integer():
        return value
    if abs(value) > MAX_INTEGER:
        raise ValueError("a whole number must be within ±2^53")
    return int(value)


def _words(kind: str | None) -> str:
    return {"null_value": "null", "struct_value": "a nested object", "list_value": "a list", None: "a value of no type"}.get(kind, str(kind))


def _fill(target: struct_pb2.Value, value: MetadataValue) -> None:
    if isinstance(value, str):
        target.string_value = value
    elif isinstance(value, bool):
        target.bool_value = value
    elif isinstance(value, int | float):
        target.number_value = value
    else:
        # An empty list in a stored document would still have to come out as a list.
        target.list_value.SetInParent()
        for element in value:
            _fill(target.list_value.values.add(), element)

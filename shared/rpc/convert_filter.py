"""Pure conversion of filters, with every check that `filter.proto` promises."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from shared.errors import FieldViolation, InvalidArgumentError
from shared.filters import AllOf, AnyOf, Comparison, Containment, Existence, Filter, Membership, Negation, Operator
from shared.gen.knowledgebeast.common.v1 import filter_pb2
from shared.rpc.convert import name_problem, scalar

MAX_DEPTH: Final = 8
MAX_CONDITIONS: Final = 64
MAX_PARTS: Final = 32
MAX_VALUES: Final = 1000
MAX_TEXT: Final = 1000

_OPERATORS: Final[Mapping[int, Operator]] = {
    filter_pb2.Comparison.OPERATOR_EQUAL: Operator.EQUAL,
    filter_pb2.Comparison.OPERATOR_NOT_EQUAL: Operator.NOT_EQUAL,
    filter_pb2.Comparison.OPERATOR_LESS: Operator.LESS,
    filter_pb2.Comparison.OPERATOR_LESS_OR_EQUAL: Operator.LESS_OR_EQUAL,
    filter_pb2.Comparison.OPERATOR_GREATER: Operator.GREATER,
    filter_pb2.Comparison.OPERATOR_GREATER_OR_EQUAL: Operator.GREATER_OR_EQUAL,
}
_KINDS: Final = ", ".join(field.name for field in filter_pb2.Filter.DESCRIPTOR.oneofs_by_name["condition"].fields)
_COMPOSITES: Final = frozenset({"all_of", "any_of", "negation"})
_UNORDERED: Final = frozenset({Operator.EQUAL, Operator.NOT_EQUAL})


def filter_from_proto(message: filter_pb2.Filter, path: str = "filter") -> Filter:
    """The filter of a message. Depth counts nested filters, the outermost is 1; conditions are all but composites.

    Args:
        message: what was sent.
        path: path of the filter in the request, for the violations.

    Raises:
        InvalidArgumentError: with every violation.
    """
    reader = _Reader()
    result = reader.read(message, path, 1)
    if reader.conditions > MAX_CONDITIONS:
        reader.violations.insert(0, FieldViolation(path, f"has {reader.conditions} conditions; at most {MAX_CONDITIONS} are allowed"))
    if result is None or reader.violations:
        found = tuple(reader.violations)
        raise InvalidArgumentError("; ".join(f"{each.field}: {each.description}" for each in found[:5]), found)
    return result


class _Reader:
    """Walks one filter, counts its conditions and collects what is wrong; a part that is wrong becomes None."""

    def __init__(self) -> None:
        self.conditions = 0
        self.violations: list[FieldViolation] = []

    def read(self, message: filter_pb2.Filter, path: str, depth: int) -> Filter | None:
        kind = message.WhichOneof("condition")
        if depth > MAX_DEPTH:
            return self._wrong(path, f"is nested deeper than {MAX_DEPTH} levels")
        if kind is None:
            return self._wrong(path, f"has no condition; set one of {_KINDS}")
        path = f"{path}.{kind}"
        return self._composite(message, kind, path, depth) if kind in _COMPOSITES else self._condition(message, kind, path)

    def _condition(self, message: filter_pb2.Filter, kind: str, path: str) -> Filter | None:
        self.conditions += 1
        problem = name_problem(getattr(message, kind).field)
        if problem:
            self._wrong(f"{path}.field", problem)
        match kind:
            case "comparison":
                return self._comparison(message.comparison, path)
            case "membership":
                return self._membership(message.membership, path)
            case "containment":
                return self._containment(message.containment, path)
            case _:
                return Existence(message.existence.field)

    def _composite(self, message: filter_pb2.Filter, kind: str, path: str, depth: int) -> Filter | None:
        if kind == "negation":
            inner = self.read(message.negation, path, depth + 1)
            return Negation(inner) if inner is not None else None
        parts = self._parts(message.all_of if kind == "all_of" else message.any_of, path, depth)
        if parts is None:
            return None
        return AllOf(parts) if kind == "all_of" else AnyOf(parts)

    def _parts(self, message: filter_pb2.FilterList, path: str, depth: int) -> tuple[Filter, ...] | None:
        if not 1 <= len(message.filters) <= MAX_PARTS:
            self._wrong(f"{path}.filters", f"has {len(message.filters)} filters; 1 to {MAX_PARTS} are allowed")
            return None
        parts = [self.read(part, f"{path}.filters[{index}]", depth + 1) for index, part in enumerate(message.filters)]
        return tuple(part for part in parts if part is not None)

    def _comparison(self, message: filter_pb2.Comparison, path: str) -> Filter | None:
        operator = _OPERATORS.get(message.operator)
        if operator is None:
            self._wrong(f"{path}.operator", "is not set; say how to compare")
        try:
            value = scalar(message.value)
        except ValueError as error:
            return self._wrong(f"{path}.value", str(error))
        if operator is None:
            return None
        if isinstance(value, bool) and operator not in _UNORDERED:
            return self._wrong(f"{path}.operator", "booleans have no order; allowed: equal, not equal")
        return Comparison(message.field, operator, value)

    def _membership(self, message: filter_pb2.Membership, path: str) -> Filter | None:
        if not 1 <= len(message.values) <= MAX_VALUES:
            return self._wrong(f"{path}.values", f"has {len(message.values)} values; 1 to {MAX_VALUES:,} are allowed")
        values = []
        for index, value in enumerate(message.values):
            try:
                values.append(scalar(value))
            except ValueError as error:
                self._wrong(f"{path}.values[{index}]", str(error))
        return Membership(message.field, tuple(values))

    def _containment(self, message: filter_pb2.Containment, path: str) -> Filter | None:
        if not 1 <= len(message.text) <= MAX_TEXT:
            return self._wrong(f"{path}.text", f"has {len(message.text):,} characters; 1 to {MAX_TEXT:,} are allowed")
        return Containment(message.field, message.text)

    def _wrong(self, path: str, description: str) -> Filter | None:
        """Notes a violation; there is no filter then."""
        self.violations.append(FieldViolation(path, description))
        return None

"""One metadata field of many documents, by its values: which rows match a condition."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import numpy as np
from numpy.dtypes import StringDType
from numpy.typing import NDArray

from services.query.replica.growing import GrowingArray
from shared.domain import MetadataScalar, MetadataValue
from shared.filters import Comparison, Condition, Containment, Existence, Membership, Operator, compile_filter

_ORDER: Final[dict[Operator, Callable[[Any, Any], Any]]] = {
    Operator.LESS: operator.lt,
    Operator.LESS_OR_EQUAL: operator.le,
    Operator.GREATER: operator.gt,
    Operator.GREATER_OR_EQUAL: operator.ge,
}
# Up to here every integer is a double of its own.
_EXACT: Final = 2**53


class Column:
    """The rows that have a field. Each distinct value has a number; a list is an entry for each of its elements. Not safe for several threads.

    Args:
        name: of the field.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._values: list[MetadataScalar] = []
        self._numbers: dict[tuple[type, MetadataScalar], int] = {}
        # The values by what they are, with their numbers: as doubles, as text, and the rest (booleans, and integers that are no doubles).
        self._quantities, self._quantity_numbers = GrowingArray(np.float64), GrowingArray(np.int32)
        self._texts: GrowingArray[Any] = GrowingArray(StringDType())
        self._text_numbers = GrowingArray(np.int32)
        self._others: list[int] = []
        self._value_of_entry, self._row_of_entry = GrowingArray(np.int32), GrowingArray(np.int32)
        self._rows_of_nothing: list[int] = []

    def extend(self, entries: Iterable[tuple[int, MetadataValue]]) -> None:
        """Adds (row, value of the field). A row comes once."""
        values, rows = list[int](), list[int]()
        for row, value in entries:
            if isinstance(value, tuple):
                values += map(self._number, value)
                rows += [row] * len(value)
                if not value:
                    self._rows_of_nothing.append(row)
            else:
                values.append(self._number(value))
                rows.append(row)
        self._value_of_entry.extend(values)
        self._row_of_entry.extend(rows)

    def rows(self, condition: Condition, count: int) -> NDArray[np.bool_]:
        """Which of the first `count` rows match a condition on this field."""
        rows = np.zeros(count, dtype=np.bool_)
        if isinstance(condition, Existence):
            rows[self._rows_of_nothing] = True
        wanted = self._matching(condition)
        if wanted.size == 1:
            rows[self._row_of_entry.view[self._value_of_entry.view == wanted[0]]] = True
        elif wanted.size:
            matches = np.zeros(len(self._values), dtype=np.bool_)
            matches[wanted] = True
            rows[self._row_of_entry.view[matches[self._value_of_entry.view]]] = True
        return rows

    def _number(self, value: MetadataScalar) -> int:
        key = _key(value)
        number = self._numbers.get(key)
        if number is None:
            number = self._numbers[key] = len(self._values)
            self._values.append(value)
            if isinstance(value, str):
                self._texts.extend([value])
                self._text_numbers.extend([number])
            elif key[0] is float and abs(value) <= _EXACT:
                self._quantities.extend([value])
                self._quantity_numbers.extend([number])
            else:
                self._others.append(number)
        return number

    def _matching(self, condition: Condition) -> NDArray[np.int32]:
        """The numbers of the values that match: by table or array where there is a way, else each value is asked."""
        match condition:
            case Membership(_, values):
                return self._equal(values)
            case Containment(_, part) if "\x00" not in part:  # numpy takes it for nothing
                return self._text_numbers.view[np.strings.find(self._texts.view, part) >= 0]
            case Containment():
                return self._asked(condition, range(len(self._values)))
            case Comparison(_, sign, value):
                return self._compared(condition, sign, value)
            case Existence():
                return np.arange(len(self._values), dtype=np.int32)

    def _compared(self, condition: Comparison, sign: Operator, value: MetadataScalar) -> NDArray[np.int32]:
        if sign is Operator.EQUAL:
            return self._equal([value])
        if sign is Operator.NOT_EQUAL:
            return np.delete(np.arange(len(self._values), dtype=np.int32), self._equal([value]))
        if isinstance(value, str):
            before: NDArray[np.bool_] = _ORDER[sign](self._texts.view, np.array(value, StringDType()))  # a bare text would lose NULs at its end
            return self._text_numbers.view[before]
        if isinstance(value, bool) or abs(value) > _EXACT:
            return self._asked(condition, range(len(self._values)))
        return np.concatenate([self._quantity_numbers.view[_ORDER[sign](self._quantities.view, value)], self._asked(condition, self._others)])

    def _equal(self, values: Sequence[MetadataScalar]) -> NDArray[np.int32]:
        return np.array([self._numbers[key] for key in map(_key, values) if key in self._numbers], dtype=np.int32)

    def _asked(self, condition: Condition, numbers: Iterable[int]) -> NDArray[np.int32]:
        predicate = compile_filter(condition)
        return np.array([number for number in numbers if predicate({self._name: self._values[number]})], dtype=np.int32)


def _key(value: MetadataScalar) -> tuple[type, MetadataScalar]:
    """Equal for values that every filter takes for equal: 1 and 1.0 are, 1 and True are not."""
    if isinstance(value, bool):
        return bool, value
    return (str if isinstance(value, str) else float), value

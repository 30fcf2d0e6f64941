"""A numpy array that grows at its end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, TypeVar

import numpy as np
from numpy.dtypes import StringDType
from numpy.typing import NDArray

T = TypeVar("T", bound=np.generic)
_FIRST_CAPACITY = 64


class GrowingArray(Generic[T]):
    """Appends in amortised constant time. Not safe for several threads."""

    def __init__(self, dtype: type[T] | StringDType) -> None:
        self._data: NDArray[T] = np.empty(_FIRST_CAPACITY, dtype)
        self._size = 0

    def __len__(self) -> int:
        return self._size

    @property
    def view(self) -> NDArray[T]:
        """The elements, not copied; writes go through until the next `extend`."""
        return self._data[: self._size]

    def extend(self, values: Sequence[float] | Sequence[str]) -> None:
        """Adds elements."""
        needed = self._size + len(values)
        if needed > self._data.size:
            grown = np.empty(max(needed, 2 * self._data.size), self._data.dtype)
            grown[: self._size] = self.view
            self._data = grown
        self._data[self._size : needed] = values
        self._size = needed

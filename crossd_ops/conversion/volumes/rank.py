"""The number of axes of a volume as code for images asks for it: `x.dim()`, `x.ndim`, `len(x.shape)`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from ..code.bytecode import of_networks, sought_in
from .axes import Refusal


class Compared(int):
    """A number whose comparisons `_compare` answers, by the name of the method."""

    _compare: Callable[[str, Any], Any]

    def __eq__(self, other: object) -> Any:
        return self._compare("__eq__", other)

    def __ne__(self, other: object) -> Any:
        return self._compare("__ne__", other)

    def __lt__(self, other: Any) -> Any:
        return self._compare("__lt__", other)

    def __le__(self, other: Any) -> Any:
        return self._compare("__le__", other)

    def __gt__(self, other: Any) -> Any:
        return self._compare("__gt__", other)

    def __ge__(self, other: Any) -> Any:
        return self._compare("__ge__", other)

    def __hash__(self) -> int:
        return int.__hash__(self)


class Rank(Compared):
    """The number of axes of a map, which may be another in what the code was written for.

    Attributes:
        expected: that other number.
    """

    expected: int

    def __new__(cls, value: int, expected: int) -> Rank:
        self = super().__new__(cls, value)
        self.expected = expected
        return self

    def compared(self, name: str, other: Any) -> Any:
        """The answer, where code for images gets the same, or where the code knows of volumes."""
        number = int.__add__(self, 0)
        result = getattr(int, name)(number, other)
        of_volumes = self.expected == 4
        about_volumes = of_volumes and (other == 5 or name not in ("__eq__", "__ne__"))
        if getattr(int, name)(self.expected, other) is not result and not about_volumes:
            where = "volumes" if self.expected > number else "images"
            raise Refusal(f"whether a map has {other} axes, which gives another answer for {where}")
        return result

    def sought(self, numbers: Any) -> None:
        """Raises where it depends on the depth whether it is among `numbers`."""
        if isinstance(numbers, tuple | frozenset) and not (self.expected == 4 and 5 in numbers):
            for number in numbers:
                self.compared("__eq__", number)

    def _compare(self, name: str, other: Any) -> Any:
        frame = sys._getframe(2)
        numbers = sought_in(frame)
        if not of_networks(frame) or isinstance(other, Rank):
            return getattr(int, name)(self.real, other)
        if isinstance(numbers, tuple | frozenset):
            self.sought(numbers)
            return getattr(int, name)(self.real, other)
        return self.compared(name, other)

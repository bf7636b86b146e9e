"""The sizes of a volume as code for images asks for them: `x.shape`, `x.size(2)`."""

from __future__ import annotations

import math
import operator
import sys
from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor

from ..code.bytecode import COMPARED, SOUGHT, TAKEN, constants_beside, given_to, of_networks, unpacked
from .axes import VOLUME, Refusal, axes_of, flat_axes, flat_index, places_of
from .rank import Compared, Rank
from .rules import GETTERS, Call, getter, rule


class Extent(Compared):
    """Height or width of a volume: what is counted with it is counted with the depth too.

    H // 2 is half a height, and stands for half a depth as well; H W is the number of all voxels. A height by itself is
    compared as the number that it is; what was computed from it, only where the depth gives the same answer.

    Attributes:
        axis: "H" or "W"; or how it was asked for, where that is another axis in images and in volumes.
        depth: of the volume whose height it is, for sizes to which it is given; the same was computed from it.
        computed: whether it is another number than the height.
    """

    axis: str
    depth: int
    computed: bool

    def __new__(cls, value: int, axis: str, depth: int, computed: bool = False) -> Extent:
        self = super().__new__(cls, value)
        self.axis, self.depth, self.computed = axis, depth, computed
        return self

    def __reduce__(self) -> Any:
        return Extent, (self.number, self.axis, self.depth, self.computed)

    @property
    def number(self) -> int:
        """A plain integer."""
        return int.__add__(self, 0)

    def _counted(self, function: Callable[[Any, Any], Any], other: Any) -> Any:
        """What `function` makes of it and of another number or extent."""
        if self.axis not in ("H", "W") or isinstance(other, bool) or not isinstance(other, int):
            return self._refuse()
        if not isinstance(other, Extent):
            return Extent(function(self.number, other), self.axis, function(self.depth, other), True)
        if other.axis == self.axis:
            return Extent(function(self.number, other.number), self.axis, function(self.depth, other.depth), True)
        if function is operator.mul and {self.axis, other.axis} == {"H", "W"} and self.depth == other.depth:
            return self.number * other.number * self.depth
        return self._refuse()

    def _refuse(self, *_: Any) -> Any:
        what = {"H": "the height", "W": "the width"}.get(self.axis, self.axis)
        raise Refusal(f"a number computed from {what}, which says nothing of the depth")

    def _compare(self, name: str, other: Any) -> Any:
        # The third from last is the depth of a volume, and the channels of an image: equal only to its like.
        if self.axis not in "HW" and getattr(other, "axis", "") != self.axis:
            raise Refusal(f"{self.axis}, which is another axis in images and in volumes")
        result = getattr(int, name)(self, other)
        if self.axis == "H" and (self.computed or getattr(other, "computed", False)):
            depth = getattr(int, name)(self.depth, other.depth if isinstance(other, Extent) else other)
            if depth is not result:
                raise Refusal(
                    f"{self.number}, computed from the height, compared, which gives another answer for the depth"
                )
        return result

    def __add__(self, other: Any) -> Any:
        return self._counted(operator.add, other)

    def __sub__(self, other: Any) -> Any:
        return self._counted(operator.sub, other)

    def __rsub__(self, other: Any) -> Any:
        return self._counted(lambda own, number: number - own, other)

    def __mul__(self, other: Any) -> Any:
        return self._counted(operator.mul, other)

    def __floordiv__(self, other: Any) -> Any:
        return self._counted(operator.floordiv, other)

    def __mod__(self, other: Any) -> Any:
        return self._counted(operator.mod, other)

    def __truediv__(self, other: Any) -> Any:
        return Quotient(self, other)

    __radd__, __rmul__ = __add__, __mul__
    __rtruediv__ = __rfloordiv__ = __rmod__ = __pow__ = __rpow__ = __divmod__ = __rdivmod__ = _refuse
    __neg__ = __abs__ = __float__ = __int__ = __round__ = __trunc__ = __floor__ = __ceil__ = _refuse
    __lshift__ = __rlshift__ = __rshift__ = __rrshift__ = __and__ = __rand__ = __or__ = __ror__ = _refuse


class Quotient:
    """A height or a width divided by a number, to be rounded up or down."""

    def __init__(self, extent: Extent, divisor: Any) -> None:
        self._extent, self._divisor = extent, divisor

    def __ceil__(self) -> Any:
        return self._extent._counted(lambda size, divisor: -(-size // divisor), self._divisor)

    def __floor__(self) -> Any:
        return self._extent // self._divisor

    def __getattr__(self, name: str) -> Any:
        return self._extent._refuse()

    def __float__(self) -> Any:
        return self._extent._refuse()

    __int__ = __index__ = __bool__ = __round__ = __trunc__ = __float__
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = lambda self, other: (
        self._extent._refuse()
    )
    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __floordiv__ = __mod__ = __add__


class VolumeSize(tuple[Any, ...]):
    """`torch.Size` of a volume. All sizes, or all of its space, are for volumes; a height or a width is an `Extent`."""

    axes: str

    def __new__(cls, sizes: Any, axes: str) -> VolumeSize:
        self = super().__new__(cls, sizes)
        self.axes = axes
        return self

    def __reduce__(self) -> Any:
        return VolumeSize, (self._all(), self.axes)

    def _all(self) -> list[Any]:
        return [*super().__iter__()]

    def numel(self) -> Any:
        """The number of elements."""
        return math.prod(self._all())

    def __iter__(self) -> Iterator[Any]:
        # `b, c, h, w = x.shape` is code for images, and gets these four; a loop gets all that there are.
        frame = sys._getframe(1)
        first, last = unpacked(frame)
        sizes = self._all()
        if (first, last) == (len(flat_axes(self.axes)), 0):
            sizes = [self[place] for place in range(first)]
        elif last > 2 and "C" in self.axes:
            raise Refusal(f"the last {last} sizes of a map")
        elif last:
            sizes[-last:] = [self[place] for place in range(-last, 0)]
        elif self.axes == VOLUME and of_networks(frame):
            if given_to(frame, ("zip", "enumerate")):
                raise Refusal("all sizes of a map, counted or paired with others, of which a volume has one more")
            for place in constants_beside(frame, TAKEN):
                if place in (2, 3, -3, -4):
                    raise Refusal(f"the size {place} of a list of all, which is another axis in images and in volumes")
        return iter(sizes)

    def __len__(self) -> int:
        count, frame = len(self.axes), sys._getframe(1)
        if of_networks(frame):
            for number in constants_beside(frame, COMPARED):
                Rank(count, count - 1).compared("__eq__", number)
            for numbers in constants_beside(frame, SOUGHT):
                Rank(count, count - 1).sought(numbers)
        return count

    def __eq__(self, other: object) -> bool:
        flat = flat_axes(self.axes)
        if isinstance(other, tuple | list) and not isinstance(other, VolumeSize) and len(other) == len(flat):
            return [self[place] for place in range(len(flat))] == [*other]
        return super().__eq__(other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = tuple.__hash__

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return self._part(index)
        sizes = self._all()
        if index in (-3, -4) and self.axes == VOLUME:
            return Extent(sizes[index], f"shape[{index}]", sizes[2])
        flat = flat_index(self.axes, index)
        value = sizes[places_of(self.axes, flat)[-1]]
        letter = flat_axes(self.axes)[flat]
        if letter not in "HW" or type(value) is not int:
            return value
        return Extent(value, letter, sizes[self.axes.index("D")])

    def _part(self, index: slice) -> Any:
        flat = flat_axes(self.axes)
        kept = [*range(len(flat))][index]
        letters = "".join(flat[place] for place in kept)
        if index.step not in (None, 1) or ("H" in letters) != ("W" in letters):
            raise Refusal(f"shape[{index.start}:{index.stop}:{index.step}]")
        sizes = [self._all()[place] for number in kept for place in places_of(self.axes, number)]
        return VolumeSize(sizes, letters.replace("H", "DH")) if "H" in letters else tuple(sizes)


def _shape(call: Call) -> Any:
    return VolumeSize(call.run(), axes_of(call.tensor))


GETTERS[getter("shape")] = _shape


@rule("dim", "ndimension")
def _dim(call: Call) -> Any:
    count = call.run()
    return Rank(count, count - 1)


GETTERS[getter("ndim")] = _dim


@rule("size")
def _size(call: Call) -> Any:
    dim = call.argument(1, "dim")
    sizes = VolumeSize(call.tensor.shape, axes_of(call.tensor))
    return sizes if dim is None else sizes[dim]


def depth_for(height: Any) -> Any:
    """The size along the depth for one along the height that a network asks for.

    Raises:
        Refusal: the height is a number of its own, which says nothing of the depth.
    """
    if isinstance(height, Extent):
        if height.axis != "H":
            raise Refusal("a width in place of a height, which says nothing of the depth")
        return height.depth
    if isinstance(height, Tensor) or height not in (1, -1):
        raise Refusal(f"the height {height}, which says nothing of the depth")
    return height

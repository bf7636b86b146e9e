"""The sizes of an image as code for volumes asks for them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

from ..code.bytecode import COMPARED, SOUGHT, TAKEN, constants_beside, of_networks, unpacked
from ..volumes.axes import Refusal
from ..volumes.rank import Rank

# What is the same from the front and from behind, with and without a depth; behind the channels comes the whole map.
_SAME = (0, 1, -1, -2)
_PARTS = [(None, 1), (None, 2), (0, 1), (0, 2), (1, 2), (1, None), (2, None), (-2, None), (-1, None), (None, None)]


def rank_of(count: int) -> Rank:
    """The number of axes; code for volumes expects one more."""
    return Rank(count, count + 1)


class ImageSize(tuple[Any, ...]):
    """`torch.Size` of an image, of which code for volumes gets what does not depend on a depth."""

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            if index.step not in (None, 1) or (index.start, index.stop) not in _PARTS:
                raise Refusal(f"shape[{index.start}:{index.stop}], which is another part in volumes")
        elif index not in _SAME:
            raise Refusal(f"shape[{index}], which is another axis in volumes")
        return super().__getitem__(index)

    def numel(self) -> int:
        """The number of elements."""
        result = 1
        for size in super().__iter__():
            result *= size
        return result

    def __iter__(self) -> Iterator[Any]:
        frame = sys._getframe(1)
        if of_networks(frame):
            if unpacked(frame)[0]:
                raise Refusal(f"{unpacked(frame)[0]} sizes of an image, which has four")
            for place in constants_beside(frame, TAKEN):
                if isinstance(place, int) and place not in _SAME:
                    raise Refusal(f"the size {place} of a list of all, which is another axis in volumes")
        return super().__iter__()

    def __len__(self) -> int:
        count, frame = super().__len__(), sys._getframe(1)
        if of_networks(frame):
            for number in constants_beside(frame, COMPARED):
                rank_of(count).compared("__eq__", number)
            for numbers in constants_beside(frame, SOUGHT):
                rank_of(count).sought(numbers)
        return count

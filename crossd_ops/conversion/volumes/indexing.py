"""Indices: what is taken of the height is taken of the depth too, where the width is treated alike."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .axes import Refusal, axes_of, flat_axes, places_of, with_axes
from .rules import Call, rule
from .sizes import Extent, depth_for


@rule("__getitem__")
def _getitem(call: Call) -> Any:
    index, axes = _indices(call.axes, call.args[1], call.tensor.shape)
    changed = isinstance(index, tuple) and (not isinstance(call.args[1], tuple) or len(call.args[1]) > 2)
    call.args[1] = index
    return with_axes(call.lifted() if changed else call.run(), axes)


@rule("__setitem__")
def _setitem(call: Call) -> Any:
    index, axes = _indices(call.axes, call.args[1], call.tensor.shape)
    value = call.args[2]
    if isinstance(value, Tensor) and value.dim() and axes_of(value) != axes and axes:
        raise Refusal(f"a map of other axes put into a part of a volume: {tuple(value.shape)}")
    call.args[1] = index
    return call.lifted()


def _indices(axes: str, index: Any, shape: Any) -> tuple[Any, str]:
    """The index of a volume for that of a map, and the letters of what it takes."""
    if isinstance(index, Tensor) and index.dtype.is_floating_point is False and axes_of(index) == axes:
        return index, ""  # a mask of the same axes
    flat, wanted = flat_axes(axes), _filled(index, len(flat_axes(axes)))
    result: list[Any] = []
    letters, place = "", 0
    of_letter = {}
    for part in wanted:
        if part is None:
            # Where the next axis is the height, in front of its depth.
            result.append(None)
            letters += "X"
            continue
        letter = flat[place]
        found = places_of(axes, place)
        of_letter[letter] = part
        result += _parts(part, letter, found, shape)
        letters += "" if isinstance(part, int | torch.SymInt) else "DH" if letter == "H" and len(found) == 2 else letter
        place += 1
    if sum(not isinstance(part, int | slice | torch.SymInt) for part in of_letter.values()) > 1:
        raise Refusal("places given one by one along several axes")
    _check_alike(of_letter)
    return tuple(result), letters


def _filled(index: Any, count: int) -> list[Any]:
    """One index for each of `count` axes, and None for new ones."""
    given = [*index] if isinstance(index, tuple) else [index]
    used = sum(part is not None and part is not Ellipsis for part in given)
    if used > count:
        raise Refusal(f"{used} indices of a map of {count} axes")
    rest = [slice(None)] * (count - used)
    where = next((number for number, part in enumerate(given) if part is Ellipsis), None)
    return [*given, *rest] if where is None else [*given[:where], *rest, *given[where + 1 :]]


def _parts(part: Any, letter: str, found: list[int], shape: Any) -> list[Any]:
    if isinstance(part, bool) or not isinstance(part, int | slice | torch.SymInt):
        if letter in "HW" or (isinstance(part, Tensor) and part.dim() != 1):
            raise Refusal(f"places given one by one along the axis {letter}")
        return [part]
    if letter != "H":
        return [part]
    if not isinstance(part, slice):
        if any(shape[place] != 1 for place in found):
            raise Refusal(f"the row {part} of a map of the sizes {tuple(shape)}, which says nothing of the depth")
        return [part] * len(found)
    start, stop = (depth_for(end) if isinstance(end, Extent) else end for end in (part.start, part.stop))
    return [slice(start, stop, part.step), part] if len(found) == 2 else [part]


def _check_alike(of_letter: dict[str, Any]) -> None:
    """What is cut along the height alone, or otherwise than along the width, says nothing of the depth."""
    height, width = of_letter.get("H"), of_letter.get("W")
    if not isinstance(height, slice) or height == slice(None):
        return
    if not isinstance(width, slice) or height.step != width.step or type(height.start) is not type(width.start):
        raise Refusal(f"the height cut by {height}, and the width by {width}, which says nothing of the depth")
    extents = isinstance(height.start, Extent) or isinstance(height.stop, Extent)
    if not extents and height != width:
        raise Refusal(f"the height cut by {height}, and the width by {width}, which says nothing of the depth")

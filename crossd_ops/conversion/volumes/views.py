"""Maps as rows of numbers and back, and tensors as large as a map: flatten, view, expand, zeros."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from .axes import Refusal, axes_of, flat_axes, flat_index, one_place, places_of, with_axes
from .pointwise import aligned
from .rules import Call, refuse_if_in_code, refuse_if_unseen_later, rule
from .sizes import Extent, VolumeSize, depth_for


@rule("flatten", "ravel")
def _flatten(call: Call) -> Any:
    axes = call.axes
    start = places_of(axes, flat_index(axes, call.argument(1, "start_dim", default=0)))[0]
    end = places_of(axes, flat_index(axes, call.argument(2, "end_dim", default=-1)))[-1]
    return with_axes(call.tensor.flatten(start, end), axes[:start] + "X" + axes[end + 1 :])


@rule("unflatten")
def _unflatten(call: Call) -> Any:
    axes, sizes = call.axes, call.argument(2, "sizes")
    place = one_place(axes, call.argument(1, "dim"))
    call.change(1, "dim", value=place)
    return with_axes(call.run(), axes[:place] + "X" * len(sizes) + axes[place + 1 :])


@rule("numpy", "tolist", "__array__", "__dlpack__")
def _taken_out(call: Call) -> Any:
    refuse_if_in_code()
    return call.run()


@rule("view", "reshape", always=True)
def _view(call: Call) -> Any:
    if isinstance(call.argument(1, "dtype"), torch.dtype):
        return with_axes(call.run(), axes_of(call.tensor))
    sizes, axes, shape = call.several("shape", "size"), axes_of(call.tensor), call.tensor.shape
    if any(isinstance(size, Extent) for size in sizes):
        deep, letters = with_depth(sizes)
        refuse_if_unseen_later()
        result = call.tensor.reshape(deep) if call.name == "reshape" else call.tensor.view(deep)
        if axes and math.prod(result.shape[: letters.index("D")]) != math.prod(shape[: axes.index("D")]):
            raise Refusal(f"the sizes {tuple(sizes)} of a map of the sizes {tuple(shape)}")
        return with_axes(result, letters)
    if not axes:
        return without_axes(call.run())
    result = call.run()
    if result.shape == shape:
        return with_axes(result, axes)
    _check_merged(axes, shape, result.shape)
    return without_axes(result)


def _check_merged(axes: str, shape: Any, sizes: Any) -> None:
    """Raises unless depth, height and width are one axis of the result together, and the batch stays by itself."""
    depth, width = axes.index("D"), max(axes.find("H"), axes.find("W"))
    before, behind = math.prod(shape[:depth]), math.prod(shape[width + 1 :])
    for place in range(len(sizes)):
        front, back = math.prod(sizes[:place]), math.prod(sizes[place + 1 :])
        together = front and back and before % front == 0 and behind % back == 0
        if together and (place == 0 or axes[0] != "B" or sizes[0] == shape[0]):
            return
    raise Refusal(f"the sizes {tuple(sizes)} of a map of the sizes {tuple(shape)}")


def with_depth(sizes: list[Any]) -> tuple[list[Any], str]:
    """Sizes with those of a height and a width among them, with that of the depth; and their letters."""
    place = next(number for number, size in enumerate(sizes) if isinstance(size, Extent))
    pair = sizes[place : place + 2]
    if [getattr(size, "axis", None) for size in pair] != ["H", "W"] or place == 0:
        raise Refusal(f"the sizes {tuple(sizes)}, of which some are a map's")
    rest = sizes[place + 2 :]
    if any(isinstance(size, Extent) for size in rest):
        raise Refusal(f"the sizes {tuple(sizes)}, of which some are a map's")
    front = "BC" if place == 2 and not rest else "B" + "X" * (place - 1)
    back = "C" if len(rest) == 1 else "X" * len(rest)
    return [*sizes[:place], pair[0].depth, *sizes[place:]], front + "DHW" + back


def without_axes(value: Any) -> Any:
    """`value`, known as no volume, whatever the number of its axes."""
    for part in value if isinstance(value, tuple | list) else (value,):
        if isinstance(part, Tensor) and part.dim() == 5:
            with_axes(part, "")
    return value


@rule("expand", "repeat", always=True)
def _expand(call: Call) -> Any:
    sizes, axes, tensor = call.several("sizes", "size", "repeats"), axes_of(call.tensor), call.tensor
    function = Tensor.repeat if call.name == "repeat" else Tensor.expand
    if any(isinstance(size, Extent) for size in sizes) and not axes:
        deep, letters = with_depth(sizes)
        place = letters.index("D")
        behind = len(deep) - place - 1
        if tensor.dim() >= behind:
            if tensor.shape[tensor.dim() - behind] != 1:
                raise Refusal(f"a tensor {tuple(tensor.shape)}, which has a height and no depth")
            tensor = tensor.unsqueeze(tensor.dim() - behind)
        refuse_if_unseen_later()
        return with_axes(function(tensor, deep), letters)
    if not axes:
        return without_axes(call.run())
    flat = flat_axes(axes)
    if len(sizes) == len(flat):
        place = flat.index("H")
        sizes = [*sizes[:place], depth_for(sizes[place]), *sizes[place:]]
    elif len(sizes) != len(axes):
        raise Refusal(f"the sizes {tuple(sizes)} of a map of the sizes {tuple(tensor.shape)}")
    refuse_if_unseen_later()
    return with_axes(function(tensor, sizes), axes)


@rule("expand_as", "view_as", "reshape_as")
def _as_another(call: Call) -> Any:
    other = call.args[1] if len(call.args) > 1 else call.kwargs["other"]
    axes = axes_of(other)
    if not axes:
        raise Refusal(f"a volume as large as a map of the sizes {tuple(other.shape)}")
    call.args[0] = aligned(call.tensor, axes, other.shape)
    return with_axes(call.run(), axes)


@rule("zeros", "ones", "empty", "rand", "randn", "full", always=True)
def _new(call: Call) -> Any:
    return _of_sizes(call, 0)


@rule("new_zeros", "new_ones", "new_empty", "new_full", always=True)
def _new_like(call: Call) -> Any:
    return _of_sizes(call, 1)


def _of_sizes(call: Call, position: int) -> Any:
    first = call.argument(position, "size")
    if isinstance(first, VolumeSize):
        return with_axes(call.run(), first.axes)
    together = isinstance(first, tuple | list)
    sizes = [*first] if together else [*call.args[position:]]
    if not any(isinstance(size, Extent) for size in sizes):
        return without_axes(call.run())
    deep, letters = with_depth(sizes)
    if together:
        call.change(position, "size", value=deep)
    else:
        call.args[position:] = deep
    return with_axes(call.lifted(), letters)

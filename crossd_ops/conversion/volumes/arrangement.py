"""Axes in another order, split, joined, cut: what moves elements of a map."""

from __future__ import annotations

from typing import Any

from .axes import Refusal, axes_of, flat_axes, flat_index, one_place, places, places_of, same_axes, with_axes, without
from .rules import Call, refuse_if_unseen_later, rule


def _rearranged(call: Call, order: list[int]) -> Any:
    """The map with its flat axes in this order; the depth goes with the height."""
    axes = call.axes
    if sorted(order) != [*range(len(flat_axes(axes)))]:
        raise Refusal(f"the order {tuple(order)} of the axes of a map")
    found = [place for flat in order for place in places_of(axes, flat)]
    refuse_if_unseen_later()
    return with_axes(call.tensor.permute(found), "".join(axes[place] for place in found))


@rule("permute")
def _permute(call: Call) -> Any:
    return _rearranged(call, [flat_index(call.axes, dim) for dim in call.several("dims")])


@rule("transpose", "swapaxes", "swapdims")
def _transpose(call: Call) -> Any:
    axes = call.axes
    first, second = (flat_index(axes, call.argument(number, *names)) for number, names in _PAIR)
    order = [*range(len(flat_axes(axes)))]
    order[first], order[second] = second, first
    if "H" in (flat_axes(axes)[first], flat_axes(axes)[second]) and "W" in (
        flat_axes(axes)[first],
        flat_axes(axes)[second],
    ):
        raise Refusal("height and width exchanged, which says nothing of the depth")
    return _rearranged(call, order)


_PAIR = ((1, ("dim0", "axis0")), (2, ("dim1", "axis1")))


@rule("movedim", "moveaxis")
def _movedim(call: Call) -> Any:
    axes = call.axes
    ends = [call.argument(1, "source"), call.argument(2, "destination")]
    source, target = (
        [flat_index(axes, dim) for dim in (end if isinstance(end, tuple | list) else (end,))] for end in ends
    )
    moved = dict(zip(target, source, strict=True))
    rest = iter([flat for flat in range(len(flat_axes(axes))) if flat not in source])
    return _rearranged(call, [moved[place] if place in moved else next(rest) for place in range(len(flat_axes(axes)))])


@rule("unsqueeze")
def _unsqueeze(call: Call) -> Any:
    axes, flat = call.axes, flat_index(call.axes, call.argument(1, "dim"), 1)
    place = places_of(axes, flat)[0] if flat < len(flat_axes(axes)) else len(axes)
    call.change(1, "dim", value=place)
    return with_axes(call.lifted(), axes[:place] + "X" + axes[place:])


@rule("squeeze")
def _squeeze(call: Call) -> Any:
    axes, dims = call.axes, call.argument(1, "dim")
    shape = call.tensor.shape
    if dims is None:
        ones = [place for place, size in enumerate(shape) if size == 1]
        if 0 < sum(shape[place] == 1 for place, letter in enumerate(axes) if letter in "DH") < 2 and "H" in axes:
            raise Refusal(f"a map of the sizes {tuple(shape)}, of which height or depth is 1, and the other is not")
        return with_axes(call.run(), without(axes, ones))
    gone: list[int] = []
    for dim in dims if isinstance(dims, tuple | list) else (dims,):
        found = places(axes, dim)
        ones = [place for place in found if shape[place] == 1]
        if ones and ones != found:
            raise Refusal(f"a map of the sizes {tuple(shape)}, of which height or depth is 1, and the other is not")
        gone += ones
    call.change(1, "dim", value=tuple(gone))
    return with_axes(call.lifted(), without(axes, gone)) if gone else call.tensor.view_as(call.tensor)


@rule("cat", "concat", "concatenate")
def _cat(call: Call) -> Any:
    axes = _same_axes(call)
    dim = call.argument(1, "dim", "axis", default=0)
    place = one_place(axes, dim)
    call.change(1, "dim", value=place)
    call.kwargs.pop("axis", None)
    return with_axes(call.run() if place == dim else call.lifted(), axes)


@rule("stack")
def _stack(call: Call) -> Any:
    axes = _same_axes(call)
    flat = flat_index(axes, call.argument(1, "dim", default=0), 1)
    place = places_of(axes, flat)[0] if flat < len(flat_axes(axes)) else len(axes)
    call.change(1, "dim", value=place)
    return with_axes(call.lifted(), axes[:place] + "X" + axes[place:])


def _same_axes(call: Call) -> str:
    parts = call.argument(0, "tensors")
    axes = axes_of(next((part for part in parts if axes_of(part)), None))
    if any(part.dim() != len(axes) or not same_axes(axes, axes_of(part) or "-") for part in parts):
        raise Refusal(f"maps of different axes, {' and '.join(str(tuple(part.shape)) for part in parts)}")
    return axes


def _along(call: Call, position: int, default: Any = None) -> int:
    """The place of the axis that the call names, put in its place."""
    dim = call.argument(position, "dim", "axis", default=default)
    if dim is None:
        raise Refusal("without an axis")
    place = one_place(call.axes, dim)
    if place != dim % call.tensor.dim():
        refuse_if_unseen_later()
    call.kwargs.pop("axis", None)
    call.change(position, "dim", value=place)
    return place


@rule("softmax", "log_softmax", "softmin", "cumsum", "cumprod", "glu", "sort", "argsort", "topk", "gumbel_softmax")
def _along_one_axis(call: Call) -> Any:
    axes, name = call.axes, call.name
    position = {"topk": 2, "gumbel_softmax": 4}.get(name, 1)
    _along(call, position, None if name in ("softmax", "log_softmax", "softmin", "cumsum", "cumprod") else -1)
    return with_axes(call.run(), axes)


@rule("chunk", "split", "tensor_split", "split_with_sizes")
def _parts(call: Call) -> Any:
    axes = call.axes
    _along(call, 2, 0)
    return with_axes(call.run(), axes)


@rule("normalize")
def _normalize(call: Call) -> Any:
    axes = call.axes
    _along(call, 2, 1)
    return with_axes(call.run(), axes)


@rule("index_select", "narrow", "repeat_interleave")
def _taken(call: Call) -> Any:
    axes = call.axes
    _along(call, 2 if call.name == "repeat_interleave" else 1)
    return with_axes(call.run(), axes)


@rule("unbind", "__iter__")
def _unbind(call: Call) -> Any:
    axes = call.axes
    place = one_place(axes, call.argument(1, "dim", default=0))
    parts = with_axes(call.tensor.unbind(place), without(axes, [place]))
    if place > 1:
        refuse_if_unseen_later()
    return iter(parts) if call.name == "__iter__" else parts


@rule("select")
def _select(call: Call) -> Any:
    axes, place = call.axes, one_place(call.axes, call.argument(1, "dim"))
    call.change(1, "dim", value=place)
    return with_axes(call.lifted(), without(axes, [place]))


@rule("flip", "roll")
def _moved(call: Call) -> Any:
    axes = call.axes
    if call.name == "flip":
        call.args[1:], call.kwargs = [[one_place(axes, dim) for dim in call.several("dims")]], {}
        return with_axes(call.lifted(), axes)
    dims = call.argument(2, "dims")
    call.change(2, "dims", value=[one_place(axes, dim) for dim in (dims if isinstance(dims, tuple | list) else [dims])])
    return with_axes(call.lifted(), axes)

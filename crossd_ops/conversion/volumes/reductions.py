"""Reductions over axes that are named: over the height means over the depth and the height."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from .axes import VOLUME, Refusal, axes_of, one_place, places, with_axes, without
from .pointwise import pointwise
from .rules import Call, refuse_if_unseen_later, rule

SEVERAL = (
    "mean", "sum", "amax", "amin", "std", "var", "var_mean", "std_mean", "nanmean", "nansum", "logsumexp",
    "count_nonzero", "all", "any",
)  # fmt: skip
SINGLE = ("prod", "median", "nanmedian", "mode", "kthvalue", "aminmax")
EXTREMES = ("max", "min")
PLACES = ("argmax", "argmin")


class NoIndices:
    """In place of the indices that a reduction over the height gives: there are none that say where in a volume."""

    def __getattr__(self, name: str) -> Any:
        raise Refusal("indices of a reduction over the height, which say nothing of the depth")

    @classmethod
    def __torch_function__(cls, *_: Any) -> Any:
        raise Refusal("indices of a reduction over the height, which say nothing of the depth")


class ValuesAndIndices(NamedTuple):
    """As torch.return_types.max."""

    values: Any
    indices: Any


def _reduced(call: Call, position: int, over_several: bool) -> Any:
    axes, dims = call.axes, call.argument(position, "dim", "axis")
    if dims is None or isinstance(dims, bool) or dims in ((), []):
        # Over all axes; the second argument of std(x, False) is another one.
        return call.run()
    name = "axis" if "axis" in call.kwargs else "dim"
    found = _named_places(call, axes, dims)
    if over_several or len(found) == 1:
        call.change(position, name, value=tuple(found) if over_several else found[0])
        result = call.lifted() if found != places_as_named(call, dims) else call.run()
        return _known(result, call.tensor, axes, found)
    volume = call.tensor
    call.args[0:1] = [volume.flatten(*found)]
    call.change(position, name, value=found[0])
    result = call.lifted()
    values, indices = result if isinstance(result, tuple) else (result, None)
    if values.dim() == volume.dim() - 1:
        values = values.unsqueeze(found[0])
    values = _known(values, volume, axes, found)
    return values if indices is None else ValuesAndIndices(values, NoIndices())


def _named_places(call: Call, axes: str, dims: Any) -> list[int]:
    """The axes of the volume that the call names; code for any number of axes names all three of its space."""
    if axes == VOLUME and isinstance(dims, tuple | list) and sorted(dims) == [2, 3, 4]:
        return [2, 3, 4]
    return places(axes, dims)


def places_as_named(call: Call, dims: Any) -> list[int]:
    """What the axes that the call names would be without a rule."""
    return [dim % call.tensor.dim() for dim in (dims if isinstance(dims, tuple | list) else (dims,))]


def _known(result: Any, volume: Tensor, axes: str, gone: list[int]) -> Any:
    parts = result if isinstance(result, tuple) else (result,)
    for part in parts:
        with_axes(part, axes if part.dim() == volume.dim() else without(axes, gone))
    return result


@rule(*SEVERAL)
def _over_axes(call: Call) -> Any:
    return _reduced(call, 1, True)


@rule(*SINGLE)
def _over_one_axis(call: Call) -> Any:
    if call.name == "kthvalue":
        one_place(call.axes, call.argument(2, "dim", default=-1))  # of more elements the k-th is another
    return _reduced(call, 2 if call.name == "kthvalue" else 1, False)


@rule(*EXTREMES)
def _extremes(call: Call) -> Any:
    if isinstance(call.argument(1, "other"), Tensor):
        return pointwise(call)
    return _reduced(call, 1, False)


@rule("norm", "vector_norm")
def _norm(call: Call) -> Any:
    axes, order, dims = call.axes, call.argument(1, "p", "ord"), call.argument(2, "dim")
    if dims is None:
        return call.run()
    several = isinstance(dims, tuple | list) and len(dims) > 1
    of_matrices = call.function is torch.linalg.norm and order is not None
    if (isinstance(order, str) and order != "fro") or (several and of_matrices and order != "fro"):
        raise Refusal(f"the norm {order!r} of matrices")
    found = _named_places(call, axes, dims)
    refuse_if_unseen_later()
    order = 2 if order in (None, "fro") else order
    result = torch.linalg.vector_norm(
        call.tensor, order, found, bool(call.argument(3, "keepdim", default=False)), dtype=call.kwargs.get("dtype")
    )
    return _known(result, call.tensor, axes, found)


@rule(*PLACES)
def _places(call: Call) -> Any:
    axes, dim = call.axes, call.argument(1, "dim", "axis")
    if dim is None:
        raise Refusal("a place in the flattened map")
    place = one_place(axes, dim)
    call.change(1, "dim", value=place)
    return _known(call.lifted() if place != dim % call.tensor.dim() else call.run(), call.tensor, axes, [place])


@rule("cosine_similarity")
def _similarity(call: Call) -> Any:
    axes = call.axes
    if axes_of(call.argument(1, "x2")) != axes:
        raise Refusal("maps of different axes")
    place = one_place(axes, call.argument(2, "dim", default=1))
    if place != call.argument(2, "dim", default=1):
        raise Refusal("along an axis that is not the one of the channels")
    return _known(call.run(), call.tensor, axes, [place])

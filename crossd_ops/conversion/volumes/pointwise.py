"""What acts on each element by itself: it passes, where its operands have the same axes."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .axes import VOLUME, Refusal, axes_of, flat_axes, same_axes, with_axes
from .names import ASKED, POINTWISE, UNARY
from .rules import GETTERS, RULES, Call, getter, keeping, named, rule

_ABOUT_AXES = ("T", "mT", "H", "mH", "shape", "ndim")


def _register_pointwise() -> None:
    """Every function whose operator of aten is tagged as pointwise, and those without an operator of their name."""
    names = {name for owner in (torch, Tensor, F) for name in dir(owner) if not name.startswith("_")}
    for name in (*names, *POINTWISE):
        packet = getattr(torch.ops.aten, name, None) if name in names else None
        if name in POINTWISE or (
            isinstance(packet, torch._ops.OpOverloadPacket)
            and any(torch.Tag.pointwise in getattr(packet, overload).tags for overload in packet.overloads())  # type: ignore[no-untyped-call]
        ):
            for function in named(name):
                RULES.setdefault(function, pointwise)


def pointwise(call: Call) -> Any:
    """Operands of the same axes; one of fewer, (1, C, 1, 1) or (C, 1, 1), gets an axis for the depth."""
    operands = [value for value in (*call.args, *call.kwargs.values()) if isinstance(value, Tensor)]
    axes = ""
    for operand in operands:
        own = axes_of(operand)
        if len(own) > len(axes):
            axes = own
    shape = next(operand.shape for operand in operands if axes_of(operand) == axes)
    changed = False
    for place, value in enumerate(call.args):
        if isinstance(value, Tensor):
            call.args[place] = aligned(value, axes, shape)
            changed = changed or call.args[place] is not value
    for name, value in call.kwargs.items():
        if isinstance(value, Tensor):
            call.kwargs[name] = aligned(value, axes, shape)
            changed = changed or call.kwargs[name] is not value
    result = call.lifted() if changed else call.run()
    return result if axes == VOLUME else with_axes(result, axes)


def aligned(operand: Tensor, axes: str, shape: Any) -> Tensor:
    """`operand` with a depth of one where it is broadcast over the depth of a map with these axes."""
    own = axes_of(operand)
    if own:
        if not same_axes(axes, own):
            raise Refusal(f"maps of different axes, ({', '.join(flat_axes(own))}) and ({', '.join(flat_axes(axes))})")
        return operand
    flat, count = flat_axes(axes), operand.dim()
    from_right = len(flat) - flat.index("H")
    if count < from_right or operand.shape == shape:
        return operand
    sizes = f"a tensor {tuple(operand.shape)} together with a volume {tuple(shape)}"
    if count == len(axes):
        # A mask with as many axes as the volume, as of stochastic depth: one number for each sample or channel.
        if any(size != 1 for size in operand.shape[axes.index("D") :]):
            raise Refusal(sizes)
        return operand
    if count > len(flat) or operand.shape[count - from_right] != 1:
        raise Refusal(f"{sizes}: it has a height, and no depth")
    return operand.unsqueeze(count - from_right)


@rule("prelu")
def _prelu(call: Call) -> Any:
    return with_axes(call.run(), call.axes)


def attribute(call: Call) -> Any:
    """What has no axes of its own, as a type or a device, or those of the tensor."""
    return with_axes(call.run(), call.axes)


for _name in dir(Tensor):
    _member = getattr(Tensor, _name)
    if not callable(_member) and hasattr(_member, "__get__") and _name not in _ABOUT_AXES:
        GETTERS[getter(_name)] = attribute
        if _name not in ("data", "real", "imag"):
            GETTERS[_member.__set__] = attribute
keeping(*UNARY, *ASKED)
_register_pointwise()

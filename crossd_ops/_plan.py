"""What a call of the layer comes to, of all that is no tensor: found once for each set of sizes, types and numbers.

Looking at every argument takes Python several microseconds, as long as the operators themselves on a small problem, and
a network calls each of its layers with the same sizes step after step.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import _checks
from ._convolution import Geometry, fit


class Plan(NamedTuple):
    """`dim` and `position` say which slice of the weight; no position: the whole weight."""

    dim: int
    position: int | None
    geometry: Geometry
    extra_padding: list[int]  # of the input, for F.pad, where the numbers of the geometry cannot say it
    dtype: torch.dtype  # of the convolution
    shift_dtype: torch.dtype
    device_type: str
    kernel_bytes: int  # of the kernels of all samples


_plans: dict[Any, Plan] = {}
_MOST_PLANS = 1024  # of programs whose sizes are always new


def plan_of(
    input: Tensor,
    weight: Tensor,
    shift: Tensor,
    bias: Tensor | None,
    stride: int | tuple[int, ...],
    padding: int | tuple[int, ...] | str,
    dilation: int | tuple[int, ...],
    groups: int,
    dim: int,
    index: int | None,
    *,
    whole: bool,
) -> Plan:
    """The plan of checked arguments; `whole`: of a 3D convolution. Raises TypeError or ValueError."""
    if torch.compiler.is_compiling():  # sizes may be symbols, and the guards of a look-up would be many
        return _make(input, weight, shift, bias, stride, padding, dilation, groups, dim, index, whole)
    try:
        key = (
            (input.shape, input.dtype, input.device),
            (weight.shape, weight.dtype, weight.device),
            (shift.shape, shift.dtype, shift.device),
            None if bias is None else (bias.shape, bias.dtype, bias.device),
            torch._C._is_any_autocast_enabled() and autocast_dtype(weight),
            (stride, padding, dilation, groups, dim, index, whole),
            # 1.0 is 1 to a dictionary, and not to us.
            (type(stride), type(padding), type(dilation), type(groups), type(dim), type(index)),
        )
        plan = _plans.get(key)
    except (AttributeError, TypeError):  # no tensor, or numbers without a hash: a list, a symbol, what is refused below
        return _make(input, weight, shift, bias, stride, padding, dilation, groups, dim, index, whole)
    if plan is None:
        plan = _make(input, weight, shift, bias, stride, padding, dilation, groups, dim, index, whole)
        if len(_plans) >= _MOST_PLANS:
            _plans.clear()
        _plans[key] = plan
    return plan


def _make(
    input: Tensor,
    weight: Tensor,
    shift: Tensor,
    bias: Tensor | None,
    stride: int | tuple[int, ...],
    padding: int | tuple[int, ...] | str,
    dilation: int | tuple[int, ...],
    groups: int,
    dim: int,
    index: int | None,
    whole: bool,
) -> Plan:
    _checks.check_weight_and_shift(weight, shift, None)
    dim, position = (0, None) if whole else _checks.check_slice(weight, dim, index)
    _checks.check_convolution(input, weight, shift, bias, groups, axes=3 if whole else 2)
    sizes = list(weight.shape[2:])
    if not whole:
        del sizes[dim]
    geometry, extra = fit(input.shape, sizes, stride, padding, dilation, groups)
    autocast = autocast_dtype(weight)
    if autocast is None and input.dtype is not weight.dtype:
        raise TypeError(f"input: expected the dtype of weight ({weight.dtype}), got {input.dtype}")
    return planned(weight, shift, dim, position, geometry, autocast or weight.dtype, extra)


def planned(
    weight: Tensor,
    shift: Tensor,
    dim: int,
    index: int | None,
    geometry: Geometry,
    dtype: torch.dtype,
    extra_padding: list[int],
) -> Plan:
    """The plan of arguments that were looked at before."""
    elements = weight.numel() if index is None else weight.numel() // weight.shape[2 + dim]
    kernel_bytes = shift.shape[0] * elements * dtype.itemsize
    shift_dtype = _checks.accumulate_dtype(weight.dtype)
    return Plan(dim, index, geometry, extra_padding, dtype, shift_dtype, weight.device.type, kernel_bytes)


def autocast_dtype(weight: Tensor) -> torch.dtype | None:
    """The type that autocast wants of kernels made of `weight`; None where it is off, or leaves float64 alone."""
    device_type = weight.device.type
    # Autocast does not know meta tensors, and raises.
    if weight.dtype is torch.float64 or device_type == "meta" or not torch.is_autocast_enabled(device_type):
        return None
    return torch.get_autocast_dtype(device_type)

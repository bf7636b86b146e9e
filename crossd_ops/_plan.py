"""What a call of the layer comes to, of all that is no tensor."""

from __future__ import annotations

from typing import NamedTuple

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
    _checks.check_weight_and_shift(weight, shift, None)
    dim, position = (0, None) if whole else _checks.check_slice(weight, dim, index)
    groups = _checks.check_convolution(input, weight, shift, bias, groups, axes=3 if whole else 2)
    sizes = list(weight.shape[2:])
    if not whole:
        del sizes[dim]
    geometry, extra = fit(input.shape, sizes, stride, padding, dilation, groups)
    autocast = autocast_dtype(weight)
    if autocast is None and input.dtype is not weight.dtype:
        raise TypeError(f"input: expected the dtype of weight ({weight.dtype}), got {input.dtype}")
    return Plan(dim, position, geometry, extra, autocast or weight.dtype)


def autocast_dtype(weight: Tensor) -> torch.dtype | None:
    """The type that autocast wants of kernels made of `weight`; None where it is off, or leaves float64 alone."""
    if not torch._C._is_any_autocast_enabled():
        return None
    device_type = weight.device.type
    # Autocast does not know meta tensors, and raises.
    if weight.dtype is torch.float64 or device_type == "meta" or not torch.is_autocast_enabled(device_type):
        return None
    return torch.get_autocast_dtype(device_type)

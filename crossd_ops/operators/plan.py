"""What a call of the per-sample convolution comes to, of all that is no tensor: checks, geometry, type."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .checks import check_device, check_slice, check_tensor, check_weight_and_shift, ints_of, positive_int
from .context import autocast_dtype

_LARGEST = 2**31 - 1  # of stride, padding and dilation: sizes that torch's libraries compute from more wrap around


class Geometry(NamedTuple):
    """Numbers of a convolution, one for each spatial axis, and the sizes that follow from them."""

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    samples: int
    result: tuple[int, ...]  # without samples and channels
    stacked: tuple[int, ...]  # the input as (1, B * C, ...): each sample is a block of groups


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
    check_weight_and_shift(weight, shift, None)
    dim, position = (0, None) if whole else check_slice(weight, dim, index)
    groups = _check_tensors(input, weight, shift, bias, groups, axes=3 if whole else 2)
    sizes = list(weight.shape[2:])
    if not whole:
        del sizes[dim]
    geometry, extra = fit(input.shape, sizes, stride, padding, dilation, groups)
    autocast = autocast_dtype(weight)
    if autocast is None and input.dtype is not weight.dtype:
        raise TypeError(f"input: expected the dtype of weight ({weight.dtype}), got {input.dtype}")
    return Plan(dim, position, geometry, extra, autocast or weight.dtype)


def _check_tensors(input: Tensor, weight: Tensor, shift: Tensor, bias: Tensor | None, groups: int, axes: int) -> int:
    """`groups` as an int, of arguments of a per-sample convolution that fit; weight and shift were looked at before."""
    check_tensor("input", input)
    if input.dim() != 2 + axes:
        expected = "(B, C, H, W)" if axes == 2 else "(B, C, D, H, W)"
        raise ValueError(f"input: expected {expected}, got {tuple(input.shape)}")
    check_device("input", input, weight)
    out_channels, group_channels = weight.shape[:2]
    groups = positive_int("groups", groups)
    if out_channels % groups:
        raise ValueError(f"weight: expected a multiple of {groups} groups as O, got {tuple(weight.shape)}")
    if input.shape[1] != group_channels * groups:
        raise ValueError(f"input: expected {group_channels * groups} channels, got {tuple(input.shape)}")
    if shift.shape[0] != input.shape[0]:
        raise ValueError(f"shift: expected ({input.shape[0]}, 3), got {tuple(shift.shape)}")
    if bias is not None:
        check_tensor("bias", bias)
        check_device("bias", bias, weight)
        if bias.shape != (out_channels,):
            raise ValueError(f"bias: expected ({out_channels},), got {tuple(bias.shape)}")
    return groups


def fit(
    input_sizes: Sequence[int],
    kernel_sizes: Sequence[int],
    stride: int | tuple[int, ...],
    padding: int | tuple[int, ...] | str,
    dilation: int | tuple[int, ...],
    groups: int,
) -> tuple[Geometry, list[int]]:
    """Arguments of `torch.nn.functional.conv2d` as plain numbers, for an input (B, C, ...) of these sizes.

    Also what to pad the input by first, as `F.pad` takes it: what these numbers cannot say; mostly nothing.
    """
    axes = len(kernel_sizes)
    strides, dilations = _each("stride", stride, axes, 1), _each("dilation", dilation, axes, 1)
    extra = [0] * axes
    if not isinstance(padding, str):
        paddings = _each("padding", padding, axes, 0)
    elif padding == "valid":
        paddings = (0,) * axes
    elif padding == "same" and strides == (1,) * axes:
        totals = [rate * (size - 1) for rate, size in zip(dilations, kernel_sizes, strict=True)]
        paddings = tuple(total // 2 for total in totals)
        extra = [total % 2 for total in totals]  # an even kernel needs one element more behind than before
    else:
        raise ValueError(f"padding: expected numbers, 'valid', or 'same' (stride 1), got {padding!r} (stride {stride})")
    samples, channels, *sizes = input_sizes
    sizes = [size + more for size, more in zip(sizes, extra, strict=True)]
    result = tuple(
        (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
        for size, kernel, stride, padding, dilation in zip(
            sizes, kernel_sizes, strides, paddings, dilations, strict=True
        )
    )
    amounts = [side for more in reversed(extra) for side in (0, more)] if any(extra) else []
    return Geometry(strides, paddings, dilations, groups, samples, result, (1, samples * channels, *sizes)), amounts


def _each(name: str, value: int | tuple[int, ...], axes: int, smallest: int) -> tuple[int, ...]:
    values = ints_of(value, axes)
    if values is None or any(item < smallest for item in values):
        raise ValueError(f"{name}: expected one int or {axes}, each at least {smallest}, got {value!r}")
    if max(values) > _LARGEST:
        raise ValueError(f"{name}: expected ints below 2**31, got {value!r}")
    return values

"""What a call of the per-sample convolution comes to, of all that is no tensor: checks, geometry, type."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.compiler import is_compiling

from .checks import (
    check_device,
    check_dtype,
    check_sizes_of_weight,
    check_slice,
    check_tensor,
    check_weight_and_shift,
    ints_of,
    positive_int,
)
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


def plan_of(input: Tensor, weight: Tensor, shift: Tensor, *others: Any, whole: bool) -> Plan:
    """The plan of checked arguments; `whole`: of a 3D convolution. Raises TypeError or ValueError."""
    check_weight_and_shift(weight, shift, None)
    plan = plan_before_shift(input, weight, *others, whole=whole)
    if shift.shape[0] != input.shape[0]:
        raise ValueError(f"shift: expected ({input.shape[0]}, 3), got {tuple(shift.shape)}")
    return plan


def plan_before_shift(
    input: Tensor,
    weight: Tensor,
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
    """The same where the shift is still to be predicted: what is wrong is found before a head has counted the batch."""
    check_tensor("weight", weight)
    check_sizes_of_weight(weight.shape)
    axes = 3 if whole else 2
    dim, position = (0, None) if whole else check_slice(weight.shape, dim, index)
    groups = _check_beside_weight(input, weight, bias, groups, axes)
    sizes = list(weight.shape[2:])
    if not whole:
        del sizes[dim]
    geometry, extra = fit(input.shape, sizes, stride, padding, dilation, groups)
    return Plan(dim, position, geometry, extra, _dtype_of(input, weight))


class SamplePlan(NamedTuple):
    """Of kernels that are given; as in `Plan`."""

    geometry: Geometry
    extra_padding: list[int]
    dtype: torch.dtype


def sample_plan_of(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: int | tuple[int, ...],
    padding: int | tuple[int, ...] | str,
    dilation: int | tuple[int, ...],
    groups: int,
    *,
    axes: int,
) -> SamplePlan:
    """The plan of checked arguments, weight (B, O, C, ...). Raises TypeError or ValueError."""
    check_tensor("weight", weight)
    sizes, kernel = tuple(weight.shape), "Kh, Kw" if axes == 2 else "Kd, Kh, Kw"
    if len(sizes) != 3 + axes:
        raise ValueError(f"weight: expected (B, O, C, {kernel}), got {sizes}")
    if min(sizes[3:]) < 1:
        raise ValueError(f"weight: expected kernel sizes of at least 1, got {sizes}")
    groups = _check_beside_weight(input, weight, bias, groups, axes, start=1)
    if sizes[0] != input.shape[0]:
        raise ValueError(f"weight: expected ({input.shape[0]}, O, C, {kernel}), got {sizes}")
    geometry, extra = fit(input.shape, sizes[3:], stride, padding, dilation, groups)
    return SamplePlan(geometry, extra, _dtype_of(input, weight))


def _check_beside_weight(
    input: Tensor, weight: Tensor, bias: Tensor | None, groups: int, axes: int, start: int = 0
) -> int:
    """`groups` as an int, of tensors that fit the weight; start: where O and C stand in it."""
    check_tensor("input", input)
    if input.dim() != 2 + axes:
        expected = "(B, C, H, W)" if axes == 2 else "(B, C, D, H, W)"
        raise ValueError(f"input: expected {expected}, got {tuple(input.shape)}")
    check_device("input", input, weight)
    groups = _check_channels(input.shape, weight.shape, groups, start)
    if bias is not None:
        check_tensor("bias", bias)
        check_device("bias", bias, weight)
        _check_bias(bias.shape, weight.shape[start])
    return groups


def _dtype_of(input: Tensor, weight: Tensor) -> torch.dtype:
    """Of the convolution."""
    autocast = autocast_dtype(weight)
    if autocast is None and input.dtype is not weight.dtype:
        raise TypeError(f"input: expected the dtype of weight ({weight.dtype}), got {input.dtype}")
    return autocast or weight.dtype


@functools.lru_cache(maxsize=4096)
def fits(
    input: tuple[int, ...],
    weight: tuple[int, ...],
    bias: tuple[int, ...] | None,
    dtypes: tuple[torch.dtype, ...],
    place: tuple[int, ...],
) -> bool:
    """Whether the convolution of an image with one slice is one, by sizes, types of weight and bias, and all numbers.

    `place`: stride, padding and dilation along each axis, groups, dim, index. Answers are kept: training asks again.
    """
    *numbers, groups, dim, index = place
    stride, padding, dilation = (tuple(numbers[2 * part : 2 * part + 2]) for part in range(3))
    try:
        for dtype in dtypes:
            check_dtype("weight and bias", dtype)
        check_sizes_of_weight(weight)
        dim, _ = check_slice(weight, dim, index)
        groups = _check_channels(input, weight, groups)
        if bias is not None:
            _check_bias(bias, weight[0])
        fit(input, [*weight[2 : 2 + dim], *weight[3 + dim :]], stride, padding, dilation, groups)
    except (TypeError, ValueError):
        return False
    return True


def _check_channels(input: Sequence[int], weight: Sequence[int], groups: int, start: int = 0) -> int:
    """`groups` as an int, of sizes of input and weight that fit."""
    groups = positive_int("groups", groups)
    out_channels, group_channels = weight[start : start + 2]
    if out_channels % groups:
        raise ValueError(f"weight: expected a multiple of {groups} groups as O, got {tuple(weight)}")
    if input[1] != group_channels * groups:
        raise ValueError(f"input: expected {group_channels * groups} channels, got {tuple(input)}")
    return groups


def _check_bias(bias: Sequence[int], out_channels: int) -> None:
    if tuple(bias) != (out_channels,):
        raise ValueError(f"bias: expected ({out_channels},), got {tuple(bias)}")


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
    result = result_sizes(sizes, kernel_sizes, strides, paddings, dilations)
    if not is_compiling():  # then of any size: what cannot be is refused when it comes
        _check_reach(input_sizes, kernel_sizes, dilations, result)
    amounts = [side for more in reversed(extra) for side in (0, more)] if any(extra) else []
    return Geometry(strides, paddings, dilations, groups, samples, result, (1, samples * channels, *sizes)), amounts


def result_sizes(
    sizes: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> tuple[int, ...]:
    """Pixels of the output along each axis."""
    numbers = zip(sizes, kernel, stride, padding, dilation, strict=True)
    return tuple((size + 2 * pad - rate * (side - 1) - 1) // step + 1 for size, side, step, pad, rate in numbers)


def _check_reach(input: Sequence[int], kernel: Sequence[int], dilation: Sequence[int], result: Sequence[int]) -> None:
    """The operators' words: of the first axis along which no kernel has room."""
    for size, rate, pixels in zip(kernel, dilation, result, strict=True):
        if pixels < 1:
            reach = rate * (size - 1) + 1
            raise ValueError(
                f"input: expected at least {reach} pixels along each axis with padding, got {tuple(input)}"
            )


def _each(name: str, value: int | tuple[int, ...], axes: int, smallest: int) -> tuple[int, ...]:
    values = ints_of(value, axes)
    if values is None or any(item < smallest for item in values):
        raise ValueError(f"{name}: expected one int or {axes}, each at least {smallest}, got {value!r}")
    if max(values) > _LARGEST:
        raise ValueError(f"{name}: expected ints below 2**31, got {value!r}")
    return values

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
    check_tensor("input", input)
    if input.dim() != 2 + axes:
        expected = "(B, C, H, W)" if axes == 2 else "(B, C, D, H, W)"
        raise ValueError(f"input: expected {expected}, got {tuple(input.shape)}")
    check_device("input", input, weight)
    groups = _check_channels(input.shape, weight.shape, groups)
    if bias is not None:
        check_tensor("bias", bias)
        check_device("bias", bias, weight)
        _check_bias(bias.shape, weight.shape)
    sizes = list(weight.shape[2:])
    if not whole:
        del sizes[dim]
    geometry, extra = fit(input.shape, sizes, stride, padding, dilation, groups)
    autocast = autocast_dtype(weight)
    if autocast is None and input.dtype is not weight.dtype:
        raise TypeError(f"input: expected the dtype of weight ({weight.dtype}), got {input.dtype}")
    return Plan(dim, position, geometry, extra, autocast or weight.dtype)


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
            _check_bias(bias, weight)
        fit(input, [*weight[2 : 2 + dim], *weight[3 + dim :]], stride, padding, dilation, groups)
    except (TypeError, ValueError):
        return False
    return True


def _check_channels(input: Sequence[int], weight: Sequence[int], groups: int) -> int:
    """`groups` as an int, of sizes of input and weight that fit."""
    groups = positive_int("groups", groups)
    if weight[0] % groups:
        raise ValueError(f"weight: expected a multiple of {groups} groups as O, got {tuple(weight)}")
    if input[1] != weight[1] * groups:
        raise ValueError(f"input: expected {weight[1] * groups} channels, got {tuple(input)}")
    return groups


def _check_bias(bias: Sequence[int], weight: Sequence[int]) -> None:
    if tuple(bias) != (weight[0],):
        raise ValueError(f"bias: expected ({weight[0]},), got {tuple(bias)}")


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
    if not is_compiling():  # then of any size: what cannot be is refused when it comes
        _check_reach(input_sizes, kernel_sizes, dilations, result)
    amounts = [side for more in reversed(extra) for side in (0, more)] if any(extra) else []
    return Geometry(strides, paddings, dilations, groups, samples, result, (1, samples * channels, *sizes)), amounts


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

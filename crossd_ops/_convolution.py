"""Convolution of each sample with its own kernels out of torch's own operations, which differentiate to any order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ._checks import ints_of

_ZEROS = [[0] * axes for axes in range(4)]  # output padding, which only transposed convolutions have
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


def library_convolution(
    input: Tensor, kernels: Tensor, bias: Tensor | None, geometry: Geometry, groups: int | None = None
) -> Tensor:
    """torch's own convolution with the numbers of `geometry`; kernels (O, C, ...)."""
    stride, padding, dilation, *_ = geometry
    groups = groups or geometry.groups
    return torch.convolution(input, kernels, bias, stride, padding, dilation, False, _ZEROS[len(stride)], groups)


def grouped_convolution(input: Tensor, kernels: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
    """y_b = conv(x_b, kernels_b) + bias: (B, C * groups, ...), (B, O, C, ...), (O,) -> (B, O, ...), B at least 1.

    As the published layer does it: one convolution in which each sample is a block of groups.
    """
    samples = geometry.samples
    repeated = None if bias is None else bias.repeat(samples)
    output = library_convolution(
        input.reshape(geometry.stacked), kernels.flatten(0, 1), repeated, geometry, samples * geometry.groups
    )
    return output.reshape(samples, -1, *geometry.result)

"""Convolution of each sample with its own kernels out of torch's own operations, which differentiate to any order."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .plan import Geometry

_ZEROS = [[0] * axes for axes in range(4)]  # output padding, which only transposed convolutions have


def library_convolution(
    input: Tensor, kernels: Tensor, bias: Tensor | None, geometry: Geometry, groups: int | None = None
) -> Tensor:
    """torch's own convolution with the numbers of `geometry`; kernels (O, C, ...)."""
    stride, padding, dilation, *_ = geometry
    groups = groups or geometry.groups
    return torch.convolution(input, kernels, bias, stride, padding, dilation, False, _ZEROS[len(stride)], groups)


def memory_format_of(tensor: Tensor) -> torch.memory_format:
    """Of images or volumes: contiguous, or channels-last of either.

    As at::Tensor::suggest_memory_format has it, by which torch's own convolutions go: where sizes of 1 leave both open,
    contiguous. csrc/common/memory_format.h has the same.
    """
    sizes, strides = tensor.shape, tensor.stride()
    if strides[1] == 0:
        return torch.contiguous_format
    least = 0
    for axis in (1, *range(tensor.dim() - 1, 1, -1), 0):
        if sizes[axis] == 0 or strides[axis] < least or (axis == 0 and least == strides[1]):
            return torch.contiguous_format
        least = strides[axis] * (sizes[axis] if sizes[axis] > 1 else 1)
    return torch.channels_last if tensor.dim() == 4 else torch.channels_last_3d


def in_format(tensor: Tensor, memory_format: torch.memory_format) -> Tensor:
    """(B, C, ...) in this layout; under torch.func and in the graphs of tracers, too."""
    if memory_format is torch.contiguous_format:
        return tensor.contiguous()
    return tensor.movedim(1, -1).contiguous().movedim(-1, 1)


def empty_in_format(sizes: Sequence[int], input: Tensor) -> Tensor:
    """In the memory format of the input, as the operators make result and gradient."""
    return torch.empty(sizes, dtype=input.dtype, device=input.device, memory_format=memory_format_of(input))


def grouped_convolution(input: Tensor, kernels: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
    """y_b = conv(x_b, kernels_b) + bias: (B, C * groups, ...), (B, O, C, ...), (O,) -> (B, O, ...), B at least 1.

    As the published layer does it: one convolution in which each sample is a block of groups. In the memory format of
    the input.
    """
    samples = geometry.samples
    repeated = None if bias is None else bias.repeat(samples)
    # By way of one axis, so that a batch of single pixels is no channels-last image, whose gradients in bfloat16 torch
    # refuses to compute on some CPUs.
    stacked = input.reshape(-1).reshape(geometry.stacked)
    output = library_convolution(stacked, kernels.flatten(0, 1), repeated, geometry, samples * geometry.groups)
    return in_format(output.reshape(samples, -1, *geometry.result), memory_format_of(input))

"""Convolution of each sample with its own kernels out of torch's own operations, which differentiate to any order."""

from __future__ import annotations

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

"""Convolution of each sample with its own kernels, out of what torch offers; every function here differentiates to any order.

`method` is the one place that chooses. Measured over ResNet-18's layers (forward and backward, B = 4, float32, CPU; the time
over that of one convolution with shared kernels; `python -m benchmarks --only convolution` prints the table anew):

    grouped   one convolution with B * groups groups: about 1.1 while a sample has many more pixels than a kernel row
    loop      one convolution for each sample: the better one where a group has few channels, which grouped kernels waste
    matrix    unfold and a batched matrix product: the best once the kernels outweigh the pixels (7 x 7 pixels: 1.4, grouped 3.5)
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Geometry(NamedTuple):
    """Numbers of a convolution, one for each spatial axis."""

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int


def method(kernels: Tensor, pixels: int, groups: int) -> str:
    """How to convolve `kernels` (B, O, C, ...) with a result of `pixels` pixels: "grouped", "loop" or "matrix"."""
    if kernels.dim() == 5 and pixels <= _MATRIX_PIXELS:
        return "matrix"
    return "loop" if kernels.shape[2] < _LOOP_CHANNELS and groups == 1 else "grouped"


_MATRIX_PIXELS = 100
_LOOP_CHANNELS = 16


def convolve(input: Tensor, kernels: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
    """y_b = conv(x_b, kernels_b) + bias: (B, C * groups, ...), (B, O, C, ...), (O,) -> (B, O, ...), B at least 1."""
    samples, out_channels = kernels.shape[:2]
    sizes = output_sizes(input, kernels, geometry)
    chosen = method(kernels, _product(sizes), geometry.groups)
    if chosen == "matrix":
        output = _kernel_matrix(kernels, geometry.groups) @ _columns(input, kernels, geometry)
        output = output.reshape(samples, out_channels, *sizes)
        return output if bias is None else output + bias.reshape(-1, *(1,) * len(sizes))
    if chosen == "loop":
        rows = zip(input.split(1), kernels.unbind())
        return torch.cat([_library(row, kernel, bias, geometry, geometry.groups) for row, kernel in rows])
    repeated = None if bias is None else bias.repeat(samples)
    output = _library(_stack(input), kernels.flatten(0, 1), repeated, geometry, samples * geometry.groups)
    return output.reshape(samples, out_channels, *sizes)


def convolve_backward(
    grad: Tensor, input: Tensor, kernels: Tensor, geometry: Geometry, need_input: bool, need_kernels: bool
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of `convolve` for input and kernels; None for one that is not needed."""
    chosen = method(kernels, _product(grad.shape[2:]), geometry.groups)
    if chosen == "matrix":
        return _matrix_backward(grad, input, kernels, geometry, need_input, need_kernels)
    if chosen == "loop":
        rows = zip(grad.split(1), input.split(1), kernels.unbind())
        parts = [_library_backward(*row, geometry, geometry.groups, need_input, need_kernels) for row in rows]
        inputs, kernel_grads = zip(*parts)
        return torch.cat(inputs) if need_input else None, torch.stack(kernel_grads) if need_kernels else None
    grad_input, grad_kernels = _library_backward(
        _stack(grad),
        _stack(input),
        kernels.flatten(0, 1),
        geometry,
        kernels.shape[0] * geometry.groups,
        need_input,
        need_kernels,
    )
    return (
        grad_input.reshape(input.shape) if need_input else None,
        grad_kernels.reshape(kernels.shape) if need_kernels else None,
    )


def output_sizes(input: Tensor, kernels: Tensor, geometry: Geometry) -> list[int]:
    """Spatial sizes of the result."""
    return [
        (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
        for size, kernel, stride, padding, dilation in zip(input.shape[2:], kernels.shape[3:], *geometry[:3])
    ]


def _product(sizes: list[int] | torch.Size) -> int:
    result = 1
    for size in sizes:
        result *= size
    return result


def _stack(tensor: Tensor) -> Tensor:
    """(B, C, ...) -> (1, B * C, ...): each sample is a block of groups."""
    return tensor.reshape(1, tensor.shape[0] * tensor.shape[1], *tensor.shape[2:])


def _library(input: Tensor, kernels: Tensor, bias: Tensor | None, geometry: Geometry, groups: int) -> Tensor:
    stride, padding, dilation, _ = geometry
    return torch.convolution(input, kernels, bias, stride, padding, dilation, False, [0] * len(stride), groups)


def _library_backward(
    grad: Tensor, input: Tensor, kernels: Tensor, geometry: Geometry, groups: int, need_input: bool, need_kernels: bool
) -> tuple[Tensor, Tensor]:
    stride, padding, dilation, _ = geometry
    mask = [need_input, need_kernels, False]
    gradients = torch.ops.aten.convolution_backward(
        grad, input, kernels, None, stride, padding, dilation, False, [0] * len(stride), groups, mask
    )
    return gradients[0], gradients[1]


def _columns(input: Tensor, kernels: Tensor, geometry: Geometry) -> Tensor:
    """The input pixels that each output pixel sees: (B, groups, C * Kh * Kw, H' * W')."""
    columns = F.unfold(input, kernels.shape[3:], geometry.dilation, geometry.padding, geometry.stride)
    return columns.unflatten(1, (geometry.groups, -1))


def _kernel_matrix(kernels: Tensor, groups: int) -> Tensor:
    """(B, groups, O / groups, C * Kh * Kw)."""
    return kernels.flatten(2).unflatten(1, (groups, -1))


def _matrix_backward(
    grad: Tensor, input: Tensor, kernels: Tensor, geometry: Geometry, need_input: bool, need_kernels: bool
) -> tuple[Tensor | None, Tensor | None]:
    rows = grad.flatten(2).unflatten(1, (geometry.groups, -1))
    grad_input: Tensor | None = None
    grad_kernels: Tensor | None = None
    if need_kernels:
        grad_kernels = (rows @ _columns(input, kernels, geometry).mT).reshape(kernels.shape)
    if need_input:
        columns = (_kernel_matrix(kernels, geometry.groups).mT @ rows).flatten(1, 2)
        stride, padding, dilation, _ = geometry
        grad_input = F.fold(columns, input.shape[2:], kernels.shape[3:], dilation, padding, stride)
    return grad_input, grad_kernels

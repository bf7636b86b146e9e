"""Convolution of each sample with its own kernels, out of what torch offers; all of it differentiates to any order.

`method` is the one place that chooses, by what `python -m benchmarks.convolution_methods` printed for ResNet-18
(ms on two CPU cores, float32, B = 4, forward and backward; "plain" has one kernel for all samples). No GPU has been
measured; the same choice is made there.

    C -> O, kernel, input size        plain       grouped          loop        matrix
    3 -> 64, 7x7, 224             15.3  6.2    17.8  12.7     6.3   5.6    21.4  19.9
    64 -> 64, 3x3, 56              4.7 10.4     4.8  10.3     5.2  11.0    14.8  23.5
    128 -> 128, 3x3, 28            4.2  8.6     4.4   9.2     4.6  10.1     7.8  16.5
    256 -> 256, 3x3, 14            4.0  8.9     4.8  10.6     4.7  10.9     6.8  14.1
    512 -> 512, 3x3, 7             4.1 10.7    16.6  46.0     6.7  47.2     8.3  26.0

    grouped   one convolution with B * groups groups, as the published layer has it
    loop      one convolution for each sample
    matrix    unfold and a batched matrix product
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

_ZEROS = [[0] * axes for axes in range(4)]  # output padding, which only transposed convolutions have


class Geometry(NamedTuple):
    """Numbers of a convolution, one for each spatial axis."""

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int


def fit(
    input: Tensor,
    kernel_sizes: Sequence[int],
    stride: int | tuple[int, ...],
    padding: int | tuple[int, ...] | str,
    dilation: int | tuple[int, ...],
    groups: int,
) -> tuple[Tensor, Geometry]:
    """Arguments of `torch.nn.functional.conv2d` as plain numbers, and the input padded by what these cannot say."""
    axes = len(kernel_sizes)
    strides, dilations = _each("stride", stride, axes, 1), _each("dilation", dilation, axes, 1)
    if not isinstance(padding, str):
        return input, Geometry(strides, _each("padding", padding, axes, 0), dilations, groups)
    if padding == "valid":
        return input, Geometry(strides, (0,) * axes, dilations, groups)
    if padding != "same" or strides != (1,) * axes:
        raise ValueError(f"padding: expected numbers, 'valid', or 'same' (stride 1), got {padding!r} (stride {stride})")
    totals = [rate * (size - 1) for rate, size in zip(dilations, kernel_sizes, strict=True)]
    if any(total % 2 for total in totals):  # an even kernel needs one element more behind than before
        input = F.pad(input, [side for total in reversed(totals) for side in (0, total % 2)])
    return input, Geometry(strides, tuple(total // 2 for total in totals), dilations, groups)


def _each(name: str, value: int | tuple[int, ...], axes: int, smallest: int) -> tuple[int, ...]:
    if isinstance(value, int) and value >= smallest:
        return (value,) * axes
    values = (value,) * axes if isinstance(value, int) else value
    if (
        not isinstance(values, (tuple, list))
        or len(values) != axes
        or any(not isinstance(item, int) or item < smallest for item in values)
    ):
        raise ValueError(f"{name}: expected one int or {axes}, each at least {smallest}, got {value!r}")
    return tuple(values)


def method(kernels: Tensor, pixels: int, groups: int, *, backward: bool) -> str:
    """How to convolve `kernels` (B, O, C, ...) with a result of `pixels` pixels: "grouped", "loop" or "matrix"."""
    if torch.compiler.is_exporting() and kernels.dim() == 5:
        return "matrix"  # whoever compiles the program may make a constant of a number of groups
    few_pixels = pixels <= _FEW_PIXELS
    if few_pixels and kernels.dim() == 5 and backward:
        return "matrix"
    few_channels = kernels.shape[2] < _FEW_CHANNELS and groups == 1
    return "loop" if few_pixels or few_channels else "grouped"


_FEW_PIXELS = 100  # the kernels outweigh the pixels: what counts is how often they are read
_FEW_CHANNELS = 16  # grouped kernels waste their lanes


def convolve(input: Tensor, kernels: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
    """y_b = conv(x_b, kernels_b) + bias: (B, C * groups, ...), (B, O, C, ...), (O,) -> (B, O, ...), B at least 1."""
    samples, out_channels = kernels.shape[:2]
    if samples == 1 and not torch.compiler.is_compiling():
        return library_convolution(input, kernels[0], bias, geometry)
    sizes = output_sizes(input, kernels, geometry)
    chosen = method(kernels, _product(sizes), geometry.groups, backward=False)
    if chosen == "matrix":
        output = _kernel_matrix(kernels, geometry.groups) @ _columns(input, kernels, geometry)
        output = output.reshape(samples, out_channels, *sizes)
        return output if bias is None else output + bias.reshape(-1, *(1,) * len(sizes))
    if chosen == "loop":
        rows = zip(torch.split(input, 1), kernels.unbind(), strict=True)
        return torch.cat([library_convolution(row, kernel, bias, geometry) for row, kernel in rows])
    return grouped_convolution(input, kernels, bias, geometry)


def grouped_convolution(input: Tensor, kernels: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
    """`convolve` as the published layer does it: one convolution in which each sample is a block of groups."""
    samples, out_channels = kernels.shape[:2]
    repeated = None if bias is None else bias.repeat(samples)
    output = library_convolution(_stack(input), kernels.flatten(0, 1), repeated, geometry, samples * geometry.groups)
    return output.reshape(samples, out_channels, *output.shape[2:])


class ConvolutionGradients:
    """Gradients of `convolve` for input and kernels, some output channels at a time; None for one not needed.

    Many channels' kernels are more than a cache holds: in blocks, each is still there when its product is taken. Blocks
    are added up in place: where these gradients will be differentiated there may be one block alone.
    """

    def __init__(self, input: Tensor, geometry: Geometry, need_input: bool, need_kernels: bool) -> None:
        self._input, self._geometry = input, geometry
        self._need_input, self._need_kernels = need_input, need_kernels
        self._columns: Tensor | None = None
        self._grad_columns: Tensor | None = None
        self._grad_input: Tensor | None = None
        self._kernel_sizes = torch.Size()

    def add(self, grad: Tensor, kernels: Tensor) -> Tensor | None:
        """The kernels' gradient, of grad (B, O, H', W') and kernels (B, O, C, ...) of the next O output channels."""
        chosen = method(kernels, _product(grad.shape[2:]), self._geometry.groups, backward=True)
        if chosen == "matrix":
            return self._add_matrix(grad, kernels)
        grad_input, grad_kernels = self._library(grad, kernels, loop=chosen == "loop")
        if grad_input is not None:
            self._grad_input = grad_input if self._grad_input is None else self._grad_input.add_(grad_input)
        return grad_kernels

    def grad_input(self) -> Tensor | None:
        """The gradient of the input, after the last block."""
        if self._grad_columns is None:
            return self._grad_input
        columns = self._grad_columns.reshape(self._input.shape[0], -1, self._grad_columns.shape[-1])
        stride, padding, dilation, _ = self._geometry
        return F.fold(columns, self._input.shape[2:], self._kernel_sizes, dilation, padding, stride)

    def _library(self, grad: Tensor, kernels: Tensor, loop: bool) -> tuple[Tensor | None, Tensor | None]:
        input, geometry, need_kernels = self._input, self._geometry, self._need_kernels
        if loop:
            rows = zip(torch.split(grad, 1), torch.split(input, 1), kernels.unbind(), strict=True)
            parts = [_library_backward(*row, geometry, geometry.groups, self._need_input, need_kernels) for row in rows]
            inputs, grads = zip(*parts, strict=True)
            return torch.cat(inputs) if self._need_input else None, torch.stack(grads) if need_kernels else None
        groups = kernels.shape[0] * geometry.groups
        grad_input, grad_kernels = _library_backward(
            _stack(grad), _stack(input), kernels.flatten(0, 1), geometry, groups, self._need_input, need_kernels
        )
        return (
            grad_input.reshape(input.shape) if self._need_input else None,
            grad_kernels.reshape(kernels.shape) if need_kernels else None,
        )

    def _add_matrix(self, grad: Tensor, kernels: Tensor) -> Tensor | None:
        groups = self._geometry.groups
        rows = torch.unflatten(grad.flatten(2), 1, (groups, -1)).flatten(0, 1)
        if self._need_input:
            self._kernel_sizes = kernels.shape[3:]
            transposed = _kernel_matrix(kernels, groups).flatten(0, 1).mT
            if self._grad_columns is None:
                self._grad_columns = transposed @ rows
            else:
                self._grad_columns.baddbmm_(transposed, rows)
        if not self._need_kernels:
            return None
        if self._columns is None:
            self._columns = _columns(self._input, kernels, self._geometry).flatten(0, 1)
        return (rows @ self._columns.mT).reshape(kernels.shape)


def convolve_backward(
    grad: Tensor, input: Tensor, kernels: Tensor, geometry: Geometry, need_input: bool, need_kernels: bool
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of `convolve` for input and kernels, differentiable; None for one that is not needed."""
    gradients = ConvolutionGradients(input, geometry, need_input, need_kernels)
    grad_kernels = gradients.add(grad, kernels)
    return gradients.grad_input(), grad_kernels


def output_sizes(input: Tensor, kernels: Tensor, geometry: Geometry) -> list[int]:
    """Spatial sizes of the result."""
    return [
        (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
        for size, kernel, stride, padding, dilation in zip(
            input.shape[2:], kernels.shape[3:], *geometry[:3], strict=True
        )
    ]


def _product(sizes: list[int] | torch.Size) -> int:
    result = 1
    for size in sizes:
        result *= size
    return result


def _stack(tensor: Tensor) -> Tensor:
    """(B, C, ...) -> (1, B * C, ...): each sample is a block of groups."""
    return tensor.reshape(1, tensor.shape[0] * tensor.shape[1], *tensor.shape[2:])


def library_convolution(
    input: Tensor, kernels: Tensor, bias: Tensor | None, geometry: Geometry, groups: int | None = None
) -> Tensor:
    """torch's own convolution with the numbers of `geometry`; kernels (O, C, ...)."""
    stride, padding, dilation, _ = geometry
    groups = groups or geometry.groups
    return torch.convolution(input, kernels, bias, stride, padding, dilation, False, _ZEROS[len(stride)], groups)


def _library_backward(
    grad: Tensor, input: Tensor, kernels: Tensor, geometry: Geometry, groups: int, need_input: bool, need_kernels: bool
) -> tuple[Tensor, Tensor]:
    stride, padding, dilation, _ = geometry
    mask = [need_input, need_kernels, False]
    gradients = torch.ops.aten.convolution_backward(
        grad, input, kernels, None, stride, padding, dilation, False, _ZEROS[len(stride)], groups, mask
    )
    return gradients[0], gradients[1]


def _columns(input: Tensor, kernels: Tensor, geometry: Geometry) -> Tensor:
    """The input pixels that each output pixel sees: (B, groups, C * Kh * Kw, H' * W')."""
    columns = F.unfold(input, kernels.shape[3:], geometry.dilation, geometry.padding, geometry.stride)
    return torch.unflatten(columns, 1, (geometry.groups, -1))


def _kernel_matrix(kernels: Tensor, groups: int) -> Tensor:
    """(B, groups, O / groups, C * Kh * Kw)."""
    return torch.unflatten(kernels.flatten(2), 1, (groups, -1))

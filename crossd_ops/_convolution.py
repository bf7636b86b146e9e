"""Convolution of each sample with its own kernels, out of what torch offers; all of it differentiates to any order.

`method` is the one place that chooses, by what `python -m benchmarks.convolution_methods` printed for ResNet-18
(ms on two CPU cores, float32, B = 4, forward and backward; "plain" has one kernel for all samples). No GPU has been
measured; the same choice is made there.

    C -> O, kernel, input size        plain       grouped          loop        matrix
    3 -> 64, 7x7, 224             16.8  5.8    15.4  10.5     6.3   5.5    14.4  14.0
    64 -> 64, 3x3, 56              4.3  9.8     4.8  10.1     5.6  10.6    15.3  35.3
    128 -> 128, 3x3, 28            4.1  8.6     4.3   9.2     4.6   9.5     8.2  16.9
    256 -> 256, 3x3, 14            3.8  8.7     4.6  10.3     4.6  10.9     6.7  14.4
    512 -> 512, 3x3, 7             4.1 10.1    17.9  46.9     6.1  27.7     9.4  18.5

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


def method(geometry: Geometry, channels: int, *, backward: bool) -> str:
    """How to convolve with kernels of `channels` input channels: "grouped", "loop" or "matrix"."""
    plane = len(geometry.result) == 2
    if plane and torch.compiler.is_exporting():
        return "matrix"  # whoever compiles the program may make a constant of a number of groups
    few_pixels = _product(geometry.result) <= _FEW_PIXELS
    if few_pixels and plane and backward:
        return "matrix"
    few_channels = channels < _FEW_CHANNELS and geometry.groups == 1
    return "loop" if few_pixels or few_channels else "grouped"


_FEW_PIXELS = 100  # the kernels outweigh the pixels: what counts is how often they are read
_FEW_CHANNELS = 16  # grouped kernels waste their lanes


def convolve(input: Tensor, kernels: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
    """y_b = conv(x_b, kernels_b) + bias: (B, C * groups, ...), (B, O, C, ...), (O,) -> (B, O, ...), B at least 1."""
    if geometry.samples == 1 and not torch.compiler.is_compiling():
        return library_convolution(input, kernels[0], bias, geometry)
    chosen = method(geometry, kernels.shape[2], backward=False)
    if chosen == "matrix":
        output = _kernel_matrix(kernels, geometry.groups) @ _columns(input, kernels, geometry)
        output = output.reshape(geometry.samples, -1, *geometry.result)
        return output if bias is None else output + bias.reshape(-1, *(1,) * len(geometry.result))
    if chosen == "loop":
        rows = zip(torch.split(input, 1), kernels.unbind(), strict=True)
        return torch.cat([library_convolution(row, kernel, bias, geometry) for row, kernel in rows])
    return grouped_convolution(input, kernels, bias, geometry)


def grouped_convolution(input: Tensor, kernels: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
    """`convolve` as the published layer does it: one convolution in which each sample is a block of groups."""
    samples = geometry.samples
    repeated = None if bias is None else bias.repeat(samples)
    output = library_convolution(
        input.reshape(geometry.stacked), kernels.flatten(0, 1), repeated, geometry, samples * geometry.groups
    )
    return output.reshape(samples, -1, *geometry.result)


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
        chosen = method(self._geometry, kernels.shape[2], backward=True)
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
        stride, padding, dilation, *_ = self._geometry
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
            grad.reshape(1, -1, *geometry.result),
            input.reshape(geometry.stacked),
            kernels.flatten(0, 1),
            geometry,
            groups,
            self._need_input,
            need_kernels,
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


def _product(sizes: Sequence[int]) -> int:
    result = 1
    for size in sizes:
        result *= size
    return result


def library_convolution(
    input: Tensor, kernels: Tensor, bias: Tensor | None, geometry: Geometry, groups: int | None = None
) -> Tensor:
    """torch's own convolution with the numbers of `geometry`; kernels (O, C, ...)."""
    stride, padding, dilation, *_ = geometry
    groups = groups or geometry.groups
    return torch.convolution(input, kernels, bias, stride, padding, dilation, False, _ZEROS[len(stride)], groups)


def _library_backward(
    grad: Tensor, input: Tensor, kernels: Tensor, geometry: Geometry, groups: int, need_input: bool, need_kernels: bool
) -> tuple[Tensor, Tensor]:
    stride, padding, dilation, *_ = geometry
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

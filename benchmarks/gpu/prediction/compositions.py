"""What operators of crossd_ops call inside of the library on a GPU, in torch's words.

A recorder cannot look into the library, and the library cannot run on fakes. So this repeats csrc/convolution: which
way it chooses, and the operators of that way with the same sizes and strides. A test holds both together, by what the
library itself dispatches on the CPU with CROSSD_CONVOLUTION_BRANCH=gpu.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from crossd_ops.operators.convolution import parts_of
from crossd_ops.operators.torch_convolution import memory_format_of

_FEW_PIXELS, _FEW_CHANNELS, _MOST_COLUMNS, _FEW_BORDERS = 100, 16, 1 << 26, 1 << 15  # csrc/convolution/problem.h
_operators: Any = torch.ops.crossd_ops


class _Problem:
    """csrc/convolution/problem.h"""

    def __init__(self, input: Tensor, weight: Tensor, shift: Tensor, place: Sequence[int]) -> None:
        self.input, self.weight = input, weight
        compute = torch.float64 if weight.dtype is torch.float64 else torch.float32
        self.shift = shift.to(compute)
        self.axes, self.samples, self.format = input.dim() - 2, len(input), memory_format_of(input)
        self.stride, self.padding, self.dilation, self.groups, self.dim, self.index = parts_of(
            place, weight.shape[2:], self.axes
        )
        kernel = list(weight.shape[2:])
        if self.index is not None:
            del kernel[self.dim]
        self.kernel = kernel
        self.result = [
            (size + 2 * pad - rate * (side - 1) - 1) // step + 1
            for size, side, step, pad, rate in zip(
                input.shape[2:], kernel, self.stride, self.padding, self.dilation, strict=True
            )
        ]

    def kernels(self) -> Tensor:
        built: Tensor = _operators.fourier_shift(self.weight, self.shift, self.dim, self.index, self.input.dtype)
        return built

    @property
    def method(self) -> str:
        pixels, elements = math.prod(self.result), math.prod(self.kernel)
        borders = math.prod(
            (out - 1) * step + rate * (side - 1) + 1
            for out, step, rate, side in zip(self.result, self.stride, self.dilation, self.kernel, strict=True)
        )
        columns = self.samples * self.input.shape[1] * elements * pixels
        few_pixels = pixels <= _FEW_PIXELS
        can_have_columns = borders <= max(_FEW_BORDERS, 4 * elements * pixels) and columns <= _MOST_COLUMNS
        if few_pixels and self.axes == 2 and can_have_columns:
            return "matrix"
        few_channels = self.weight.shape[1] < _FEW_CHANNELS and self.groups == 1
        return "loop" if few_pixels or few_channels else "grouped"

    def convolve(self, input: Tensor, kernels: Tensor, bias: Tensor | None, groups: int) -> Tensor:
        return torch.ops.aten.convolution(input, kernels, bias, *self._numbers(groups))  # type: ignore[no-any-return]

    def gradients(self, grad: Tensor, input: Tensor, kernels: Tensor, groups: int, needs: Sequence[bool]) -> Any:
        mask = [*needs, False]
        return torch.ops.aten.convolution_backward(grad, input, kernels, None, *self._numbers(groups), mask)

    def _numbers(self, groups: int) -> tuple[Any, ...]:
        numbers = [*self.stride], [*self.padding], [*self.dilation]
        return *numbers, False, [0] * self.axes, groups

    def columns(self) -> Tensor:
        """library_calls.h: dispatched_image_to_columns, of images."""
        source = self.input
        if max(self.padding):
            sides = [
                (out - 1) * step + rate * (side - 1) + 1
                for out, step, rate, side in zip(self.result, self.stride, self.dilation, self.kernel, strict=True)
            ]
            source = self.input.new_zeros(*self.input.shape[:2], *sides)
            inside = [
                min(max(side - pad, 0), size)
                for side, pad, size in zip(sides, self.padding, self.input.shape[2:], strict=True)
            ]
            (top, left), (rows, wide) = self.padding, inside
            source[:, :, top : top + rows, left : left + wide].copy_(self.input[:, :, :rows, :wide])
        strides = source.stride()
        windows = source.as_strided(
            (*source.shape[:2], *self.kernel, *self.result),
            (
                *strides[:2],
                *(rate * stride for rate, stride in zip(self.dilation, strides[2:], strict=True)),
                *(step * stride for step, stride in zip(self.stride, strides[2:], strict=True)),
            ),
        )
        return windows.contiguous().view(self.samples * self.groups, -1, math.prod(self.result))

    def in_format(self, tensor: Tensor) -> Tensor:
        """(B, C, ...) in the layout of the input: the tensor itself, or a copy."""
        if tensor.is_contiguous(memory_format=self.format):
            return tensor
        return torch.empty(tensor.shape, dtype=tensor.dtype, memory_format=self.format).copy_(tensor)


def _stack_samples(tensor: Tensor) -> Tensor:
    """(B, C, ...) -> (1, B * C, ...)"""
    if len(tensor) != 1 and tensor.stride(0) != tensor.shape[1] * tensor.stride(1):
        tensor = tensor.contiguous()
    return tensor.flatten(0, 1)[None] if tensor.is_contiguous() else tensor.view(1, -1, *tensor.shape[2:])


def _convolution(input: Tensor, weight: Tensor, shift: Tensor, bias: Tensor | None, place: Sequence[int]) -> None:
    problem = _Problem(input, weight, shift, place)
    kernels, samples, groups = problem.kernels(), problem.samples, problem.groups
    method = problem.method
    if method == "matrix":
        output = _multiply(problem, kernels, bias)
    elif samples == 1:
        output = problem.convolve(input, kernels[0], bias, groups)
    elif method == "loop":
        output = torch.cat([problem.convolve(input[b : b + 1], kernels[b], bias, groups) for b in range(samples)])
    else:
        repeated = None
        if bias is not None:
            repeated = bias.new_empty(samples * len(bias))
            repeated.view(samples, -1).copy_(bias.expand(samples, -1))
        stacked = problem.convolve(_stack_samples(input), kernels.flatten(0, 1), repeated, samples * groups)
        output = stacked.contiguous().view(samples, -1, *problem.result)
    problem.in_format(output)


def _multiply(problem: _Problem, kernels: Tensor, bias: Tensor | None) -> Tensor:
    """y = w x; of channels-last images y^T = x^T w^T"""
    blocks, rows = problem.samples * problem.groups, kernels.shape[1] // problem.groups
    columns, w = problem.columns(), kernels.view(blocks, rows, -1)
    if problem.format is not torch.contiguous_format and problem.groups == 1:
        transposed = w.new_empty(blocks, columns.shape[2], rows)
        product = torch.bmm(columns.mT, w.mT, out=transposed).mT
        result = product.unflatten(2, problem.result)
    else:
        product = w.new_empty(blocks, rows, columns.shape[2])
        result = torch.bmm(w, columns, out=product).view(problem.samples, -1, *problem.result)
    return result if bias is None else result - bias.view(-1, *[1] * problem.axes)


def _convolution_backward(
    grad: Tensor,
    input: Tensor,
    weight: Tensor,
    shift: Tensor,
    place: Sequence[int],
    need_input: bool,
    need_weight: bool,
    need_shift: bool,
) -> None:
    problem = _Problem(input, weight, shift, place)
    needs = need_input, need_weight or need_shift
    kernels, samples = problem.kernels(), problem.samples
    method = problem.method
    if method == "matrix":
        grad_kernels = _matrix_gradients(problem, grad, kernels, needs)
    elif method == "loop" and samples > 1:
        grad_kernels = _loop_gradients(problem, grad, kernels, needs)
    else:
        found = problem.gradients(
            _stack_samples(grad), _stack_samples(input), kernels.flatten(0, 1), samples * problem.groups, needs
        )
        if need_input:
            problem.in_format(found[0].contiguous().view(input.shape))
        grad_kernels = found[1].view(kernels.shape) if needs[1] else kernels
    if needs[1]:
        _operators.fourier_shift_backward(
            grad_kernels, weight, problem.shift, problem.dim, problem.index, need_weight, need_shift
        )


def _matrix_gradients(problem: _Problem, grad: Tensor, kernels: Tensor, needs: tuple[bool, bool]) -> Tensor:
    blocks, pixels = problem.samples * problem.groups, math.prod(problem.result)
    rows = kernels.shape[1] // problem.groups
    wide = kernels.shape[2] * math.prod(problem.kernel)
    source = _as_matrices(grad) if problem.groups == 1 else grad.contiguous().view(blocks, rows, pixels)
    if needs[0]:
        of_columns = grad.new_empty(blocks, wide, pixels)
        torch.bmm(kernels.view(blocks, rows, wide).mT, source, out=of_columns)
        of_input = torch.ops.aten.col2im(
            of_columns.view(problem.samples, -1, pixels), list(problem.input.shape[2:]), problem.kernel,
            list(problem.dilation), list(problem.padding), list(problem.stride),
        )  # fmt: skip
        problem.in_format(of_input)
    if not needs[1]:
        return kernels
    columns, product = problem.columns(), torch.empty_like(kernels)
    torch.bmm(source, columns.mT, out=product.view(blocks, rows, wide))
    return product


def _as_matrices(tensor: Tensor) -> Tensor:
    """(B, O, ...) as (B, O, pixels), a view in both memory formats."""
    if memory_format_of(tensor) is torch.contiguous_format:
        tensor = tensor.contiguous()
    return tensor.flatten(2)


def _loop_gradients(problem: _Problem, grad: Tensor, kernels: Tensor, needs: tuple[bool, bool]) -> Tensor:
    samples = range(problem.samples)
    each = [
        problem.gradients(grad[b : b + 1], problem.input[b : b + 1], kernels[b], problem.groups, needs) for b in samples
    ]
    if needs[0]:
        problem.in_format(torch.cat([found[0] for found in each]))
    return torch.cat([found[1] for found in each]).view(kernels.shape) if needs[1] else kernels


COMPOSITIONS: dict[str, Callable[..., None]] = {
    "crossd_ops.convolution": _convolution,
    "crossd_ops.convolution_backward": _convolution_backward,
}

"""A convolution as csrc/convolution/problem.h has it, and the way that the library chooses for it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from benchmarks.gpu.prediction.compositions.stand_ins import own, tap_major
from crossd_ops.operators.convolution import parts_of
from crossd_ops.operators.torch_convolution import memory_format_of
from crossd_ops.tuning import choice

_MOST_OF_CHUNK = 1 << 26  # csrc/convolution/problem.h
_operators: Any = torch.ops.crossd_ops


class Problem:
    """csrc/convolution/problem.h; without a shift the weight holds the kernels of each sample."""

    def __init__(self, input: Tensor, weight: Tensor, shift: Tensor | None, place: Sequence[int]) -> None:
        self.input, self.weight, self.place = input, weight, place
        self.axes, self.samples, self.format = input.dim() - 2, len(input), memory_format_of(input)
        kernel = list(weight.shape[2:] if shift is not None else weight.shape[3:])
        self.stride, self.padding, self.dilation, self.groups, self.dim, self.index = parts_of(place, kernel, self.axes)
        if shift is not None:
            shift = shift.to(torch.float64 if weight.dtype is torch.float64 else torch.float32)
            if self.index is not None:
                del kernel[self.dim]
        self.shift, self.kernel, self.in_channels = shift, kernel, input.shape[1] // self.groups
        self.out_channels = weight.shape[0 if shift is not None else 1]
        self.result = [
            (size + 2 * pad - rate * (side - 1) - 1) // step + 1
            for size, side, step, pad, rate in zip(
                input.shape[2:], kernel, self.stride, self.padding, self.dilation, strict=True
            )
        ]

    def kernels(self, in_taps: bool, with_values: bool = True) -> Tensor:
        """in_taps: tap-major."""
        if not with_values:
            sizes = [self.samples, self.out_channels, self.in_channels, *self.kernel]
            return tap_major(self.input, sizes) if in_taps else self.input.new_empty(sizes)
        build = own.tap_major_kernels if in_taps else _operators.fourier_shift
        built: Tensor = build(self.weight, self.shift, self.dim, self.index, self.input.dtype)
        return built

    def method(self, backward: bool, need_input: bool = True) -> str:
        """The library's own choice."""
        with _disable_current_modes():  # it looks at sizes and strides alone
            given = [
                None if one is None else torch.empty_strided(one.shape, one.stride(), dtype=one.dtype, device="meta")
                for one in (self.input, self.weight, self.shift)
            ]
            return choice.explain(
                *given,  # type: ignore[arg-type]
                self.place,
                backward=backward,
                on_gpu=True,
                need_input=need_input,
            ).method

    @property
    def of_sample(self) -> int:
        """Elements of a sample's columns."""
        return self.input.shape[1] * math.prod(self.kernel) * math.prod(self.result)

    @property
    def chunk(self) -> int:
        return min(max(_MOST_OF_CHUNK // max(1, self.of_sample), 1), self.samples)

    @property
    def columns_are_the_image(self) -> bool:
        return math.prod(self.kernel) == 1 and {*self.stride} == {1} and not any(self.padding)

    def convolve(self, input: Tensor, kernels: Tensor, bias: Tensor | None, groups: int) -> Tensor:
        return torch.ops.aten.convolution(input, kernels, bias, *self._numbers(groups))  # type: ignore[no-any-return]

    def gradients(self, grad: Tensor, input: Tensor, kernels: Tensor, groups: int, needs: Sequence[bool]) -> Any:
        mask = [*needs, False]
        return torch.ops.aten.convolution_backward(grad, input, kernels, None, *self._numbers(groups), mask)

    def _numbers(self, groups: int) -> tuple[Any, ...]:
        numbers = [*self.stride], [*self.padding], [*self.dilation]
        return *numbers, False, [0] * self.axes, groups

    def columns(self, input: Tensor) -> Tensor:
        """Of some samples: one matrix for each group of each."""
        if self.columns_are_the_image:
            return as_matrices(input, self.groups)
        wide = self.in_channels * math.prod(self.kernel)
        sizes = [len(input) * self.groups, wide, math.prod(self.result)]
        found: Tensor = own.image_to_columns(input, sizes, False)
        return found

    def chunks(self) -> list[slice]:
        return [slice(first, first + self.chunk) for first in range(0, self.samples, self.chunk)]

    def blocks(self, chunk: slice) -> slice:
        return slice(chunk.start * self.groups, chunk.stop * self.groups)

    def in_format(self, tensor: Tensor, format: torch.memory_format | None = None) -> Tensor:
        """(B, C, ...) in this layout, or in that of the input: the tensor itself, or a copy."""
        format = format or self.format
        if tensor.is_contiguous(memory_format=format):
            return tensor
        return torch.empty(tensor.shape, dtype=tensor.dtype, memory_format=format).copy_(tensor)


def as_matrices(tensor: Tensor, groups: int) -> Tensor:
    """(B, O, ...) as (B * groups, O / groups, pixels), a view in both memory formats but of groups."""
    if groups > 1 or memory_format_of(tensor) is torch.contiguous_format:
        tensor = tensor.contiguous()
    return tensor.flatten(2).reshape(len(tensor) * groups, tensor.shape[1] // groups, -1)

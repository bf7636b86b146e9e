"""What operators of crossd_ops call inside of the library on a GPU, in torch's words.

A recorder cannot look into the library, and the library cannot run on fakes. So this repeats csrc/convolution: the
operators of the way that the library chooses, with the same sizes and strides. A test holds both together, by what the
library itself dispatches on the CPU with CROSSD_CONVOLUTION_BRANCH=gpu.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from crossd_ops.operators.convolution import parts_of
from crossd_ops.operators.torch_convolution import memory_format_of
from crossd_ops.tuning import choice

_MOST_OF_CHUNK = 1 << 26  # csrc/convolution/problem.h
_operators: Any = torch.ops.crossd_ops

# The kernels of csrc/convolution/cuda, and the shift's to another layout, which are no operators of the library: names
# for a recorder.
_stand_ins = torch.library.Library("crossd_prediction", "DEF")
_stand_ins.define("tap_major_kernels(Tensor weight, Tensor shift, int dim, int? index, ScalarType dtype) -> Tensor")
_stand_ins.impl("tap_major_kernels", lambda *call: _operators.fourier_shift(*call), "Meta")
_stand_ins.define("convolve_tiles(Tensor input, Tensor kernels, Tensor? bias, int[] sizes, int groups) -> Tensor")
_stand_ins.impl("convolve_tiles", lambda input, kernels, bias, sizes, groups: _empty(input, sizes, True), "Meta")
_NUMBERS = "int[] stride, int[] padding, int[] dilation, int groups"
_stand_ins.define(f"tiles_input_gradient(Tensor grad, Tensor kernels, int[] sizes, {_NUMBERS}) -> Tensor")
_stand_ins.impl("tiles_input_gradient", lambda grad, kernels, sizes, *numbers: _empty(grad, sizes, True), "Meta")
_stand_ins.define(f"tiles_kernels_gradient(Tensor grad, Tensor input, int[] sizes, {_NUMBERS}) -> Tensor")
_stand_ins.impl("tiles_kernels_gradient", lambda grad, input, sizes, *numbers: _tap_major(grad, sizes), "Meta")
for _name in ("image_to_columns", "columns_to_image"):
    _stand_ins.define(f"{_name}(Tensor input, int[] sizes, bool channels_last) -> Tensor")
    _stand_ins.impl(_name, lambda input, sizes, channels_last: _empty(input, sizes, channels_last), "Meta")
_own: Any = torch.ops.crossd_prediction


def _empty(input: Tensor, sizes: Sequence[int], channels_last: bool) -> Tensor:
    result = input.new_empty(sizes)
    return result.movedim(1, -1).contiguous().movedim(-1, 1) if channels_last else result


def _tap_major(like: Tensor, sizes: Sequence[int]) -> Tensor:
    """Kernels (B, O, C, Kh, Kw) that lie as (B, Kh, Kw, O, C)."""
    samples, rows, channels, *kernel = sizes
    return like.new_empty(samples, *kernel, rows, channels).permute(0, 3, 4, 1, 2)


class _Problem:
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
        self.result = [
            (size + 2 * pad - rate * (side - 1) - 1) // step + 1
            for size, side, step, pad, rate in zip(
                input.shape[2:], kernel, self.stride, self.padding, self.dilation, strict=True
            )
        ]

    def kernels(self, tap_major: bool = False) -> Tensor:
        build = _own.tap_major_kernels if tap_major else _operators.fourier_shift
        built: Tensor = build(self.weight, self.shift, self.dim, self.index, self.input.dtype)
        return built

    def method(self, backward: bool) -> str:
        """The library's own choice."""
        with _disable_current_modes():  # it looks at sizes and strides alone
            given = [
                None if one is None else torch.empty_strided(one.shape, one.stride(), dtype=one.dtype, device="meta")
                for one in (self.input, self.weight, self.shift)
            ]
            return choice.explain(*given, self.place, backward=backward, on_gpu=True).method  # type: ignore[arg-type]

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
            return _as_matrices(input, self.groups)
        wide = self.in_channels * math.prod(self.kernel)
        sizes = [len(input) * self.groups, wide, math.prod(self.result)]
        found: Tensor = _own.image_to_columns(input, sizes, False)
        return found

    def chunks(self) -> list[slice]:
        return [slice(first, first + self.chunk) for first in range(0, self.samples, self.chunk)]

    def blocks(self, chunk: slice) -> slice:
        return slice(chunk.start * self.groups, chunk.stop * self.groups)

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
    method = problem.method(backward=False)
    _convolve(problem, method, problem.kernels(tap_major=method == "tiles"), bias)


def _sample_convolution(input: Tensor, weight: Tensor, bias: Tensor | None, place: Sequence[int]) -> None:
    problem = _Problem(input, weight, None, place)
    method, kernels = problem.method(backward=False), weight.contiguous()
    if method == "tiles":
        kernels = _tap_major(kernels, kernels.shape).copy_(kernels)
    _convolve(problem, method, kernels, bias)


def _convolve(problem: _Problem, method: str, kernels: Tensor, bias: Tensor | None) -> None:
    input, samples, groups = problem.input, problem.samples, problem.groups
    if method == "matrix":
        output = _multiply(problem, kernels, bias)
    elif method == "tiles":
        output = _own.convolve_tiles(input, kernels, bias, [samples, kernels.shape[1], *problem.result], groups)
    elif samples == 1:
        output = problem.convolve(input, kernels[0], bias, groups)
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
    w = kernels.view(problem.samples * problem.groups, kernels.shape[1] // problem.groups, -1)
    pixels = math.prod(problem.result)
    transposed = problem.format is not torch.contiguous_format and problem.groups == 1
    products = w.new_empty(len(w), pixels, w.shape[1]) if transposed else w.new_empty(len(w), w.shape[1], pixels)
    for chunk in problem.chunks():
        columns, blocks = problem.columns(problem.input[chunk]), problem.blocks(chunk)
        if transposed:
            torch.bmm(columns.mT, w[blocks].mT, out=products[blocks])
        else:
            torch.bmm(w[blocks], columns, out=products[blocks])
        del columns  # before there are those of the next chunk
    if transposed:
        result = products.mT.unflatten(2, problem.result)
    else:
        result = products.view(problem.samples, -1, *problem.result)
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
    needs, method = (need_input, need_weight or need_shift), problem.method(backward=True)
    grad_kernels = _gradients(problem, method, grad, problem.kernels(tap_major=method == "tiles"), needs)
    if needs[1]:
        _operators.fourier_shift_backward(
            grad_kernels, weight, problem.shift, problem.dim, problem.index, need_weight, need_shift
        )


def _sample_convolution_backward(
    grad: Tensor, input: Tensor, weight: Tensor, place: Sequence[int], need_input: bool, need_weight: bool
) -> None:
    if need_input or need_weight:
        problem = _Problem(input, weight, None, place)
        method, kernels = problem.method(backward=True), weight.contiguous()
        if method == "tiles":
            kernels = _tap_major(kernels, kernels.shape).copy_(kernels)
        _gradients(problem, method, grad, kernels, (need_input, need_weight)).contiguous()


def _gradients(problem: _Problem, method: str, grad: Tensor, kernels: Tensor, needs: tuple[bool, bool]) -> Tensor:
    """Of input and kernels; returns that of the kernels."""
    if method == "matrix":
        return _matrix_gradients(problem, grad, kernels, needs)
    if method == "tiles":
        return _tiles_gradients(problem, grad, kernels, needs)
    groups = problem.samples * problem.groups
    stacked = _stack_samples(grad), _stack_samples(problem.input), kernels.flatten(0, 1)
    found = problem.gradients(*stacked, groups, needs)
    if needs[0]:
        problem.in_format(found[0].contiguous().view(problem.input.shape))
    return found[1].view(kernels.shape) if needs[1] else kernels


def _matrix_gradients(problem: _Problem, grad: Tensor, kernels: Tensor, needs: tuple[bool, bool]) -> Tensor:
    w = kernels.view(problem.samples * problem.groups, kernels.shape[1] // problem.groups, -1)
    source, product = _as_matrices(grad, problem.groups), torch.empty_like(kernels)
    channels_last = problem.format is not torch.contiguous_format and problem.groups == 1
    images = []  # which are parts of one
    for chunk in problem.chunks():
        blocks, image = problem.blocks(chunk), problem.input[chunk]
        if needs[0]:
            of_columns = grad.new_empty(len(w[blocks]), w.shape[2], source.shape[2])
            torch.bmm(w[blocks].mT, source[blocks], out=of_columns)
            if not problem.columns_are_the_image:
                images.append(_own.columns_to_image(of_columns, image.shape, channels_last))
                problem.in_format(images[-1])
            del of_columns
        if needs[1]:
            torch.bmm(source[blocks], problem.columns(image).mT, out=product.view(w.shape)[blocks])
    return product if needs[1] else kernels


def _tiles_gradients(problem: _Problem, grad: Tensor, kernels: Tensor, needs: tuple[bool, bool]) -> Tensor:
    numbers = [*problem.stride], [*problem.padding], [*problem.dilation], problem.groups
    if memory_format_of(grad) is torch.contiguous_format:
        grad = grad.contiguous(memory_format=torch.channels_last)
    if needs[0]:
        problem.in_format(_own.tiles_input_gradient(grad, kernels, problem.input.shape, *numbers))
    if not needs[1]:
        return kernels
    of_kernels: Tensor = _own.tiles_kernels_gradient(grad, problem.input, kernels.shape, *numbers)
    return of_kernels


def _as_matrices(tensor: Tensor, groups: int) -> Tensor:
    """(B, O, ...) as (B * groups, O / groups, pixels), a view in both memory formats but of groups."""
    if groups > 1 or memory_format_of(tensor) is torch.contiguous_format:
        tensor = tensor.contiguous()
    return tensor.flatten(2).reshape(len(tensor) * groups, tensor.shape[1] // groups, -1)


COMPOSITIONS: dict[str, Callable[..., None]] = {
    "crossd_ops.convolution": _convolution,
    "crossd_ops.convolution_backward": _convolution_backward,
    "crossd_ops.sample_convolution": _sample_convolution,
    "crossd_ops.sample_convolution_backward": _sample_convolution_backward,
}

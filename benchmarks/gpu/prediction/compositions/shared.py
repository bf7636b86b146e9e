"""The method that takes the weight as it is: csrc/convolution/methods/shared_columns.h."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks.gpu.prediction.compositions.problem import Problem
from benchmarks.gpu.prediction.compositions.stand_ins import own

_MOST_ELEMENTS = 1 << 26  # of columns that exist at the same time
_TASKS = 1024  # csrc/convolution/shifted_columns/problem.h


class _Part(NamedTuple):
    """Whole samples, or rows of one sample's pixels."""

    sample: int
    samples: int
    first: int
    rows: int


class _Shared:
    def __init__(self, problem: Problem) -> None:
        self.problem, input = problem, problem.input
        self.format = torch.channels_last if problem.axes == 2 else torch.channels_last_3d
        self.image = input if input.stride(1) == 1 else problem.in_format(input, self.format)
        computed = torch.float64 if input.dtype is torch.float64 else torch.float32
        assert problem.shift is not None
        self.shift = problem.shift.to(computed)
        self.channels, self.pixels = input.shape[1], math.prod(problem.result)
        self.weight = self._in_order_of_columns()
        self.rows = problem.samples * self.pixels
        self.columns = input.new_empty(self.most_rows * self.wide)

    @property
    def elements(self) -> int:
        """Of the weight, of a pair of channels."""
        return math.prod(self.problem.weight.shape[2:])

    @property
    def wide(self) -> int:
        return self.channels * self.elements

    @property
    def most_rows(self) -> int:
        return min(max(_MOST_ELEMENTS // self.wide, 1), self.rows)

    def parts(self) -> Iterator[_Part]:
        samples = self.most_rows // self.pixels
        for sample in range(0, self.problem.samples, max(samples, 1)):
            if samples > 0:
                count = min(samples, self.problem.samples - sample)
                yield _Part(sample, count, 0, count * self.pixels)
                continue
            for first in range(0, self.pixels, self.most_rows):
                yield _Part(sample, 1, first, min(self.most_rows, self.pixels - first))

    def behind(self, weight: Tensor) -> Tensor:
        """(O, C / groups, ...) as (groups, O / groups, elements, C / groups), a view."""
        groups = self.problem.groups
        return weight.view(groups, len(weight) // groups, weight.shape[1], self.elements).mT

    def _in_order_of_columns(self) -> Tensor:
        weight = self.behind(self.problem.weight.contiguous())
        return self.image.new_empty(weight.shape).copy_(weight).flatten(2)

    def of_groups(self, part: _Part) -> Tensor:
        """The columns as matrices of groups."""
        return self.columns[: part.rows * self.wide].view(part.rows, self.problem.groups, -1).transpose(0, 1)

    def rows_of(self, result: Tensor, part: _Part) -> Tensor:
        """Of a channels-last result, as matrices of groups."""
        rows = result.movedim(1, -1).reshape(self.rows, self.problem.groups, -1).transpose(0, 1)
        first = part.sample * self.pixels + part.first
        return rows[:, first : first + part.rows]

    @property
    def goes_by_convolution(self) -> bool:
        return self.image.dtype is torch.float32

    @property
    def numbers(self) -> tuple[Any, ...]:
        """Of the 1x1 convolution of rows."""
        return [1, 1], [0, 0], [1, 1], False, [0, 0], self.problem.groups

    @property
    def pointwise_weight(self) -> Tensor:
        _, _, wide = self.weight.shape
        return self.weight.as_strided((len(self.problem.weight), wide, 1, 1), (wide, 1, wide, wide))

    def image_of_columns(self, part: _Part) -> Tensor:
        return _image_of_rows(self.columns[: part.rows * self.wide].view(part.rows, -1), part)

    def image_of_result(self, result: Tensor, part: _Part) -> Tensor:
        """Of a channels-last result."""
        first = part.sample * self.pixels + part.first
        return _image_of_rows(result.movedim(1, -1).reshape(self.rows, -1)[first : first + part.rows], part)

    def sizes(self) -> tuple[Any, ...]:
        """Along three axes, of which images have a depth of 1."""
        problem, missing = self.problem, 3 - self.problem.axes
        sizes = [[1] * missing + [*one] for one in (problem.kernel, problem.result, problem.stride)]
        padding, dilation = [0] * missing + [*problem.padding], [1] * missing + [*problem.dilation]
        return [*problem.weight.shape[2:]], *sizes, padding, dilation, problem.groups

    def make(self, part: _Part) -> None:
        samples = slice(part.sample, part.sample + part.samples)
        columns = self.columns[: part.rows * self.wide]
        own.image_to_shifted_columns(self.image[samples], self.shift[samples], columns, *self.sizes())

    @property
    def partials(self) -> int:
        """Parts of a sample, each with sums of the shift's gradient."""
        pairs = self.image.element_size() == 2 and self.channels // self.problem.groups % 2 == 0
        of_part = max(_TASKS // max(self.channels // (2 if pairs else 1), 1), 1)
        return math.ceil(self.pixels / of_part)


def _image_of_rows(rows: Tensor, part: _Part) -> Tensor:
    """(samples, channels, pixels, 1), channels-last."""
    channels, pixels = rows.shape[1], part.rows // part.samples
    strides = pixels * channels, 1, channels, channels
    return rows.as_strided((part.samples, channels, pixels, 1), strides, rows.storage_offset())


def convolve(problem: Problem, bias: Tensor | None) -> None:
    of = _Shared(problem)
    sizes = problem.samples, len(problem.weight), *problem.result
    result: Tensor | None = None
    for part in of.parts():
        of.make(part)
        if of.goes_by_convolution:
            y = torch.ops.aten.convolution(of.image_of_columns(part), of.pointwise_weight, None, *of.numbers)
            if part.rows == of.rows:
                result = y[..., 0].unflatten(2, problem.result)
                continue
        if result is None:
            result = torch.empty(sizes, dtype=problem.input.dtype, memory_format=of.format)
        if of.goes_by_convolution:
            of.image_of_result(result, part).copy_(y)
        else:
            torch.bmm(of.of_groups(part), of.weight.mT, out=of.rows_of(result, part))
    assert result is not None
    problem.in_format(result if bias is None else result - bias.view(-1, *[1] * problem.axes))


def gradients(problem: Problem, grad: Tensor, need_input: bool, need_weight: bool, need_shift: bool) -> None:
    of = _Shared(problem)
    grad = problem.in_format(grad, of.format)
    image = torch.empty_like(of.image, memory_format=of.format) if need_input else None
    of_weight = of_shift = None
    for part in of.parts():
        rows, columns = of.rows_of(grad, part), of.columns[: part.rows * of.wide]
        if of.goes_by_convolution:
            columns, product = _convolution_gradients(of, part, grad, need_input or need_shift, need_weight)
        elif need_input or need_shift:
            torch.bmm(rows, of.weight, out=of.of_groups(part))
        if need_input or need_shift:
            found = _take_back(of, part, columns, image, need_shift)
            of_shift = _of_all_samples(of, part, of_shift, found) if found is not None else None
        if need_weight:
            if not of.goes_by_convolution:
                of.make(part)
                product = torch.bmm(rows.mT, of.of_groups(part), out=torch.empty_like(of.weight))
            if of_weight is None:
                of_weight = product if part.rows == of.rows else product.to(of.shift.dtype)
            else:
                of_weight = of_weight - product
    if image is not None:
        problem.in_format(image)
    if of_weight is not None:
        of.behind(torch.empty_like(problem.weight, memory_format=torch.contiguous_format)).copy_(
            of_weight.view(of.behind(problem.weight.contiguous()).shape)
        )


def _convolution_gradients(
    of: _Shared, part: _Part, grad: Tensor, need_columns: bool, need_weight: bool
) -> tuple[Tensor, Tensor]:
    """Of the columns and of the weight."""
    if need_weight:
        of.make(part)
    images = of.image_of_result(grad, part), of.image_of_columns(part), of.pointwise_weight
    found = torch.ops.aten.convolution_backward(*images, None, *of.numbers, [need_columns, need_weight, False])
    return found[0], found[1]


def _take_back(of: _Shared, part: _Part, columns: Tensor, image: Tensor | None, need_shift: bool) -> Tensor | None:
    """From the columns' gradient those of the image and of these samples' shift."""
    problem, samples = of.problem, slice(part.sample, part.sample + part.samples)
    seen = partial = None
    if image is not None:
        seen = of.image.new_empty(part.rows, math.prod(problem.kernel), of.channels)
    if need_shift:
        partial = of.shift.new_empty(of.partials, part.samples, 3)
    own.shifted_columns_gradient(columns, of.image[samples], of.shift[samples], seen, partial, *of.sizes())
    if image is not None:
        own.seen_to_image(seen, image[samples], *of.sizes())
    return None if partial is None else partial.sum(0)


def _of_all_samples(of: _Shared, part: _Part, of_shift: Tensor | None, found: Tensor) -> Tensor:
    if part.rows == of.rows:
        return found
    of_shift = of.shift.new_zeros(of.shift.shape) if of_shift is None else of_shift
    target = of_shift[part.sample : part.sample + part.samples]
    target.copy_(target - found)
    return of_shift

"""Channels that are no whole vectors, in tiles: csrc/convolution/padding."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from benchmarks.gpu.prediction.compositions.problem import Problem
from benchmarks.gpu.prediction.compositions.stand_ins import own, tap_major

_VECTOR_BYTES = 16


def in_whole(count: int, vector: int) -> int:
    return math.ceil(count / vector) * vector


def is_padded(problem: Problem) -> bool:
    """Whether tiles take this problem with zeros among its channels."""
    vector = _VECTOR_BYTES // problem.input.element_size()
    whole = problem.in_channels % vector == 0 and problem.out_channels % vector == 0
    return problem.axes == 2 and problem.groups == 1 and not whole


def _folded_pixels(problem: Problem, vector: int) -> int:
    fold = 1
    if problem.dilation[1] > 1 or problem.padding[1] > problem.input.shape[3]:
        return fold
    while problem.in_channels * fold * 2 <= vector and problem.stride[1] % (fold * 2) == 0:
        fold *= 2
    return fold


class Padding:
    """The tensors of a padded problem: zeros, and copies into them and back."""

    def __init__(self, problem: Problem) -> None:
        vector = _VECTOR_BYTES // problem.input.element_size()
        self.problem, self.fold = problem, _folded_pixels(problem, vector)
        self.channels, self.rows = in_whole(problem.in_channels, vector), in_whole(problem.out_channels, vector)
        self.image_sizes, self.kernel = [*problem.input.shape[2:]], [*problem.kernel]
        stride, padding = [*problem.stride], [*problem.padding]
        if self.fold > 1:
            self.kernel[1] = math.ceil(self.kernel[1] / self.fold)
            stride[1] //= self.fold
            padding[1] = 0
            self.image_sizes[1] = (problem.result[1] - 1) * stride[1] + self.kernel[1]
        self.numbers = stride, padding, [*problem.dilation], 1

    def _zeros(self, like: Tensor, channels: int, sizes: list[int]) -> Tensor:
        """Channels-last."""
        return like.new_zeros(len(like), *sizes, channels).movedim(-1, 1)

    def _pixels(self, padded: Tensor) -> Tensor:
        """Those of the image that it has, without zeros: as long as they are, at the place of the first ones."""
        width = self.image_sizes[1] * self.fold
        row = padded.permute(0, 2, 3, 1).reshape(len(padded), self.image_sizes[0], width, -1)
        return row[:, :, : min(self._width, width), : self.problem.in_channels].permute(0, 3, 1, 2)

    @property
    def _width(self) -> int:
        left = self.problem.padding[1] if self.fold > 1 else 0
        return min(self.problem.input.shape[3], self.fold * self.image_sizes[1] - left)

    def image(self) -> Tensor:
        image = self._zeros(self.problem.input, self.channels, self.image_sizes)
        self._pixels(image).copy_(self.problem.input[..., : self._width])
        return image

    def image_gradient(self, grad: Tensor) -> Tensor:
        input = self.problem.input
        if self._width == input.shape[3]:
            result = torch.empty_like(input, memory_format=self.problem.format)
        else:  # no tap sees the last pixels
            result = self._zeros(grad, input.shape[1], [*input.shape[2:]])
        result[..., : self._width].copy_(self._pixels(grad))
        return result

    def _taps(self, padded: Tensor, part: int) -> Tensor:
        problem, channels = self.problem, self.channels // self.fold
        taps = math.ceil((problem.kernel[1] - part) / self.fold)
        first = part * channels
        return padded[:, : problem.out_channels, first : first + problem.in_channels, :, :taps]

    def kernels(self, given: Tensor) -> Tensor:
        memory = given.new_zeros(len(given), *self.kernel, self.rows, self.channels)
        kernels = memory.permute(0, 3, 4, 1, 2)
        for part in range(self.fold):
            self._taps(kernels, part).copy_(given[..., part :: self.fold])
        return kernels

    def new_kernels(self, given: Tensor) -> Tensor:
        return tap_major(given, self.kernel_sizes)

    @property
    def kernel_sizes(self) -> list[int]:
        return [self.problem.samples, self.rows, self.channels, *self.kernel]

    def kernels_gradient(self, grad: Tensor, given: Tensor) -> Tensor:
        result = grad.new_empty(given.shape)
        for part in range(self.fold):
            result[..., part :: self.fold].copy_(self._taps(grad, part))
        return result

    def bias(self, given: Tensor | None) -> Tensor | None:
        if given is None or self.rows == self.problem.out_channels:
            return given
        bias = given.new_zeros(self.rows)
        bias[: len(given)].copy_(given)
        return bias

    def result_gradient(self, grad: Tensor) -> Tensor:
        if self.rows == self.problem.out_channels:
            return grad
        padded = self._zeros(grad, self.rows, [*self.problem.result])
        padded[:, : self.problem.out_channels].copy_(grad)
        return padded

    def convolve(self, kernels: Tensor, bias: Tensor | None) -> Tensor:
        sizes = [self.problem.samples, self.rows, *self.problem.result]
        output: Tensor = own.convolve_tiles(self.image(), self.kernels(kernels), self.bias(bias), sizes, 1)
        return output[:, : self.problem.out_channels]

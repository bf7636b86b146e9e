"""Ways to convolve each sample with its own kernels, over ResNet-18's layers: the table of csrc/convolution_problem.h.

python -m benchmarks.convolution_methods [--batch 4] [--repeat 9]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

# in channels, out channels, kernel size, stride, size of the input
LAYERS = [(3, 64, 7, 2, 224), (64, 64, 3, 1, 56), (128, 128, 3, 1, 28), (256, 256, 3, 1, 14), (512, 512, 3, 1, 7)]
METHODS = ("plain", "grouped", "loop", "matrix")


@dataclass(frozen=True)
class Problem:
    """One layer: kernels (B, O, C, K, K) of each sample; "plain" uses those of the first for all."""

    input: Tensor
    kernels: Tensor
    stride: int
    need_input: bool = True  # images have no gradient

    @property
    def padding(self) -> int:
        return self.kernels.shape[-1] // 2

    def forward(self, method: str) -> Tensor:
        """(B, O, H', W')"""
        samples, out_channels, _, size, _ = self.kernels.shape
        if method == "plain":
            return F.conv2d(self.input, self.kernels[0], None, self.stride, self.padding)
        if method == "loop":
            rows = zip(self.input.split(1), self.kernels, strict=True)
            return torch.cat([F.conv2d(row, kernel, None, self.stride, self.padding) for row, kernel in rows])
        if method == "matrix":
            output = self.kernels.flatten(2) @ self._columns()
            side = (self.input.shape[-1] + 2 * self.padding - size) // self.stride + 1
            return output.unflatten(2, (-1, side))
        stacked = self.input.reshape(1, -1, *self.input.shape[2:])
        output = F.conv2d(stacked, self.kernels.flatten(0, 1), None, self.stride, self.padding, 1, samples)
        return output.unflatten(1, (samples, out_channels))[0]

    def backward(self, method: str, grad: Tensor) -> object:
        """Gradients of input and kernels."""
        samples = len(self.kernels)
        if method == "plain":
            return self._library(grad, self.input, self.kernels[0], 1)
        if method == "loop":
            rows = zip(grad.split(1), self.input.split(1), self.kernels, strict=True)
            inputs, kernels = zip(*(self._library(*row, 1)[:2] for row in rows), strict=True)
            return torch.cat(inputs) if self.need_input else None, torch.stack(kernels)
        if method == "matrix":
            rows = grad.flatten(2)
            if self.need_input:
                columns, image = self.kernels.flatten(2).mT @ rows, self.input.shape[2:]
                F.fold(columns, image, self.kernels.shape[3:], 1, self.padding, self.stride)
            return rows @ self._columns().mT
        stacked, stacked_grad = self.input.reshape(1, -1, *self.input.shape[2:]), grad.reshape(1, -1, *grad.shape[2:])
        return self._library(stacked_grad, stacked, self.kernels.flatten(0, 1), samples)

    def _columns(self) -> Tensor:
        return F.unfold(self.input, self.kernels.shape[3:], 1, self.padding, self.stride)

    def _library(self, grad: Tensor, input: Tensor, kernels: Tensor, groups: int) -> Any:
        numbers = [self.stride] * 2, [self.padding] * 2, [1, 1], False, [0, 0], groups
        return torch.ops.aten.convolution_backward(grad, input, kernels, None, *numbers, [self.need_input, True, False])


def make_problem(
    layer: tuple[int, int, int, int, int],
    batch: int,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Problem:
    """Random numbers for one of `LAYERS`."""
    in_channels, out_channels, size, stride, pixels = layer
    input = torch.randn(batch, in_channels, pixels, pixels, device=device).to(dtype)
    kernels = torch.randn(batch, out_channels, in_channels, size, size, device=device).to(dtype)
    return Problem(input, kernels, stride, need_input=in_channels > 3)


def milliseconds(call: Callable[[], object], repeat: int) -> float:
    """Median time of a call on the CPU, after one to warm up."""
    times = []
    for _ in range(repeat + 1):
        start = time.perf_counter()
        call()
        times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times[1:])


def measure(layer: tuple[int, int, int, int, int], batch: int, repeat: int) -> dict[str, tuple[float, float]]:
    """Forward and backward time of each method."""
    problem = make_problem(layer, batch)
    grad = torch.randn_like(problem.forward("plain"))
    times = {}
    for name in METHODS:
        times[name] = (
            milliseconds(lambda name=name: problem.forward(name), repeat),
            milliseconds(lambda name=name: problem.backward(name, grad), repeat),
        )
    return times


def main(arguments: list[str] | None = None) -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.convolution_methods", description="Time the methods.")
    parser.add_argument("--batch", type=int, default=4, help="samples (default: 4)")
    parser.add_argument("--repeat", type=int, default=9, help="calls that the median is of (default: 9)")
    options = parser.parse_args(arguments)
    if options.batch < 1 or options.repeat < 1:
        parser.error(f"--batch, --repeat: expected at least 1, got {options.batch}, {options.repeat}")
    rows = [(layer, measure(layer, options.batch, options.repeat)) for layer in tqdm(LAYERS, desc="layers")]
    print("".join(f"{text:>20}" for text in ("layer", *METHODS)) + "   (ms forward, backward)")
    for (in_channels, out_channels, size, _, pixels), times in rows:
        cells = (f"{forward:.1f} {backward:.1f}" for forward, backward in times.values())
        print("".join(f"{text:>20}" for text in (f"{in_channels}->{out_channels} {size}x{size} @{pixels}", *cells)))


if __name__ == "__main__":
    main()

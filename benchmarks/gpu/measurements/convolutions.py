"""The methods of convolving each sample with its own kernels, on the GPU: what the choice among them rests on."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.convolution_methods import LAYERS, Layer
from benchmarks.gpu.measurements.measure import in_layout_of, network_layout
from benchmarks.gpu.parts import Settings
from benchmarks.timing import cudnn_benchmark, measure_in_turns

METHODS = ("plain", "grouped", "loop", "matrix")
_BATCHES = (4, 32)
_DRY_RUN_LAYERS: list[Layer] = [(3, 4, 3, 2, 9), (4, 6, 3, 1, 5)]
_RESERVE = 0.1  # of the part's time, which the last row needs to come to its end


def convolutions(settings: Settings) -> dict[str, Any]:
    """One row for each layer, type and batch, with and without cuDNN's choice by measurement: seconds of every method.

    The rows for which there was no time are named.
    """
    deadline = time.monotonic() + settings.seconds * (1 - _RESERVE)
    rows: list[dict[str, Any]] = []
    left_out: list[str] = []
    for benchmark, problem in itertools.product((False, True), problems(settings.dry_run)):
        if time.monotonic() > deadline:
            left_out.append(" ".join(map(str, [*problem, *(["cudnn.benchmark"] if benchmark else [])])))
            continue
        with cudnn_benchmark(benchmark):
            rows.append({**_measure_layer(*problem, settings), "cudnn_benchmark": benchmark})
        settings.save({"rows": rows, "left_out": left_out})
    return {"rows": rows, "left_out": left_out}


def problems(dry_run: bool) -> list[tuple[Layer, torch.dtype, int]]:
    """Layer, type and batch of the rows."""
    layers, batches = (_DRY_RUN_LAYERS, (2,)) if dry_run else (LAYERS, _BATCHES)
    return [*itertools.product(layers, (torch.float32, torch.bfloat16), batches)]


def row_of(layer: Layer, dtype: torch.dtype, batch: int) -> dict[str, Any]:
    """What names a row."""
    in_channels, out_channels, size, _, pixels = layer
    name = f"{in_channels}->{out_channels} {size}x{size} @{pixels}"
    return {"layer": name, "batch": batch, "dtype": str(dtype).removeprefix("torch.")}


def _measure_layer(layer: Layer, dtype: torch.dtype, batch: int, settings: Settings) -> dict[str, Any]:
    device = torch.device(settings.device)
    problem = make_problem(layer, batch, dtype, device)
    values = torch.randn_like(problem.forward("plain"))
    candidates: dict[str, Callable[[], object]] = {}
    for method in METHODS:
        candidates[f"{method} forward"] = partial(problem.forward, method)
        candidates[f"{method} backward"] = partial(
            problem.backward, method, in_layout_of(problem.forward(method), values)
        )
    rounds, seconds = (1, 0.0) if settings.dry_run else (3, 0.5)
    timings = measure_in_turns(candidates, device, rounds=rounds, seconds_budget=seconds, seconds_per_turn=0.01)
    return {
        **row_of(layer, dtype, batch),
        "seconds": {name: timing.median for name, timing in timings.items()},
        "host_bound": [name for name, timing in timings.items() if timing.host_bound],
    }


@dataclass(frozen=True)
class Problem:
    """One layer: kernels (B, O, C, K, K) of each sample, and (O, C, K, K) for all of them, which "plain" uses."""

    input: Tensor
    kernels: Tensor
    plain_kernels: Tensor
    stride: int
    need_input: bool = True  # images have no gradient

    @property
    def padding(self) -> int:
        return self.kernels.shape[-1] // 2

    def forward(self, method: str) -> Tensor:
        """(B, O, H', W')"""
        samples, out_channels, _, size, _ = self.kernels.shape
        if method == "plain":
            return F.conv2d(self.input, self.plain_kernels, None, self.stride, self.padding)
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
            return self._library(grad, self.input, self.plain_kernels, 1)
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
        """(B, C K K, pixels), by a copy of a view: torch's im2col launches a kernel for every sample."""
        size = self.kernels.shape[-1]
        padded = F.pad(self.input, [self.padding] * 4)
        windows = padded.unfold(2, size, self.stride).unfold(3, size, self.stride)  # (B, C, H', W', K, K)
        return windows.permute(0, 1, 4, 5, 2, 3).flatten(4).flatten(1, 3)

    def _library(self, grad: Tensor, input: Tensor, kernels: Tensor, groups: int) -> Any:
        numbers = [self.stride] * 2, [self.padding] * 2, [1, 1], False, [0, 0], groups
        return torch.ops.aten.convolution_backward(grad, input, kernels, None, *numbers, [self.need_input, True, False])


def make_problem(layer: Layer, batch: int, dtype: torch.dtype, device: torch.device) -> Problem:
    """Random numbers for one of `LAYERS`."""
    in_channels, out_channels, size, stride, pixels = layer
    layout = network_layout(dtype)
    input = torch.randn(batch, in_channels, pixels, pixels, device=device).to(dtype, memory_format=layout)
    kernels = torch.randn(batch, out_channels, in_channels, size, size, device=device).to(dtype)
    plain_kernels = kernels[0].clone(memory_format=layout)
    return Problem(input, kernels, plain_kernels, stride, need_input=in_channels > 3)

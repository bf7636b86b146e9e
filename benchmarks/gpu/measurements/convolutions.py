"""The methods of convolving each sample with its own kernels, on the GPU: what the choice among them rests on.

The library's own, building the kernels included, as `python -m crossd_ops profile` has them.
"""

from __future__ import annotations

import itertools
import time
from typing import Any

import torch

from benchmarks import convolution_methods
from benchmarks.convolution_methods import LAYERS, Layer
from benchmarks.gpu.measurements.measure import network_layout
from benchmarks.gpu.parts import Settings
from benchmarks.timing import cudnn_benchmark, measure_in_turns
from crossd_ops.inspection.profile import measurement
from crossd_ops.inspection.profile.measurement import Calls
from crossd_ops.inspection.profile.problems import Problem
from crossd_ops.tuning import choice

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


def problem_of(layer: Layer, dtype: torch.dtype, batch: int) -> Problem:
    """As the layer lies in a network of this type."""
    channels_last = network_layout(dtype) is torch.channels_last
    return convolution_methods.problem_of(layer, batch, dtype, channels_last=channels_last)


def calls_of(layer: Layer, dtype: torch.dtype, batch: int, device: torch.device) -> dict[str, Calls]:
    """By direction; a network's images have no gradient."""
    return measurement.calls_of(problem_of(layer, dtype, batch), device, need_input=layer[0] > 3)


def _measure_layer(layer: Layer, dtype: torch.dtype, batch: int, settings: Settings) -> dict[str, Any]:
    device = torch.device(settings.device)
    calls = calls_of(layer, dtype, batch, device)
    directions = measurement.counted(problem_of(layer, dtype, batch), [], on_gpu=device.type == "cuda")
    candidates = {
        f"{name} {one.direction}": call
        for one in directions
        for name, call in measurement.candidates(one, calls[one.direction]).items()
    }
    rounds, seconds = (1, 0.0) if settings.dry_run else (3, 0.5)
    try:
        timings = measure_in_turns(candidates, device, rounds=rounds, seconds_budget=seconds, seconds_per_turn=0.01)
    finally:
        for one in directions:
            choice.set_method(one.choice.key, None)
    return {
        **row_of(layer, dtype, batch),
        "seconds": {name: timing.median for name, timing in timings.items()},
        "host_bound": [name for name, timing in timings.items() if timing.host_bound],
        "chosen": {one.direction: one.choice.method for one in directions},
    }

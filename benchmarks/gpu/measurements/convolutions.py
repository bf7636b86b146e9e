"""The methods of convolving each sample with its own kernels, on the GPU: what the choice among them rests on.

The library's own, building the kernels included, as `python -m crossd_ops profile` has them, on every layer of two
ResNets and a UNet whose kernels are larger than 1x1. The others of a Cross-D network are plain convolutions.
"""

from __future__ import annotations

import functools
import itertools
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

from benchmarks.gpu.measurements.measure import describe_error, network_layout
from benchmarks.gpu.parts import Settings
from benchmarks.gpu.report_tables import convolution_title
from benchmarks.models import CONVOLUTIONS, build_model
from benchmarks.timing import cudnn_benchmark, measure_in_turns
from crossd_ops.inspection.profile import measurement
from crossd_ops.inspection.profile.problems import IMAGE_CHANNELS, Problem, problems_of
from crossd_ops.tuning import choice

# What is wanted most comes first: there may be no time for all.
_NETWORKS, _PIXELS, _BATCHES = ("resnet18", "resnet50", "unet"), 224, (32, 4, 128)
_DTYPES = (torch.bfloat16, torch.float32)
_DRY_RUN_PIXELS, _DRY_RUN_WIDTH, _DRY_RUN_BATCH, _DRY_RUN_LAYERS = 16, 4, 2, 2  # the first ones of one network
_RESERVE = 0.1  # of the part's time, which the last row needs to come to its end

Networks = list[str]  # that have a convolution


def convolutions(settings: Settings) -> dict[str, Any]:
    """One row for each problem, with and without cuDNN's choice by measurement: seconds of every method.

    The rows for which there was no time are named.
    """
    deadline = time.monotonic() + settings.seconds * (1 - _RESERVE)
    rows: list[dict[str, Any]] = []
    left_out: list[str] = []
    for benchmark, (problem, names) in itertools.product((False, True), problems(settings.dry_run).items()):
        row = {**row_of(problem, names), "cudnn_benchmark": benchmark}
        if time.monotonic() > deadline:
            left_out.append(convolution_title(row))
            continue
        with cudnn_benchmark(benchmark):
            rows.append({**row, **_measure_problem(problem, settings)})
        settings.save({"rows": rows, "left_out": left_out})
    return {"rows": rows, "left_out": left_out}


@functools.cache
def problems(dry_run: bool) -> dict[Problem, Networks]:
    """Of the rows, in their order, with the networks that have them."""
    batches, names = ((_DRY_RUN_BATCH,), _NETWORKS[:1]) if dry_run else (_BATCHES, _NETWORKS)
    found: dict[Problem, Networks] = {}
    for batch, network, dtype in itertools.product(batches, names, _DTYPES):
        layers = _layers_of(network, dtype, dry_run)
        for problem in itertools.islice(layers, _DRY_RUN_LAYERS if dry_run else None):
            of_batch = problem._replace(input=(batch, *problem.input[1:]))
            found.setdefault(of_batch, []).append(network)
    return found


@functools.cache
def _layers_of(network: str, dtype: torch.dtype, dry_run: bool) -> dict[Problem, list[str]]:
    pixels, width = (_DRY_RUN_PIXELS, _DRY_RUN_WIDTH) if dry_run else (_PIXELS, None)
    with torch.device("meta"):
        model = build_model(network, CONVOLUTIONS["crossd"], classes=2, width=width)
    channels_last = network_layout(dtype) is torch.channels_last
    return problems_of(model, (2, IMAGE_CHANNELS, pixels, pixels), dtype, channels_last=channels_last)


def row_of(problem: Problem, names: Networks) -> dict[str, Any]:
    """What names a row."""
    dtype = str(problem.dtype).removeprefix("torch.")
    return {"layer": str(problem), "networks": names, "batch": problem.input[0], "dtype": dtype}


def _measure_problem(problem: Problem, settings: Settings) -> dict[str, Any]:
    device = torch.device(settings.device)
    calls = measurement.calls_of(problem, device)
    directions = measurement.counted(problem, [], on_gpu=device.type == "cuda")
    candidates = {
        f"{name} {one.direction}": call
        for one in directions
        for name, call in measurement.candidates(one, calls[one.direction]).items()
    }
    rounds, seconds = (1, 0.0) if settings.dry_run else (3, 0.5)
    try:
        errors = _errors_of(candidates, device)
        working = {name: call for name, call in candidates.items() if name not in errors}
        timings = measure_in_turns(working, device, rounds=rounds, seconds_budget=seconds, seconds_per_turn=0.01)
    finally:
        for one in directions:
            choice.set_method(one.choice.key, None)
    return {
        "seconds": {name: timing.median for name, timing in timings.items()},
        "errors": errors,
        "host_bound": [name for name, timing in timings.items() if timing.host_bound],
        "chosen": {one.direction: one.choice.method for one in directions},
    }


def _errors_of(candidates: Mapping[str, Callable[[], object]], device: torch.device) -> dict[str, str]:
    """Of those that cannot run here, for lack of memory above all."""
    errors = {}
    for name, call in candidates.items():
        try:
            call()
        except RuntimeError as error:
            errors[name] = describe_error(error)
            if device.type == "cuda":
                torch.cuda.empty_cache()
    return errors

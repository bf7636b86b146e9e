"""The methods of convolving each sample with its own kernels, on the GPU: what the choice among them rests on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from benchmarks.convolution_methods import LAYERS, METHODS, make_problem
from benchmarks.gpu.parts import Settings
from benchmarks.timing import measure_in_turns

_BATCHES = (4, 32)
_DRY_RUN_LAYERS = [(3, 4, 3, 2, 9), (4, 6, 3, 1, 5)]


def convolutions(settings: Settings) -> dict[str, Any]:
    """One row for each layer, type and batch: forward and backward seconds of every method."""
    device = torch.device(settings.device)
    rows: list[dict[str, Any]] = []
    batches = (2,) if settings.dry_run else _BATCHES
    for layer in _DRY_RUN_LAYERS if settings.dry_run else LAYERS:
        for dtype in (torch.float32, torch.bfloat16):
            for batch in batches:
                rows.append(_measure_layer(layer, batch, dtype, device, settings.dry_run))
                settings.save({"rows": rows})
    return {"rows": rows}


def _measure_layer(
    layer: tuple[int, int, int, int, int], batch: int, dtype: torch.dtype, device: torch.device, dry_run: bool
) -> dict[str, Any]:
    in_channels, out_channels, size, _, pixels = layer
    problem = make_problem(layer, batch, dtype, device)
    if dtype is not torch.float32:
        problem = replace(problem, input=problem.input.contiguous(memory_format=torch.channels_last))
    grad = torch.randn_like(problem.forward("plain"))
    candidates: dict[str, Callable[[], object]] = {}
    for method in METHODS:
        candidates[f"{method} forward"] = partial(problem.forward, method)
        candidates[f"{method} backward"] = partial(problem.backward, method, grad)
    rounds, seconds = (1, 0.0) if dry_run else (3, 0.5)
    timings = measure_in_turns(candidates, device, rounds=rounds, seconds_budget=seconds, seconds_per_turn=0.01)
    return {
        "layer": f"{in_channels}->{out_channels} {size}x{size} @{pixels}",
        "batch": batch,
        "dtype": str(dtype).removeprefix("torch."),
        "seconds": {name: timing.median for name, timing in timings.items()},
    }

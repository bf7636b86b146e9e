"""The methods of convolving each sample with its own kernels, on the GPU: what the choice among them rests on."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from benchmarks.convolution_methods import LAYERS, METHODS
from benchmarks.gpu.parts import Settings
from benchmarks.timing import measure_in_turns
from crossd_ops import _convolution
from crossd_ops._convolution import Geometry, fit

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
    in_channels, out_channels, size, stride, pixels = layer
    geometry, _ = fit((batch, in_channels, pixels, pixels), (size, size), stride, size // 2, 1, 1)
    layout = torch.contiguous_format if dtype is torch.float32 else torch.channels_last
    image = torch.randn(batch, in_channels, pixels, pixels, device=device).to(dtype).contiguous(memory_format=layout)
    shared = torch.randn(out_channels, in_channels, size, size, device=device).to(dtype)
    kernels = torch.randn(batch, *shared.shape, device=device).to(dtype)
    grad = torch.randn_like(_convolution.library_convolution(image, shared, None, geometry))
    need_input = in_channels > 3  # images have no gradient
    candidates: dict[str, Callable[[], object]] = {
        "plain forward": partial(_convolution.library_convolution, image, shared, None, geometry),
        "plain backward": partial(_convolution._library_backward, grad, image, shared, geometry, 1, need_input, True),
    }
    for method in METHODS[1:]:
        candidates[f"{method} forward"] = partial(
            _by_method, method, _convolution.convolve, image, kernels, None, geometry
        )
        candidates[f"{method} backward"] = partial(
            _by_method, method, _convolution.convolve_backward, grad, image, kernels, geometry, need_input, True
        )
    rounds, seconds = (1, 0.0) if dry_run else (3, 0.5)
    timings = measure_in_turns(candidates, device, rounds=rounds, seconds_budget=seconds, seconds_per_turn=0.01)
    chosen = {
        direction: _convolution.method(geometry, in_channels, backward=direction == "backward")
        for direction in ("forward", "backward")
    }
    return {
        "layer": f"{in_channels}->{out_channels} {size}x{size} @{pixels}",
        "batch": batch,
        "dtype": str(dtype).removeprefix("torch."),
        "chosen": chosen,
        "seconds": {name: timing.median for name, timing in timings.items()},
    }


def _by_method(method: str, function: Callable[..., Any], *arguments: Tensor | Geometry | bool | None) -> Any:
    with mock.patch.object(_convolution, "method", lambda *_, **__: method):
        return function(*arguments)

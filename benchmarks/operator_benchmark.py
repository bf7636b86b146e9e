"""The fused slice against the FFT expansion, layer by layer: time, bytes per second, peak memory, deviation."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from benchmarks.memory import extra_memory
from benchmarks.operator_cases import (
    IMPLEMENTATIONS,
    OperatorCase,
    OperatorTensors,
    make_tensors,
    run_forward,
    run_forward_backward,
)
from benchmarks.timing import Timing, measure_in_turns

# The float64 expansion runs over so many 2D kernels at a time: it needs hundreds of bytes for every weight element.
_FLOAT64_KERNELS_PER_CHUNK = 8192


def benchmark_operator(
    cases: list[OperatorCase],
    device: torch.device,
    *,
    rounds: int,
    seed: int,
    begin: Callable[[str], None],
) -> list[dict[str, Any]]:
    """One row for each case, as plain JSON values; `begin` is told what runs next: each case, then memory."""
    rows = []
    for case in cases:
        begin(f"{case.label} {_dtype_name(case.out_dtype)}")
        rows.append(_benchmark_case(case, device, rounds, seed))
    begin("peak memory")
    for row, extra_bytes in zip(rows, extra_memory(cases, device), strict=True):
        row["extra_bytes"] = extra_bytes
    return rows


def _benchmark_case(case: OperatorCase, device: torch.device, rounds: int, seed: int) -> dict[str, Any]:
    tensors = make_tensors(case, device, seed)
    results = {name: run_forward_backward(call, case, tensors) for name, call in IMPLEMENTATIONS.items()}
    exact = _float64_results(case, tensors)
    deviation = {
        "fused_from_expansion": _largest_deviation(results["fused"], results["expansion"]),
        "fused_from_float64": _largest_deviation(results["fused"], exact),
        "expansion_from_float64": _largest_deviation(results["expansion"], exact),
    }
    out = results["fused"][0]
    target = torch.empty_like(out)
    del results, exact
    passes = {"forward": run_forward, "forward_backward": run_forward_backward}
    candidates: dict[str, Callable[[], object]] = {"copy": out.clone, "copy_in_place": partial(target.copy_, out)}
    for kind, run in passes.items():
        for name, call in IMPLEMENTATIONS.items():
            candidates[f"{kind}/{name}"] = partial(run, call, case, tensors)
    timings = measure_in_turns(candidates, device, rounds=rounds)
    floor_bytes = {
        "forward": case.forward_floor_bytes,
        "forward_backward": case.forward_floor_bytes + case.backward_floor_bytes,
    }
    return {
        "layer": case.label,
        "batch": case.batch,
        "weight_dtype": "float32",
        "out_dtype": _dtype_name(case.out_dtype),
        "copy_seconds": timings["copy"].median,
        "copy_in_place_seconds": timings["copy_in_place"].median,
        **{kind: _compare(timings, kind, floor_bytes[kind]) for kind in passes},
        "deviation": deviation,
    }


def _compare(timings: dict[str, Timing], kind: str, floor_bytes: int) -> dict[str, Any]:
    fused, expansion = timings[f"{kind}/fused"], timings[f"{kind}/expansion"]
    return {
        "fused_seconds": fused.median,
        "fused_minimum_seconds": fused.minimum,
        "fused_calls": fused.calls,
        "expansion_seconds": expansion.median,
        "expansion_minimum_seconds": expansion.minimum,
        "expansion_calls": expansion.calls,
        "times_faster": expansion.median / fused.median,
        "floor_bytes": floor_bytes,
        "fused_bytes_per_second": floor_bytes / fused.median,
        "expansion_bytes_per_second": floor_bytes / expansion.median,
    }


def _float64_results(case: OperatorCase, tensors: OperatorTensors) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Slices and both gradients by the expansion in float64, some output channels at a time: all are sums over them."""
    channels = max(1, _FLOAT64_KERNELS_PER_CHUNK // (case.in_channels * case.batch))
    weight = tensors.weight.detach().double()
    shift = tensors.shift.detach().double().requires_grad_()
    grad = tensors.grad.double()
    out, grad_weight, grad_shift = torch.empty_like(grad), torch.empty_like(weight), torch.zeros_like(shift)
    for start in range(0, case.out_channels, channels):
        part = slice(start, start + channels)
        weight_part = weight[part].requires_grad_()
        out_part = IMPLEMENTATIONS["expansion"](weight_part, shift, dtype=torch.float64)
        grad_weight[part], grad_shift_part = torch.autograd.grad(out_part, (weight_part, shift), grad[:, part])
        grad_shift += grad_shift_part
        out[:, part] = out_part.detach()
    return out, grad_weight, grad_shift


def _largest_deviation(results: tuple[torch.Tensor, ...], expected: tuple[torch.Tensor, ...]) -> dict[str, float]:
    """Largest absolute difference over the largest absolute value expected, for the output and both gradients."""
    names = ("output", "grad_weight", "grad_shift")
    return {
        name: ((result.double() - wanted.double()).abs().max() / wanted.double().abs().max()).item()
        for name, result, wanted in zip(names, results, expected, strict=True)
    }


def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")

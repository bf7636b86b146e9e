"""Each operator against its alternatives: time by events and by kernels, launches, memory, deviation."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.cases import Case, all_cases
from benchmarks.gpu.measure import measure
from benchmarks.gpu.parts import Settings

_FORWARD_RESERVE = 0.1  # of the part's time, which the last case needs to come to its end


def operators(settings: Settings) -> dict[str, Any]:
    """One row for each case and pass; the cases for which there was no time are named."""
    device = torch.device(settings.device)
    deadline = time.monotonic() + settings.seconds * (1 - _FORWARD_RESERVE)
    rows: list[dict[str, Any]] = []
    left_out: list[str] = []
    for make in all_cases(device, dry_run=settings.dry_run):
        if time.monotonic() > deadline:
            left_out.append(str(make.args[0]) if isinstance(make, partial) and make.args else str(make))
            continue
        torch.manual_seed(0)
        rows += _measure_case(make(), device, settings)
        torch._dynamo.reset()  # a limit on recompilations would make later cases eager
        settings.save({"rows": rows, "left_out": left_out})
    return {"rows": rows, "left_out": left_out}


def _measure_case(case: Case, device: torch.device, settings: Settings) -> list[dict[str, Any]]:
    expected = case.candidates["expansion"]().detach()
    grad = torch.randn_like(expected)
    passes: dict[str, dict[str, Callable[[], object]]] = {
        "forward": dict(case.candidates),
        "forward_backward": {
            name: partial(_forward_backward, call, case.inputs, grad) for name, call in case.candidates.items()
        },
    }
    rounds, seconds = (1, 0.0) if settings.dry_run else (5, 0.6)
    deviation = _deviation(case.candidates["fused"]().detach(), expected)
    return [
        {
            "operator": case.operator,
            "shape": case.shape,
            "dtype": case.dtype,
            "pass": name,
            "floor_bytes": case.floor_bytes.get(name),
            "multiply_adds": case.multiply_adds.get(name),
            "other_work": list(case.other_work),
            "deviation": deviation,
            "candidates": measure(calls, device, rounds=rounds, seconds=seconds),
        }
        for name, calls in passes.items()
    ]


def _forward_backward(call: Callable[[], Tensor], inputs: tuple[Tensor, ...], grad: Tensor) -> tuple[Tensor, ...]:
    # Plain convolutions do not depend on the shift.
    return torch.autograd.grad(call(), inputs, grad, allow_unused=True)


def _deviation(result: Tensor, expected: Tensor) -> float:
    """Largest difference over the largest value."""
    return ((result.double() - expected.double()).abs().max() / expected.double().abs().max()).item()

"""Each operator against its alternatives: time by events and by kernels, launches, memory, deviation."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.measurements.case import Case
from benchmarks.gpu.measurements.cases import all_cases, compiled_cases
from benchmarks.gpu.measurements.measure import describe_error, in_layout_of, measure
from benchmarks.gpu.parts import Settings
from benchmarks.timing import cudnn_benchmark

_EXPECTED = ("expansion", "compiled expansion", "grouped")  # whose result the fused one is compared with
_RESERVE = 0.1  # of the part's time, which the last case needs to come to its end


def operators(settings: Settings) -> dict[str, Any]:
    """One row for each case and pass; the cases for which there was no time are named."""
    return _measure_cases(all_cases(torch.device(settings.device), dry_run=settings.dry_run), settings)


def compiled_operators(settings: Settings) -> dict[str, Any]:
    """The same against torch.compile's."""
    return _measure_cases(compiled_cases(torch.device(settings.device), dry_run=settings.dry_run), settings)


def _measure_cases(cases: Iterable[partial[Case]], settings: Settings) -> dict[str, Any]:
    deadline = time.monotonic() + settings.seconds * (1 - _RESERVE)
    rows: list[dict[str, Any]] = []
    left_out: list[str] = []
    for make in cases:
        if time.monotonic() > deadline:
            left_out.append(_title(make))
            continue
        torch.manual_seed(0)
        case = make()
        with cudnn_benchmark(case.cudnn_benchmark):
            rows += _measure_case(case, settings)
        torch._dynamo.reset()  # a limit on recompilations would make later cases eager
        settings.save({"rows": rows, "left_out": left_out})
    return {"rows": rows, "left_out": left_out}


def _title(make: partial[Case]) -> str:
    """What an unbuilt case is of."""
    name = make.func.__name__.strip("_").replace("_", " ")
    told = [str(value) for value in make.args if not isinstance(value, (torch.device, bool))]
    return " ".join([name, *told, *(["cudnn.benchmark"] if make.keywords.get("cudnn_benchmark") else [])])


def _measure_case(case: Case, settings: Settings) -> list[dict[str, Any]]:
    grads, errors, deviation = _try_candidates(case)
    forward: dict[str, Callable[[], object]] = {name: case.candidates[name] for name in grads}
    backward: dict[str, Callable[[], object]] = {
        name: partial(_forward_backward, case.candidates[name], case.other_work.get(name, case.inputs), grad)
        for name, grad in grads.items()
    }
    rounds, seconds = (1, 0.0) if settings.dry_run else (5, 0.6)
    device = torch.device(settings.device)
    return [
        row_of(case, name, deviation, {**measure(calls, device, rounds=rounds, seconds=seconds), **errors})
        for name, calls in (("forward", forward), ("forward_backward", backward))
    ]


def row_of(case: Case, direction: str, deviation: float | None, candidates: dict[str, Any]) -> dict[str, Any]:
    """A row, as plain JSON values."""
    return {
        "operator": case.operator,
        "shape": case.shape,
        "dtype": case.dtype,
        "cudnn_benchmark": case.cudnn_benchmark,
        "pass": direction,
        "floor_bytes": case.floor_bytes.get(direction),
        "multiply_adds": case.multiply_adds.get(direction),
        "other_work": list(case.other_work),
        "deviation": deviation,
        "candidates": candidates,
    }


def _try_candidates(case: Case) -> tuple[dict[str, Tensor], dict[str, dict[str, str]], float | None]:
    """A gradient for each candidate that runs, the errors of the others, and the fused result's deviation.

    The gradients have the same values, each in the layout of its candidate's result.
    """
    results: dict[str, Tensor] = {}
    errors = {}
    for name, call in case.candidates.items():
        try:
            results[name] = call().detach()
        except Exception as error:
            errors[name] = {"error": describe_error(error)}
    if not results:
        return {}, errors, None
    values = torch.randn_like(next(iter(results.values())))
    grads = {name: in_layout_of(result, values) for name, result in results.items()}
    expected = next((results[name] for name in _EXPECTED if name in results), None)
    if expected is None or "fused" not in results:
        return grads, errors, None
    return grads, errors, _deviation(results["fused"], expected)


def _forward_backward(call: Callable[[], Tensor], inputs: tuple[Tensor, ...], grad: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(call(), inputs, grad)


def _deviation(result: Tensor, expected: Tensor) -> float:
    """Largest difference over the largest value."""
    return ((result.double() - expected.double()).abs().max() / expected.double().abs().max()).item()

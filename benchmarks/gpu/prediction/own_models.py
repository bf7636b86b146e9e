"""Models of crossd_ops' operators: the launches that launches.py knows, of the problem that a call states."""

from __future__ import annotations

import math
from dataclasses import replace

from benchmarks.gpu.prediction import launches
from benchmarks.gpu.prediction.general_launches import (
    GeneralProblem,
    general_backward_launches,
    general_forward_launches,
)
from benchmarks.gpu.prediction.models import AnyLaunch, model
from benchmarks.gpu.prediction.trace import Array, Call


def _shift_problem(call: Call, other: Array) -> launches.ShiftProblem | GeneralProblem:
    weight = call["weight"]
    out_channels, in_channels, *kernel = weight.sizes
    slices = 1 if call["index"] is not None else kernel[0]
    samples, pairs = call["shift"].sizes[0], out_channels * in_channels
    is_double = weight.dtype == "float64"
    if is_double == (other.dtype == "float64") and kernel in ([3] * 3, [5] * 3, [7] * 3)[: 2 if is_double else 3]:
        tap_major = slices == 1 and not is_double and _is_tap_major(other)
        return launches.ShiftProblem(samples, pairs, kernel[0], slices, weight.dtype, other.dtype, tap_major)
    if call["index"] is not None:  # the kernel takes the axis of the slice for its first
        kernel.insert(0, kernel.pop(call["dim"]))
    return GeneralProblem(samples, pairs, (kernel[0], kernel[1], kernel[2]), slices, weight.dtype, other.dtype)


def _is_tap_major(slices: Array) -> bool:
    """Whether kernels lie in memory as (B, K, K, O, C), each tap in whole vectors."""
    step = slices.strides[4]
    in_order = slices.strides[1:] == (slices.sizes[2], 1, slices.sizes[4] * step, step)
    return in_order and step * slices.item_bytes % 16 == 0


@model("crossd_ops.fourier_shift")
def fourier_shift(call: Call) -> list[AnyLaunch]:
    problem = _shift_problem(call, call.results[0])
    if isinstance(problem, GeneralProblem):
        return [*general_forward_launches(problem)]
    return [*launches.forward_launches(problem)]


@model("crossd_prediction.tap_major_kernels")
def tap_major_kernels(call: Call) -> list[AnyLaunch]:
    """The same to kernels whose channels follow each other."""
    problem = _shift_problem(call, call.results[0])
    if isinstance(problem, GeneralProblem):
        return [*general_forward_launches(problem)]
    return [*launches.forward_launches(replace(problem, tap_major=True))]


@model("crossd_ops.fourier_shift_backward")
def fourier_shift_backward(call: Call) -> list[AnyLaunch]:
    problem = _shift_problem(call, call["grad"])
    if isinstance(problem, GeneralProblem):
        return [*general_backward_launches(problem)]
    return [*launches.backward_launches(problem)]


def _head_problem(map: Array) -> launches.HeadProblem:
    return launches.HeadProblem(map.sizes[0], math.prod(map.sizes[2:]), map.dtype, map.channels_last)


@model("crossd_ops.rotation_head")
def rotation_head(call: Call) -> list[AnyLaunch]:
    return [*launches.head_forward_launches(_head_problem(call["map"]))]


@model("crossd_ops.rotation_head_backward")
def rotation_head_backward(call: Call) -> list[AnyLaunch]:
    return [*launches.head_backward_launches(_head_problem(call["map"]))]

"""Models of crossd_ops' operators: the launches that launches.py knows, of the problem that a call states."""

from __future__ import annotations

import math

from benchmarks.gpu.prediction import launches
from benchmarks.gpu.prediction.models import AnyLaunch, model
from benchmarks.gpu.prediction.trace import Array, Call


def _shift_problem(call: Call, other: Array) -> launches.ShiftProblem:
    weight = call["weight"]
    out_channels, in_channels, *kernel = weight.sizes
    slices = 1 if call["index"] is not None else kernel[0]
    samples = call["shift"].sizes[0]
    return launches.ShiftProblem(samples, out_channels * in_channels, kernel[0], slices, weight.dtype, other.dtype)


@model("crossd_ops.fourier_shift")
def fourier_shift(call: Call) -> list[AnyLaunch]:
    return [*launches.forward_launches(_shift_problem(call, call.results[0]))]


@model("crossd_ops.fourier_shift_backward")
def fourier_shift_backward(call: Call) -> list[AnyLaunch]:
    return [*launches.backward_launches(_shift_problem(call, call["grad"]))]


def _head_problem(map: Array) -> launches.HeadProblem:
    return launches.HeadProblem(map.sizes[0], math.prod(map.sizes[2:]), map.dtype, map.channels_last)


@model("crossd_ops.rotation_head")
def rotation_head(call: Call) -> list[AnyLaunch]:
    return [*launches.head_forward_launches(_head_problem(call["map"]))]


@model("crossd_ops.rotation_head_backward")
def rotation_head_backward(call: Call) -> list[AnyLaunch]:
    return [*launches.head_backward_launches(_head_problem(call["map"]))]

"""Launches of the Fourier shift for a problem: those that the prediction expects, and those that the meter sees."""

from __future__ import annotations

import torch
from emulator.metering import Launch, ShiftCase

from benchmarks.gpu.prediction import launches

TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}


def metered(direction: str, problem: launches.ShiftProblem) -> tuple[Launch, ...]:
    size = (problem.size,) * 3
    weight, other = TYPES[problem.weight], TYPES[problem.other]
    case = ShiftCase(
        problem.samples, problem.pairs, 1, size, weight, other, whole=problem.slices > 1, tap_major=problem.tap_major
    )
    return case.measure(direction)


def expected_launches(direction: str, problem: launches.ShiftProblem) -> list[launches.Launch]:
    return (launches.forward_launches if direction == "forward" else launches.backward_launches)(problem)

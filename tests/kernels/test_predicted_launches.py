"""The launches that the prediction expects are those that the launchers make in the emulator."""

from __future__ import annotations

import pytest
from emulator.metering import HeadCase, Launch
from shift_problems import TYPES, expected_launches, metered

from benchmarks.gpu.prediction import launches


@pytest.mark.parametrize(
    ("direction", "problem"),
    [
        ("forward", launches.ShiftProblem(24, 300, 3, 1, "float32", "bfloat16")),
        ("forward", launches.ShiftProblem(40, 32, 3, 3, "float32", "float32")),
        ("backward", launches.ShiftProblem(40, 300, 3, 1, "float32", "float32")),
        ("backward", launches.ShiftProblem(9, 64, 3, 1, "float32", "float16")),
        ("backward", launches.ShiftProblem(9, 64, 3, 1, "float32", "float16", tap_major=True)),
        ("forward", launches.ShiftProblem(6, 70, 7, 1, "float32", "float32")),
        ("backward", launches.ShiftProblem(20, 70, 5, 1, "float64", "float64")),
        # Enough tiles for fewer splits of the samples, and for fewer warps that share pairs.
        ("forward", launches.ShiftProblem(6, 32 * 600, 5, 1, "float32", "float32")),
        ("forward", launches.ShiftProblem(9, 128 * 513, 3, 1, "float32", "bfloat16")),
        ("backward", launches.ShiftProblem(16, 32 * 512, 3, 1, "float32", "bfloat16")),
        ("backward", launches.ShiftProblem(8, 32 * 1024, 3, 1, "float32", "bfloat16")),
    ],
)
def test_launches_are_those_of_the_launchers(direction: str, problem: launches.ShiftProblem) -> None:
    """Kernels, blocks, threads, and the bytes of all arrays: those that lanes ask for, once."""
    got, expected = metered(direction, problem), expected_launches(direction, problem)
    assert [described(one) for one in got] == [described(one) for one in expected]
    for launch, wanted in zip(got, expected, strict=True):
        asked_for = sum(one.distinct_bytes for one in launch.arrays)
        assert sum(wanted.arrays.values()) == pytest.approx(asked_for, rel=0.02)


def described(launch: Launch | launches.Launch) -> tuple[str, int, int]:
    return launch.kernel, launch.blocks, launch.threads


@pytest.mark.parametrize("direction", ["forward", "backward"])
@pytest.mark.parametrize(("dtype", "channels_last", "side"), [("float32", False, 40), ("bfloat16", True, 9)])
def test_launches_of_the_head_are_those_of_the_launchers(
    direction: str, dtype: str, channels_last: bool, side: int
) -> None:
    problem = launches.HeadProblem(3, side * side, dtype, channels_last)
    expected = (launches.head_forward_launches if direction == "forward" else launches.head_backward_launches)(problem)
    got = HeadCase(3, side, side, TYPES[dtype], channels_last).measure(direction)
    assert [described(one) for one in got] == [described(one) for one in expected]
    for launch, wanted in zip(got, expected, strict=True):
        asked_for = sum(one.distinct_bytes for one in launch.arrays)
        assert sum(wanted.arrays.values()) == pytest.approx(asked_for, rel=0.02, abs=1000)

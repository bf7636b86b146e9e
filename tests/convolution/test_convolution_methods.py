"""Every method of the per-sample convolution forced upon every problem, and the table behind the choice among them."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from other_process import assert_tests_pass

from benchmarks import convolution_methods
from crossd_ops import sample_conv2d
from crossd_ops.tuning import choice

# Without what says little of a method, and takes long in a process that starts anew.
VALUES = "not compile and not opcheck and not transforms and not ways_around and not conv2d and not strides"
VALUES += " and not what_a_place_leaves_out"


def test_prints_a_row_for_each_layer(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(convolution_methods, "LAYERS", [(3, 4, 3, 2, 8)])
    monkeypatch.setattr(convolution_methods, "SMALL", [(4, 6, 3, 1, 5)])
    monkeypatch.setattr(convolution_methods, "VOLUMES", [(4, 2, 3, 1, 3)])
    convolution_methods.main(["--batch", "2", "--turns", "1"])
    header, *rows, _ = capsys.readouterr().out.splitlines()
    assert all(name in header for name in ("plain", *choice.METHODS))
    assert [row.split()[1:3] for row in rows] == [
        *[["3->4", "3x3"]] * 2,
        *[["4->6", "3x3"]] * 2,
        *[["4->2", "3x3x3"]] * 2,
    ]


def test_given_kernels_beside_torch(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(convolution_methods, "LAYERS", [(3, 4, 3, 2, 8)])
    monkeypatch.setattr(convolution_methods, "SMALL", [(4, 6, 3, 1, 5)])
    convolution_methods.main(["--given", "--batch", "2", "--turns", "1"])
    header, *rows = capsys.readouterr().out.splitlines()
    assert header.split() == ["layer", "forward:", "ms", "torch", "ratio", "backward:", "ms", "torch", "ratio"]
    assert [row.split()[0] for row in rows] == ["3->4,3x3,8x8", "4->6,3x3,5x5"]
    for row in rows:
        figures = [float(figure) for figure in row.split()[1:]]
        for ours, theirs, ratio in (figures[:3], figures[3:]):
            assert abs(theirs / ours - ratio) < 0.02 * ratio + 0.01


def test_the_way_of_others_is_the_same_convolution() -> None:
    input, weight = torch.randn(3, 4, 7, 6).double(), torch.randn(3, 5, 4, 3, 3).double()
    got = convolution_methods.grouped_convolution(input, weight, 2, 1)
    torch.testing.assert_close(got, sample_conv2d(input, weight, stride=2, padding=1))


def test_bad_numbers_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        convolution_methods.main(["--batch", "0"])
    assert "expected at least 1, got 0, 9" in capsys.readouterr().err


@pytest.mark.parametrize(
    "method, instruction_set",
    [
        ("grouped", "avx512"),
        ("loop", "avx512"),
        ("matrix", "avx512"),
        ("small", "avx2"),
        ("small", "baseline"),
        ("shared", "avx512"),
    ],
)
def test_every_method_convolves_every_problem(compiled_library: None, method: str, instruction_set: str) -> None:
    """The tests of values again, in a process where the method is forced, with no more than this instruction set."""
    files = ("convolution", "convolution_operators", "convolution_properties", "memory_formats", "sample_convolution")
    # The sizes that lead to the last two methods take others long, and borders beyond memory are for these two alone.
    chosen = f"not loop and not grouped and not borders and {VALUES}"
    environment = {"CROSSD_CONVOLUTION_METHOD": method, "CROSSD_CPU_CAPABILITY": instruction_set}
    assert_tests_pass(files, chosen, more_than=60, **environment)


def test_the_way_of_gpus_convolves_every_problem(compiled_library: None) -> None:
    """The tests of values again, where tensors of the CPU go by torch's dispatcher as those of GPUs do."""
    files = ("convolution", "convolution_operators", "memory_formats", "sample_convolution")
    assert_tests_pass(files, f"{VALUES} and not second_order", more_than=120, CROSSD_CONVOLUTION_BRANCH="gpu")


@pytest.mark.parametrize("name, value, expected", [
    ("METHOD", "matrices", "grouped, loop, matrix, small or shared"), ("BRANCH", "GPU", "cpu or gpu"),
])  # fmt: skip
def test_a_choice_that_is_none_is_refused(compiled_library: None, name: str, value: str, expected: str) -> None:
    script = (
        "import torch, crossd_ops; crossd_ops.crossd_conv2d(*map(torch.ones, ((2, 1, 4, 4), (1, 1, 3, 3, 3), (2, 3))))"
    )
    environment = {**os.environ, f"CROSSD_CONVOLUTION_{name}": value}
    process = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    text = f"CROSSD_CONVOLUTION_{name}: expected {expected} in the environment, got {value}"
    assert process.stderr.endswith(f"ValueError: {text}\n")

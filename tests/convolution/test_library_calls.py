"""What GPUs get by torch's dispatcher, tried on the CPU (tests/cpp/dispatched.cpp)."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.cpp_extension import include_paths, library_paths

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def operators(tmp_path_factory: pytest.TempPathFactory) -> Any:
    if shutil.which("g++") is None:
        pytest.skip("g++ is not installed")
    library = tmp_path_factory.mktemp("dispatched") / "dispatched.so"
    command = ["g++", "-std=c++17", "-O1", "-shared", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra", "-Werror"]
    command += ["-DTORCH_TARGET_VERSION=0x020b000000000000", f"-I{ROOT / 'csrc'}"]
    command += [flag for path in include_paths() for flag in ("-isystem", path)]
    command += [str(ROOT / "tests" / "cpp" / "dispatched.cpp"), "-o", str(library)]
    command += [*(f"-L{path}" for path in library_paths()), "-ltorch_cpu", "-lc10"]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    torch.ops.load_library(str(library))
    return torch.ops.crossd_dispatched


PLACES = [((1, 1), (1, 1), (1, 1), 1), ((2, 1), (0, 3), (1, 2), 2), ((2, 1, 1), (1, 0, 2), (1, 1, 1), 2)]


def tensors(axes: int, groups: int) -> tuple[Tensor, Tensor, Tensor]:
    sizes = (9, 8, 7)[:axes]
    return torch.randn(3, 4, *sizes), torch.randn(6, 4 // groups, *(3,) * axes), torch.randn(6)


@pytest.mark.parametrize("place", PLACES, ids=str)
def test_values(operators: Any, place: tuple[Any, ...]) -> None:
    *numbers, groups = place
    input, kernels, bias = tensors(len(numbers[0]), groups)
    for given in (bias, None):
        expected = torch.convolution(input, kernels, given, *numbers, False, [0] * len(numbers[0]), groups)
        torch.testing.assert_close(operators.convolution(input, kernels, given, *numbers, groups), expected)


@pytest.mark.parametrize("needs", [(True, True), (True, False), (False, True)], ids=str)
@pytest.mark.parametrize("place", PLACES, ids=str)
def test_gradients(operators: Any, place: tuple[Any, ...], needs: tuple[bool, bool]) -> None:
    *numbers, groups = place
    input, kernels, _ = tensors(len(numbers[0]), groups)
    input.requires_grad_(), kernels.requires_grad_()
    output = torch.convolution(input, kernels, None, *numbers, False, [0] * len(numbers[0]), groups)
    grad = torch.randn_like(output)
    sought = [tensor for tensor, need in zip((input, kernels), needs, strict=True) if need]
    expected = torch.autograd.grad(output, sought, grad)
    got = operators.convolution_backward(grad, input.detach(), kernels.detach(), *numbers, groups, *needs)
    torch.testing.assert_close(tuple(got), expected)


def test_products(operators: Any) -> None:
    a, b = torch.randn(3, 4, 5), torch.randn(3, 6, 5).mT
    torch.testing.assert_close(operators.product(a, b), a @ b)

"""What the tests on a GPU share: the device, the comparison with the definition in float64 on the CPU.

CROSSD_TEST_DEVICE names another device: with "cpu", which the compiled kernels serve too, the tests that need nothing
of CUDA show on any machine that they are sound themselves.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

import crossd_ops

DEVICE = torch.device(os.environ.get("CROSSD_TEST_DEVICE", "cuda"))
ON_CUDA = DEVICE.type == "cuda"
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
# Of the largest value: sums are formed in float32 or float64, the half types round what is stored.
TOLERANCES = {torch.float64: 1e-13, torch.float32: 2e-5, torch.bfloat16: 2e-2, torch.float16: 3e-3}

needs_device = pytest.mark.skipif(ON_CUDA and not torch.cuda.is_available(), reason="there is no CUDA device")
only_cuda = pytest.mark.skipif(not ON_CUDA, reason="about CUDA alone")


def named(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


@pytest.fixture(autouse=True)
def full_precision() -> Iterator[None]:
    """The compiled kernels, and libraries that do not round to TF32."""
    if crossd_ops.backend(DEVICE) != "compiled":
        pytest.fail(f"no compiled kernels for {DEVICE}: {crossd_ops.build_info()}")
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.allow_tf32, matmul.allow_tf32
    cudnn.allow_tf32, matmul.allow_tf32 = False, False
    yield
    cudnn.allow_tf32, matmul.allow_tf32 = before


def assert_near(result: Tensor, expected: Tensor, tolerance: float) -> None:
    """Every element, to the tolerance times the largest value expected."""
    assert result.device.type == DEVICE.type
    assert result.shape == expected.shape
    result, expected = result.detach().double().cpu(), expected.detach().double().cpu()
    scale = expected.abs().max().item() if expected.numel() else 1.0
    torch.testing.assert_close(result, expected, rtol=0, atol=tolerance * max(scale, 1e-30))


def values_and_gradients(function: Callable[..., Tensor], *inputs: Tensor, grad: Tensor | None = None) -> list[Tensor]:
    """The result, and the gradients for a `grad` that is the same on every device."""
    tensors = [tensor.detach().requires_grad_() for tensor in inputs]
    result = function(*tensors)
    if grad is None:
        grad = torch.randn(result.shape, generator=torch.Generator().manual_seed(1))
    gradients = torch.autograd.grad(result, tensors, grad.to(result.device, result.dtype))
    return [result, *gradients]


def compare(
    function: Callable[..., Tensor], definition: Callable[..., Tensor], *inputs: Tensor, dtype: torch.dtype
) -> None:
    """`function` on the device against `definition` in float64 on the CPU, with all gradients."""
    results = values_and_gradients(function, *(tensor.to(DEVICE) for tensor in inputs))
    expected = values_and_gradients(definition, *(tensor.double() for tensor in inputs))
    for result, wanted in zip(results, expected, strict=True):
        assert_near(result, wanted, TOLERANCES[dtype])


def weight_and_shift(*size: int, samples: int = 5, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    of_shift = torch.float64 if dtype is torch.float64 else torch.float32
    return torch.randn(*size).to(dtype), torch.randn(samples, 3, dtype=of_shift)

"""What arguments of the per-sample convolution come to, and which are refused."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from crossd_ops import crossd_conv2d, crossd_conv3d


def tensors(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    return torch.randn(2, 4, 6, 5).to(dtype), torch.randn(6, 4, 3, 3, 3).to(dtype), torch.randn(2, 3).to(dtype)


def test_the_type_of_the_convolution() -> None:
    assert crossd_conv2d(*tensors()).dtype is torch.float32
    assert crossd_conv2d(*tensors(torch.float64)).dtype is torch.float64
    with torch.autocast("cpu", torch.bfloat16):
        assert crossd_conv2d(*tensors()).dtype is torch.bfloat16
    assert crossd_conv2d(*tensors()).dtype is torch.float32


def test_volumes_are_no_images() -> None:
    _, weight, shift = tensors()
    crossd_conv3d(torch.randn(2, 4, 5, 5, 5), weight, shift)
    with pytest.raises(ValueError, match=r"input: expected \(B, C, H, W\), got \(2, 4, 5, 5, 5\)"):
        crossd_conv2d(torch.randn(2, 4, 5, 5, 5), weight, shift)


@pytest.mark.parametrize("name, value", [("stride", 1.0), ("groups", 1.0), ("dim", 0.0), ("index", 1.0)])
def test_floats_are_no_ints(name: str, value: float) -> None:
    crossd_conv2d(*tensors(), **{name: int(value)})
    with pytest.raises((TypeError, ValueError), match=f"{name}: expected"):
        crossd_conv2d(*tensors(), **{name: value})


def test_an_error_comes_every_time() -> None:
    input, weight, shift = tensors()
    for _ in range(2):
        with pytest.raises(ValueError, match=r"shift: expected \(2, 3\), got \(1, 3\)"):
            crossd_conv2d(input, weight, shift[:1])
        with pytest.raises(TypeError, match="input: expected a Tensor, got list"):
            crossd_conv2d(input.tolist(), weight, shift)


def test_a_list_of_numbers_works() -> None:
    arguments = tensors()
    found = crossd_conv2d(*arguments, stride=[2, 1])
    torch.testing.assert_close(found, crossd_conv2d(*arguments, stride=(2, 1)))


def test_symbolic_sizes() -> None:
    def convolution(*arguments: Tensor) -> Tensor:
        return crossd_conv2d(*arguments, padding=1)

    traced = make_fx(convolution, tracing_mode="symbolic")(*tensors())
    arguments = tensors()
    torch.testing.assert_close(traced(*arguments), convolution(*arguments))

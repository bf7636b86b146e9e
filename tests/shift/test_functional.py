"""Values of the functions on every backend, against the float64 reference."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import crossd_ops
from crossd_ops import reference

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
KERNELS = [(3, 3, 3), (4, 4, 4), (5, 5, 5), (1, 1, 1), (2, 3, 4), (7, 1, 2)]


def arguments(kernel: tuple[int, ...] = (3, 3, 3), dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    return torch.randn(3, 2, *kernel, dtype=dtype), torch.randn(2, 3, dtype=torch.float64)


@pytest.mark.parametrize("kernel", KERNELS, ids=str)
def test_values(backend: str, kernel: tuple[int, int, int]) -> None:
    weight, shift = arguments(kernel)
    close = {"rtol": 0, "atol": 1e-12}
    expected = reference.fourier_shift(weight, shift)
    torch.testing.assert_close(crossd_ops.fourier_shift(weight, shift), expected, **close)
    torch.testing.assert_close(
        crossd_ops.fourier_shift_slice(weight, shift), expected.select(3, kernel[0] // 2), **close
    )
    for dim in range(-3, 3):
        for index in range(-kernel[dim], kernel[dim]):
            got = crossd_ops.fourier_shift_slice(weight, shift, dim=dim, index=index)
            torch.testing.assert_close(got, expected.select(3 + dim % 3, index), **close)


@pytest.mark.parametrize("out_dtype", [*DTYPES, None], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_pair_of_types_rounds_once(backend: str, dtype: torch.dtype, out_dtype: torch.dtype | None) -> None:
    weight, shift = arguments(dtype=dtype)
    shift = shift.to(dtype)
    exact = reference.fourier_shift(weight.double(), shift.double())
    computed = torch.float64 if dtype is torch.float64 else torch.float32
    for got, expected in (
        (crossd_ops.fourier_shift(weight, shift, dtype=out_dtype), exact),
        (crossd_ops.fourier_shift_slice(weight, shift, dim=1, dtype=out_dtype), exact.select(4, 1)),
    ):
        assert got.dtype is (out_dtype or dtype)
        rounding = torch.finfo(got.dtype).eps / 2 * expected.abs() + torch.finfo(got.dtype).tiny
        error = (got.double() - expected).abs()
        assert (error <= rounding + 32 * torch.finfo(computed).eps).all()


def layouts(shape: tuple[int, ...]) -> dict[str, Tensor]:
    doubled = torch.randn(*(2 * size for size in shape), dtype=torch.float64)
    reversed_axes = torch.randn(*shape[::-1], dtype=torch.float64)
    channels_last = torch.randn(shape[0], *shape[2:], shape[1], dtype=torch.float64)
    return {
        "permuted": reversed_axes.permute(*range(len(shape) - 1, -1, -1)),
        "sliced": doubled[tuple(slice(1, 2 * size, 2) for size in shape)],
        "expanded": torch.randn(1, shape[1], *shape[2:], dtype=torch.float64).expand(shape),
        "channels last": channels_last.movedim(-1, 1),
    }


@pytest.mark.parametrize("layout", layouts((1, 1)))
def test_strides(backend: str, layout: str) -> None:
    weight = layouts((3, 4, 3, 3, 4))[layout]
    shift = torch.randn(3, 5, dtype=torch.float64).mT
    got = crossd_ops.fourier_shift_slice(weight, shift, dim=2, index=1)
    torch.testing.assert_close(got, reference.fourier_shift_slice(weight.contiguous(), shift, dim=2, index=1))
    assert not weight.is_contiguous()


@pytest.mark.parametrize("samples, out_channels, in_channels", [(0, 3, 2), (2, 0, 2), (2, 3, 0), (0, 0, 0)])
def test_zero_sizes(backend: str, samples: int, out_channels: int, in_channels: int) -> None:
    weight = torch.randn(out_channels, in_channels, 3, 4, 5, requires_grad=True)
    shift = torch.randn(samples, 3, requires_grad=True)
    whole = crossd_ops.fourier_shift(weight, shift)
    assert whole.shape == (samples, out_channels, in_channels, 3, 4, 5)
    slices = crossd_ops.fourier_shift_slice(weight, shift, dim=1)
    assert slices.shape == (samples, out_channels, in_channels, 3, 5)
    (whole.sum() + slices.sum()).backward()
    assert torch.equal(weight.grad, torch.zeros_like(weight))
    assert torch.equal(shift.grad, torch.zeros_like(shift))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("column", range(3))
def test_a_bad_shift_stays_with_its_sample(backend: str, bad: float, column: int) -> None:
    weight, shift = torch.randn(3, 2, 3, 4, 3), torch.randn(4, 3)
    expected = crossd_ops.fourier_shift(weight, shift), crossd_ops.fourier_shift_slice(weight, shift)
    shift[2, column] = bad
    for got, good in zip(
        (crossd_ops.fourier_shift(weight, shift), crossd_ops.fourier_shift_slice(weight, shift)), expected, strict=True
    ):
        assert got[2].isnan().all()
        assert torch.equal(got[[0, 1, 3]], good[[0, 1, 3]])


def test_autocast_chooses_the_type_but_for_float64(backend: str) -> None:
    weight, shift = torch.randn(2, 2, 3, 3, 3), torch.randn(2, 3)
    with torch.autocast("cpu", torch.bfloat16):
        got = crossd_ops.fourier_shift_slice(weight, shift)
        assert got.dtype is torch.bfloat16
        assert crossd_ops.fourier_shift(weight.half(), shift).dtype is torch.bfloat16
        assert crossd_ops.fourier_shift(weight, shift, dtype=torch.float32).dtype is torch.float32
        assert crossd_ops.fourier_shift(weight.double(), shift).dtype is torch.float64
    torch.testing.assert_close(got, reference.fourier_shift_slice(weight, shift).bfloat16())


def convolution_of_each_sample(input: Tensor, weight: Tensor, shift: Tensor, bias: Tensor | None, **options) -> Tensor:
    kernels = reference.fourier_shift_slice(weight, shift, dim=options.pop("dim", 0), index=options.pop("index", None))
    rows = zip(input, kernels, strict=True)
    return torch.cat([torch.nn.functional.conv2d(x[None], kernel, bias, **options) for x, kernel in rows])


CONVOLUTIONS = [
    {},
    {"stride": 2, "padding": 1},
    {"stride": (1, 3), "padding": (2, 0)},
    {"dilation": 2, "padding": 2},
    {"dilation": (1, 2), "groups": 2},
    {"groups": 4, "padding": 1},
    {"padding": "same"},
    {"padding": "same", "dilation": (2, 1), "groups": 2},
    {"padding": "valid", "stride": 2},
    {"dim": 1, "index": 0, "padding": 1},
    {"dim": -1, "index": -1},
]


@pytest.mark.parametrize("kernel", [(3, 3, 3), (4, 2, 4), (3, 1, 7), (2, 5, 2)], ids=str)
@pytest.mark.parametrize("options", CONVOLUTIONS, ids=str)
def test_convolution(options: dict, kernel: tuple[int, int, int]) -> None:
    input = torch.randn(3, 4, 15, 14, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(8, 4 // options.get("groups", 1), *kernel, dtype=torch.float64, requires_grad=True)
    shift = torch.randn(3, 3, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(8, dtype=torch.float64, requires_grad=True)
    inputs = (input, weight, shift, bias)
    for used in (inputs, inputs[:3]):
        got = crossd_ops.crossd_conv2d(*used, **options)
        expected = convolution_of_each_sample(*(*used, None)[:4], **options)
        torch.testing.assert_close(got, expected, rtol=1e-11, atol=1e-11)
        direction = torch.randn_like(expected)
        torch.testing.assert_close(
            torch.autograd.grad(got, used, direction), torch.autograd.grad(expected, used, direction)
        )


@pytest.mark.parametrize("layout", ["channels last", "permuted", "sliced", "expanded"])
def test_convolution_takes_any_strides(backend: str, layout: str) -> None:
    input = layouts((3, 4, 6, 5))[layout]
    weight, shift = torch.randn(2, 4, 3, 3, 3, dtype=torch.float64), torch.randn(3, 3, dtype=torch.float64)
    got = crossd_ops.crossd_conv2d(input, weight, shift, padding=1)
    torch.testing.assert_close(got, convolution_of_each_sample(input.contiguous(), weight, shift, None, padding=1))


def test_convolution_of_no_samples(backend: str) -> None:
    weight, bias = torch.randn(5, 4, 3, 3, 3, requires_grad=True), torch.randn(5, requires_grad=True)
    input = torch.randn(0, 4, 9, 9, requires_grad=True)
    got = crossd_ops.crossd_conv2d(input, weight, torch.randn(0, 3), bias, stride=2, padding=1)
    assert got.shape == (0, 5, 5, 5)
    got.sum().backward()
    assert input.grad.shape == input.shape
    assert torch.equal(weight.grad, torch.zeros_like(weight))
    assert torch.equal(bias.grad, torch.zeros_like(bias))


def test_convolution_under_autocast(backend: str) -> None:
    input, weight = torch.randn(2, 4, 6, 6), torch.randn(3, 4, 3, 3, 3)
    shift, bias = torch.randn(2, 3), torch.randn(3)
    with torch.autocast("cpu", torch.bfloat16):
        got = crossd_ops.crossd_conv2d(input, weight, shift, bias)
    assert got.dtype is torch.bfloat16
    expected = convolution_of_each_sample(input, weight, shift, bias)
    torch.testing.assert_close(got.float(), expected, rtol=3e-2, atol=3e-1)

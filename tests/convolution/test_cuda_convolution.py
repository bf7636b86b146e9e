"""The per-sample convolution on a GPU, in every layout and type, against its definition in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from cuda_device import DEVICE, DTYPES, compare, full_precision, named, needs_device, only_cuda  # noqa: F401
from torch import Tensor

import crossd_ops
from crossd_ops import reference

pytestmark = [needs_device, pytest.mark.usefixtures("full_precision")]
CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}
# Channels and pixels: columns from pixels or channels, in whole tiles and others; groups; volumes.
CASES = {
    "stem": (3, (40, 37), 1, (7, 7, 7)),
    "few pixels": (64, (7, 7), 1, (3, 3, 3)),
    "even kernel": (40, (18, 21), 1, (4, 4, 4)),
    "1x1": (40, (18, 21), 1, (1, 1, 1)),
    "groups": (48, (17, 16), 2, (3, 3, 3)),
    "depthwise": (8, (17, 16), 8, (3, 3, 3)),
    "volume": (5, (9, 8, 7), 1, (3, 3, 3)),
    "volume of many channels": (32, (6, 7, 8), 1, (3, 3, 3)),
}


def defined(image: Tensor, weight: Tensor, shift: Tensor, stride: int, padding: int, groups: int) -> Tensor:
    """One library convolution for each sample, with kernels from torch.fft."""
    if image.dim() == 4:
        kernels, function = reference.fourier_shift_slice(weight, shift), F.conv2d
    else:
        kernels, function = reference.fourier_shift(weight, shift), F.conv3d
    numbers = None, stride, padding, 1, groups
    return torch.cat([function(image[b : b + 1], kernels[b], *numbers) for b in range(len(image))])


@pytest.mark.parametrize("dtype", DTYPES, ids=named)
@pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels-last"])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("channels", "pixels", "groups", "kernel"), CASES.values(), ids=CASES)
def test_layouts_and_types(
    channels: int, pixels: tuple[int, ...], groups: int, kernel: tuple[int, ...], stride: int,
    channels_last: bool, dtype: torch.dtype,
) -> None:  # fmt: skip
    image = torch.randn(3, channels, *pixels).to(dtype)
    weight = torch.randn(16, channels // groups, *kernel).to(dtype)
    shift = torch.randn(3, 3, dtype=torch.float64 if dtype is torch.float64 else torch.float32)
    numbers = stride, kernel[0] // 2, groups

    def function(image: Tensor, weight: Tensor, shift: Tensor) -> Tensor:
        if channels_last:
            image = image.contiguous(memory_format=CHANNELS_LAST[image.dim()])
        convolve = crossd_ops.crossd_conv2d if image.dim() == 4 else crossd_ops.crossd_conv3d
        result = convolve(image, weight, shift, None, *numbers[:2], 1, groups)
        assert not channels_last or result.is_contiguous(memory_format=CHANNELS_LAST[image.dim()])
        return result

    compare(function, lambda *tensors: defined(*tensors, *numbers), image, weight, shift, dtype=dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=named)
@pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels-last"])
@pytest.mark.parametrize(("channels", "pixels", "groups", "kernel"), CASES.values(), ids=CASES)
def test_given_kernels(
    channels: int, pixels: tuple[int, ...], groups: int, kernel: tuple[int, ...], channels_last: bool,
    dtype: torch.dtype,
) -> None:  # fmt: skip
    axes = len(pixels)
    image = torch.randn(3, channels, *pixels).to(dtype)
    weight, bias = torch.randn(3, 16, channels // groups, *kernel[:axes]).to(dtype), torch.randn(16).to(dtype)
    numbers: dict[str, Any] = {"stride": 2, "padding": kernel[0] // 2, "groups": groups}

    def function(image: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        if channels_last:
            image = image.contiguous(memory_format=CHANNELS_LAST[image.dim()])
        convolve = crossd_ops.sample_conv2d if axes == 2 else crossd_ops.sample_conv3d
        result = convolve(image, weight, bias, **numbers)
        assert not channels_last or result.is_contiguous(memory_format=CHANNELS_LAST[image.dim()])
        return result

    def definition(image: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        convolve = F.conv2d if axes == 2 else F.conv3d
        return torch.cat([convolve(image[b : b + 1], weight[b], bias, **numbers) for b in range(len(image))])

    compare(function, definition, image, weight, bias, dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=named)
@pytest.mark.parametrize("samples", [3, 130])
def test_tiles_with_a_bias(samples: int, dtype: torch.dtype) -> None:
    """Of both sizes, by tensor cores; of an image that is part of a larger one."""
    image = torch.randn(samples, 16, 16, 33).to(dtype)
    weight, bias = torch.randn(24, 8, 3, 3, 3).to(dtype), torch.randn(24).to(dtype)
    shift = torch.randn(samples, 3)

    def function(image: Tensor, weight: Tensor, shift: Tensor, bias: Tensor) -> Tensor:
        image = image.contiguous(memory_format=torch.channels_last)[..., 1:]
        return crossd_ops.crossd_conv2d(image, weight, shift, bias, 1, 1, 1, 2)

    def definition(image: Tensor, weight: Tensor, shift: Tensor, bias: Tensor) -> Tensor:
        return defined(image[..., 1:], weight, shift, 1, 1, 2) + bias[:, None, None]

    compare(function, definition, image, weight, shift, bias, dtype=dtype)


@only_cuda
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("allowed", [False, True])
def test_float32_follows_the_setting_of_convolutions(allowed: bool, channels_last: bool) -> None:
    """In any layout: contiguous images are copied to what tiles take."""
    image, weight, shift = torch.randn(4, 64, 28, 28), torch.randn(64, 64, 3, 3, 3), torch.randn(4, 3)
    exact = defined(image.double(), weight.double(), shift.double(), 1, 1, 1)
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = False, allowed
    image, weight, shift = (tensor.to(DEVICE) for tensor in (image, weight, shift))
    if channels_last:
        image = image.contiguous(memory_format=torch.channels_last)
    result = crossd_ops.crossd_conv2d(image, weight, shift, None, 1, 1)
    error = ((result.double().cpu() - exact).abs().max() / exact.abs().max()).item()
    assert (error > 2e-5) == allowed, error

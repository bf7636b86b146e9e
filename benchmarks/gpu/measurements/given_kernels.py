"""The operators of kernels that are given, beside torch's way: one convolution, each sample a block of its groups."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import crossd_ops
from benchmarks.convolution_methods import Layer, grouped_convolution
from benchmarks.gpu.measurements.case import Case, image_of, name_of
from benchmarks.gpu.measurements.measure import network_layout

_IMAGE_CHANNELS = 3  # of an image, which has no gradient


def sample_conv2d(
    layer: Layer, dtype: torch.dtype, device: torch.device, dry_run: bool, cudnn_benchmark: bool = False
) -> Case:
    """A convolution of a network, of 32 samples."""
    in_channels, out_channels, size, stride, pixels = layer
    batch = 2 if dry_run else 32
    input = image_of(batch, in_channels, (pixels, pixels), dtype, device)
    input.requires_grad_(in_channels != _IMAGE_CHANNELS)
    kernel = torch.randn(out_channels, in_channels, size, size, device=device).to(dtype)
    plain = partial(F.conv2d, weight=kernel.contiguous(memory_format=network_layout(dtype)).requires_grad_())
    shape = f"{in_channels}->{out_channels} {size}x{size} @{pixels}"
    of_case = {"stride": stride, "padding": size // 2}
    return _case(crossd_ops.sample_conv2d, shape, input, kernel, plain, of_case, cudnn_benchmark)


def sample_conv3d(device: torch.device, dry_run: bool, cudnn_benchmark: bool = False) -> Case:
    """A convolution of volumes."""
    batch, channels, pixels = (2, 3, 5) if dry_run else (4, 32, 32)
    input = torch.randn(batch, channels, *[pixels] * 3, device=device).requires_grad_()
    kernel = torch.randn(channels, channels, 3, 3, 3, device=device)
    plain = partial(F.conv3d, weight=kernel.clone().requires_grad_())
    shape = f"{channels}->{channels} 3^3 @{pixels}"
    return _case(crossd_ops.sample_conv3d, shape, input, kernel, plain, {"stride": 1, "padding": 1}, cudnn_benchmark)


def _case(
    function: Callable[..., Tensor],
    shape: str,
    input: Tensor,
    kernel: Tensor,
    plain: partial[Tensor],
    numbers: dict[str, int],
    cudnn_benchmark: bool,
) -> Case:
    """kernel: the sizes of a sample's."""
    weight = torch.randn(len(input), *kernel.shape, device=kernel.device).to(kernel.dtype).requires_grad_()
    wanted = (input,) if input.requires_grad else ()
    candidates: dict[str, Any] = {
        "fused": partial(function, input, weight, **numbers),
        "grouped": partial(grouped_convolution, input, weight, **numbers),
        "plain": partial(plain, input, **numbers),
    }
    stride, padding = numbers["stride"], numbers["padding"]
    work = len(input) * kernel.numel()
    for pixels, size in zip(input.shape[2:], kernel.shape[2:], strict=True):
        work *= (pixels + 2 * padding - size) // stride + 1
    return Case(
        function.__name__,
        shape,
        name_of(input.dtype),
        (*wanted, weight),
        candidates,
        multiply_adds={"forward": work, "forward_backward": (2 + len(wanted)) * work},
        other_work={"plain": (*wanted, plain.keywords["weight"])},
        cudnn_benchmark=cudnn_benchmark,
    )

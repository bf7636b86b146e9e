"""Means over windows of volumes, also of those smaller than a window that padding makes large enough."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor


def average_pool(
    input: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    """`torch.nn.functional.avg_pool3d`, which refuses a volume smaller than its kernel, padded or not.

    `avg_pool2d` takes such maps, and does with them as with others: so does this.

    Args:
        input: ([B,] C, D, H, W).
        kernel_size, stride, padding: numbers, or one for each of the three axes; no stride is the kernel's.
        ceil_mode, count_include_pad, divisor_override: as those of torch.

    Raises:
        RuntimeError: of torch: a padding of more than half a kernel, or no place for a single window.
    """
    kernel, pads = three(kernel_size), three(padding)
    strides = kernel if stride is None or (isinstance(stride, Sequence) and not stride) else three(stride)
    sizes = input.shape[-3:]
    if (any(pads) or ceil_mode) and any(size < reach for size, reach in zip(sizes, kernel, strict=True)):
        axes = [*zip(sizes, kernel, strides, pads, strict=True)]
        places = [_places(*axis, ceil_mode) for axis in axes]
        if min(places) > 0 and all(2 * pad <= reach for pad, reach in zip(pads, kernel, strict=True)):
            return _padded_by_hand(input, axes, places, count_include_pad, divisor_override)
    return F.avg_pool3d(input, kernel, strides, pads, ceil_mode, count_include_pad, divisor_override)


def three(value: Any) -> tuple[int, ...]:
    """A number for each axis of a volume, for one number or a sequence of one or three."""
    if not isinstance(value, Sequence):
        return (value,) * 3
    return (value[0],) * 3 if len(value) == 1 else tuple(value)


def _places(size: int, kernel: int, stride: int, padding: int, ceil_mode: bool) -> int:
    """How many windows an axis has: torch's formula. One that would begin in the padding behind is none."""
    free = size + 2 * padding - kernel
    if not ceil_mode:
        return free // stride + 1
    places = -(-free // stride) + 1
    return places - 1 if (places - 1) * stride >= size + padding else places


def _padded_by_hand(
    input: Tensor, axes: Sequence[tuple[int, ...]], places: list[int], count_include_pad: bool, divisor: int | None
) -> Tensor:
    """The means over windows that are all whole, times what a whole window has of elements per one that counts."""
    amounts: list[int] = []
    for (size, kernel, stride, padding), count in zip(reversed(axes), reversed(places), strict=True):
        behind = (count - 1) * stride + kernel - size - padding
        amounts += [padding, max(behind, 0)]
    kernels, strides = [axis[1] for axis in axes], [axis[2] for axis in axes]
    means = F.avg_pool3d(F.pad(input, amounts), kernels, strides, divisor_override=divisor)
    if divisor:
        return means
    for number, (size, kernel, stride, padding) in enumerate(axes):
        first, end = (-padding, size + padding) if count_include_pad else (0, size)
        starts = [place * stride - padding for place in range(places[number])]
        counts = [min(start + kernel, end) - max(start, first) for start in starts]
        if any(count != kernel for count in counts):
            factors = input.new_tensor([kernel / count for count in counts])
            means = means * factors.view(-1, *(1,) * (2 - number))
    return means

"""What Cross-D layers of two and of three axes have in common: their arguments and their padding."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from ._checks import MAX_KERNEL

_PADDING_MODES = ("zeros", "reflect", "replicate", "circular")
_COUNTS = {2: "two", 3: "three"}


def per_axis(name: str, value: int | tuple[int, ...], smallest: int, axes: int) -> Any:
    """`value` for each of 2 or 3 axes, from one int or from one each."""
    values = (value,) * axes if isinstance(value, int) else value
    if (
        not isinstance(values, (tuple, list))
        or len(values) != axes
        or any(not isinstance(item, int) or item < smallest for item in values)
    ):
        raise ValueError(f"{name}: expected one int or {_COUNTS[axes]}, each at least {smallest}, got {value!r}")
    return tuple(values)


def check_channels(in_channels: int, out_channels: int, groups: int) -> None:
    """Positive numbers of channels (of outputs also 0), multiples of `groups`."""
    for name, value in {"in_channels": in_channels, "out_channels": out_channels, "groups": groups}.items():
        if not isinstance(value, int) or value < (0 if name == "out_channels" else 1):
            raise ValueError(f"{name}: expected a positive int, got {value!r}")
    for name, value in {"in_channels": in_channels, "out_channels": out_channels}.items():
        if value % groups:
            raise ValueError(f"{name}: expected a multiple of {groups} groups, got {value}")


def check_kernel_and_padding(
    kernel_size: tuple[int, ...], stride: tuple[int, ...], padding: tuple[int, ...] | str, padding_mode: str
) -> None:
    """Kernels that can be shifted, and a padding that torch's convolutions know."""
    if max(kernel_size) > MAX_KERNEL:
        raise ValueError(f"kernel_size: expected sizes up to {MAX_KERNEL}, got {kernel_size}")
    if isinstance(padding, str):
        if padding not in ("same", "valid"):
            raise ValueError(f"padding: expected 'same', 'valid' or numbers, got {padding!r}")
        if padding == "same" and set(stride) != {1}:
            raise ValueError(f"padding: expected 'same' with stride 1 only, got stride {stride}")
    if padding_mode not in _PADDING_MODES:
        raise ValueError(f"padding_mode: expected one of {', '.join(_PADDING_MODES)}, got {padding_mode!r}")


def padded(
    input: Tensor, kernel_size: tuple[int, ...], dilation: tuple[int, ...], padding: Any, padding_mode: str
) -> tuple[Tensor, Any]:
    """The input padded by what is not zeros, and the padding left to the convolution."""
    if padding_mode == "zeros" or padding == "valid":
        return input, padding
    if isinstance(padding, str):
        totals = [rate * (size - 1) for rate, size in zip(dilation, kernel_size, strict=True)]
        before = [total // 2 for total in totals]
        after = [total - front for total, front in zip(totals, before, strict=True)]
    else:
        before = after = [*padding]
    # F.pad begins with the last axis.
    amounts = [amount for pair in zip(before[::-1], after[::-1], strict=True) for amount in pair]
    return F.pad(input, amounts, mode=padding_mode), (0,) * len(before)

"""What Cross-D layers of two and of three axes have in common: the fixed shift, their arguments and their padding."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from ..operators.checks import MAX_KERNEL, accumulate_dtype, int_of, ints_of, positive_int
from .leaf import Leaf

_PADDING_MODES = ("zeros", "reflect", "replicate", "circular")
_COUNTS = {2: "two", 3: "three"}


class CrossDLayer(Leaf):
    """The fixed shift of a layer, a buffer that keeps its digits when the layer changes its type, and moves with it."""

    weights_3d: Tensor
    fixed_shift: Tensor | None

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        fixed = self.fixed_shift
        apply: Any = super()._apply
        apply(fn, recurse)
        moved = self.fixed_shift
        if fixed is not None and moved is not None:
            if fixed.is_meta and not moved.is_meta:  # to_empty: there are no values, and any would look like a shift
                fixed = moved.new_full((3,), math.nan)
            # From what it was, as half types have too few digits for a shift.
            self.fixed_shift = fixed.to(moved.device, accumulate_dtype(self.weights_3d.dtype))
        return self


def per_axis(name: str, value: int | tuple[int, ...], smallest: int, axes: int) -> Any:
    """`value` for each of 2 or 3 axes, from one int or from one each."""
    values = ints_of(value, axes)
    if values is None or any(item < smallest for item in values):
        raise ValueError(f"{name}: expected one int or {_COUNTS[axes]}, each at least {smallest}, got {value!r}")
    return values


def channels_and_groups(in_channels: int, out_channels: int, groups: int) -> tuple[int, int, int]:
    """Positive numbers of channels (of outputs also 0), multiples of `groups`, and groups, as ints."""
    inputs, groups = positive_int("in_channels", in_channels), positive_int("groups", groups)
    outputs = 0 if int_of(out_channels) == 0 else positive_int("out_channels", out_channels)
    for name, value in {"in_channels": inputs, "out_channels": outputs}.items():
        if value % groups:
            raise ValueError(f"{name}: expected a multiple of {groups} groups, got {value}")
    return inputs, outputs, groups


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

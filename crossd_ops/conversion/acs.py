"""ACS convolution (Yang et al., arXiv 1911.10477): 2D kernels that look at a volume in three orientations."""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..layers.common import channels_and_groups, check_kernel_and_padding, per_axis
from ..layers.leaf import Leaf
from ..operators.checks import check_tensor, int_of, positive_int


class _Part(NamedTuple):
    """Output channels of one orientation; `plane` is the axis (0 to 2) along which their kernels have no extent."""

    plane: int
    inputs: slice
    outputs: slice
    groups: int


class ACSConv3d(Leaf):
    """3D convolution with the weight of a 2D one: a third of the output channels each sees axial, coronal, sagittal.

        axial:    weight[:a]     as (O, C, 1, K, K), over height and width
        coronal:  weight[a:b]    as (O, C, K, 1, K), over depth and width
        sagittal: weight[b:]     as (O, C, K, K, 1), over depth and height

    Where the channels do not divide by three, the first orientations have one more (arXiv 1911.10477). Of three or more
    groups the orientations share the groups, of two they share the channels of each. Along the axis that a kernel does
    not extend to, it stands at its middle element K // 2: the operation is that of a (K, K, K) kernel that is 0 beside
    one plane through the middle.

    Args:
        in_channels, out_channels, groups, bias, padding_mode, device, dtype: as for `torch.nn.Conv3d`.
        kernel_size, padding, dilation: one int, as every axis of the volume meets every axis of the kernel.
        stride: one int, or one each for depth, height and width.

    Shapes:
        input (B, in_channels, D, H, W); output as for a `torch.nn.Conv3d` of these arguments.

    Attributes:
        weight: (out_channels, in_channels / groups, K, K).
        bias: (out_channels,) or None.

    Raises:
        ValueError: arguments that do not fit, with what was expected and what came.
    """

    bias: Tensor | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int | tuple[int, int, int] = 1,
        padding: int = 0,
        dilation: int = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        positive_int("out_channels", out_channels)  # of none, a layer of three orientations has nothing to do
        self.in_channels, self.out_channels, self.groups = channels_and_groups(in_channels, out_channels, groups)
        self.kernel_size = _one("kernel_size", kernel_size, 1)
        self.padding, self.dilation = _one("padding", padding, 0), _one("dilation", dilation, 1)
        self.stride = per_axis("stride", stride, 1, 3)
        self.padding_mode = padding_mode
        check_kernel_and_padding((1,), self.stride, (self.padding,), padding_mode)
        shape = (self.out_channels, self.in_channels // self.groups, self.kernel_size, self.kernel_size)
        self.weight = nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
        if bias:
            self.bias = nn.Parameter(torch.empty(self.out_channels, device=device, dtype=dtype))
        else:
            self.register_parameter("bias", None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws weight and bias anew, as `torch.nn.Conv2d` does."""
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None:
            bound = 1 / math.sqrt(self.in_channels // self.groups * self.kernel_size**2)
            nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, input: Tensor) -> Tensor:
        """The convolution, (B, out_channels, D', H', W')."""
        check_tensor("input", input)
        if input.dim() != 5 or input.shape[1] != self.in_channels:
            raise ValueError(f"input: expected (B, {self.in_channels}, D, H, W), got {tuple(input.shape)}")
        around = self.padding
        if self.padding_mode != "zeros" and around:
            input, around = F.pad(input, (around,) * 6, mode=self.padding_mode), 0
        extent = self.dilation * (self.kernel_size - 1)
        middle = self.dilation * (self.kernel_size // 2)
        outputs = []
        for part in self._parts():
            # Along the axis without extent, a kernel of one element that takes the place of the middle one.
            ends = [0] * 6
            ends[4 - 2 * part.plane : 6 - 2 * part.plane] = [around - middle, around - (extent - middle)]
            volume = input[:, part.inputs]
            volume = F.pad(volume, ends) if any(ends) else volume
            padding, dilation = [around] * 3, [self.dilation] * 3
            padding[part.plane], dilation[part.plane] = 0, 1
            kernel = self.weight[part.outputs].unsqueeze(2 + part.plane)
            bias = None if self.bias is None else self.bias[part.outputs]
            outputs.append(F.conv3d(volume, kernel, bias, self.stride, padding, dilation, part.groups))
        return torch.cat(outputs, dim=1)

    def _parts(self) -> list[_Part]:
        """The output channels in order, divided by group and orientation."""
        group_inputs, group_outputs = self.in_channels // self.groups, self.out_channels // self.groups
        parts = []
        if self.groups >= 3:
            for plane, (start, end) in enumerate(_thirds(self.groups)):
                inputs = slice(start * group_inputs, end * group_inputs)
                parts.append(_Part(plane, inputs, slice(start * group_outputs, end * group_outputs), end - start))
            return parts
        for group in range(self.groups):
            inputs, first = slice(group * group_inputs, (group + 1) * group_inputs), group * group_outputs
            for plane, (start, end) in enumerate(_thirds(group_outputs)):
                if end > start:
                    parts.append(_Part(plane, inputs, slice(first + start, first + end), 1))
        return parts

    def extra_repr(self) -> str:
        """Arguments of the constructor."""
        text = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"
        shown = {
            "padding": (self.padding, 0),
            "dilation": (self.dilation, 1),
            "groups": (self.groups, 1),
            "bias": (self.bias is not None, True),
            "padding_mode": (self.padding_mode, "zeros"),
        }
        return text + "".join(f", {name}={value}" for name, (value, default) in shown.items() if value != default)


def _one(name: str, value: int, smallest: int) -> int:
    number: int | None = int_of(value)
    if number is None or number < smallest:
        raise ValueError(f"{name}: expected one int, at least {smallest}, got {value!r}")
    return number


def _thirds(count: int) -> list[tuple[int, int]]:
    """Start and end of three runs of `count` items; the first runs have one more where it does not divide."""
    starts = [number * (count // 3) + min(number, count % 3) for number in range(4)]
    return [*itertools.pairwise(starts)]

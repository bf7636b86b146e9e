"""3D layers that torch does not have: twins of timm's 2D ones. Parameters and buffers keep their names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..layers.leaf import Leaf
from .averages import average_pool
from .volumes.endless import is_endless, longer


def same_padded(input: Tensor, kernel: Any, stride: Any, dilation: Any = 1, value: float = 0.0) -> Tensor:
    """A volume padded as TensorFlow's "SAME": with it a window has ceil(size / stride) places on each axis.

        total = max((ceil(size / stride) - 1) stride + (K - 1) dilation + 1 - size, 0),   total // 2 of it in front

    Args:
        input: (B, C, D, H, W).
        kernel, stride, dilation: numbers, or one for each of the three axes.
        value: what it is padded with.
    """
    amounts: list[int] = []
    sym_max: Any = torch.sym_max  # keeps a symbolic size symbolic, for torch.export
    for axis in (2, 1, 0):  # F.pad begins with the last axis
        size, step = input.shape[2 + axis], _of_axis(stride, axis)
        reach = (_of_axis(kernel, axis) - 1) * _of_axis(dilation, axis) + 1
        total = sym_max(((size + step - 1) // step - 1) * step + reach - size, 0)
        amounts += [total // 2, total - total // 2]
    return _padded(input, amounts, value=value)


def _padded(input: Tensor, amounts: list[int], mode: str = "constant", value: float = 0.0) -> Tensor:
    """`F.pad` of the six sides from the last axis on; endless volumes go on along the depth."""
    if is_endless(input):
        input, amounts = longer(input, *amounts[4:]), amounts[:4]
        amounts = [*amounts, 0, 0]
    return F.pad(input, amounts, mode, value if mode == "constant" else None)


def _of_axis(value: Any, axis: int) -> int:
    number: int = value[axis] if isinstance(value, Sequence) else value
    return number


class Conv3dSame(Leaf, nn.Conv3d):
    """`torch.nn.Conv3d` with the zeros of `same_padded`, TensorFlow's "SAME": ceil(size / stride) outputs an axis.

    The twin of timm's `Conv2dSame`, then its `flat_type`, and of `CrossDConv2dSame`. `padding` of the constructor is of
    no effect.

    Shapes:
        input (B, in_channels, D, H, W); output (B, out_channels) and the three sizes divided by the stride, rounded up.
    """

    flat_type: type[nn.Conv2d] | None = None

    def forward(self, input: Tensor) -> Tensor:
        """The convolution."""
        padded = same_padded(input, self.kernel_size, self.stride, self.dilation)
        return F.conv3d(padded, self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


class BatchNormAct3d(Leaf, nn.BatchNorm3d):
    """Batch normalisation, dropout and activation in one layer: the twin of timm's `BatchNormAct2d`.

    Made by `to_3d` from such a layer, whose parts `drop` and `act` it keeps; `flat_type` is its type.

    Shapes:
        (B, C, D, H, W) -> the same.
    """

    flat_type: type[nn.Module]
    drop: nn.Module
    act: nn.Module

    def forward(self, input: Tensor) -> Tensor:
        """act(drop(normalised input))."""
        output: Tensor = self.act(self.drop(super().forward(input)))
        return output


class LayerNorm3d(Leaf, nn.LayerNorm):
    """Layer normalisation over the channels of each voxel: the twin of timm's and torchvision's `LayerNorm2d`.

    Made by `to_3d` from such a layer; `flat_type` is its type.

    Shapes:
        (B, C, D, H, W) -> the same.
    """

    flat_type: type[nn.Module]

    def forward(self, input: Tensor) -> Tensor:
        """The normalised volume."""
        return super().forward(input.movedim(1, -1)).movedim(-1, 1)


class MaxPool3dSame(Leaf, nn.MaxPool3d):
    """The maximum over windows, padded by `same_padded` with what is no maximum: the twin of timm's `MaxPool2dSame`.

    Made by `to_3d` from such a layer; `flat_type` is its type.

    Shapes:
        (B, C, D, H, W) -> (B, C) and the three sizes divided by the stride, rounded up.
    """

    flat_type: type[nn.Module]

    def forward(self, input: Tensor) -> Tensor:
        """The maxima."""
        padded = same_padded(input, self.kernel_size, self.stride, self.dilation, -float("inf"))
        return F.max_pool3d(padded, self.kernel_size, self.stride, 0, self.dilation, self.ceil_mode)


class AvgPool3d(Leaf, nn.AvgPool3d):
    """`torch.nn.AvgPool3d` that takes volumes smaller than its kernel where padding makes them large enough.

    `torch.nn.AvgPool2d`, whose twin it is, takes such maps.

    Shapes:
        ([B,] C, D, H, W) -> ([B,] C) and the number of windows along the three axes.
    """

    def forward(self, input: Tensor) -> Tensor:
        """The means."""
        padding: Any = self.padding
        if is_endless(input):
            depth, *plane = padding if isinstance(padding, tuple) else (padding,) * 3
            input, padding = longer(input, depth, depth), (0, *plane)
        options = self.ceil_mode, self.count_include_pad, self.divisor_override
        return average_pool(input, self.kernel_size, self.stride, padding, *options)


class AvgPool3dSame(Leaf, nn.AvgPool3d):
    """The mean over windows, padded by `same_padded` with zeros that count: the twin of timm's `AvgPool2dSame`.

    Made by `to_3d` from such a layer; `flat_type` is its type.

    Shapes:
        (B, C, D, H, W) -> (B, C) and the three sizes divided by the stride, rounded up.
    """

    flat_type: type[nn.Module]

    def forward(self, input: Tensor) -> Tensor:
        """The means."""
        padded = same_padded(input, self.kernel_size, self.stride)
        return average_pool(padded, self.kernel_size, self.stride, 0, self.ceil_mode, self.count_include_pad)


class BlurPool3d(Leaf):
    """A binomial filter and a stride (arXiv 1904.11486), along the depth as along the height: the twin of timm's.

    Made by `to_3d` from `BlurPool2d`, whose attributes it keeps; `flat_type` is its type.

    Shapes:
        (B, C, D, H, W) -> (B, C) and sizes divided by the stride, rounded up.

    Attributes:
        filt: buffer (C, 1, K, K, K), or (1, 1, K, K, K) for any number of channels; sums of 1.
        padding: amounts for the six sides, from the last axis on.
    """

    flat_type: type[nn.Module]
    filt: Tensor
    padding: list[int]
    pad_mode: str
    stride: int | tuple[int, int, int]

    def deepen(self) -> None:
        """Gives the filter of two axes a third, and the depth the padding of the height."""
        line = self.filt[0, 0].sum(0)  # the other factor of the filter has the sum 1
        self.filt = self.filt.unsqueeze(2) * line.view(-1, 1, 1)
        self.padding = [*self.padding, *self.padding[2:]]

    def flatten(self) -> None:
        """Undoes `deepen`."""
        self.filt = self.filt.sum(2)
        self.padding = self.padding[:4]

    def forward(self, input: Tensor) -> Tensor:
        """The filtered volume at every stride-th place."""
        channels = input.shape[1]
        weight = self.filt.expand(channels, -1, -1, -1, -1)
        return F.conv3d(_padded(input, self.padding, self.pad_mode), weight, stride=self.stride, groups=channels)

"""3D layers that torch does not have: twins of timm's 2D ones. Parameters and buffers keep their names."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..layers.leaf import Leaf


class Conv3dSame(Leaf, nn.Conv3d):
    """`torch.nn.Conv3d` padded with zeros as TensorFlow's "SAME", at any stride: ceil(size / stride) outputs an axis.

        total = max((ceil(size / stride) - 1) stride + (K - 1) dilation + 1 - size, 0),   total // 2 of it in front

    The twin of timm's `Conv2dSame`, then its `flat_type`, and of `CrossDConv2dSame`. `padding` of the constructor is of
    no effect.

    Shapes:
        input (B, in_channels, D, H, W); output (B, out_channels) and the three sizes divided by the stride, rounded up.
    """

    flat_type: type[nn.Conv2d] | None = None

    def forward(self, input: Tensor) -> Tensor:
        """The convolution."""
        amounts: list[int] = []
        sym_max: Any = torch.sym_max  # keeps a symbolic size symbolic, for torch.export
        for axis in (2, 1, 0):  # F.pad begins with the last axis
            size, stride = input.shape[2 + axis], self.stride[axis]
            reach = (self.kernel_size[axis] - 1) * self.dilation[axis] + 1
            total = sym_max(((size + stride - 1) // stride - 1) * stride + reach - size, 0)
            amounts += [total // 2, total - total // 2]
        return F.conv3d(F.pad(input, amounts), self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


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

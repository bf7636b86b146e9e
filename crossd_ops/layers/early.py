"""The layer of an early version of the published code, for its checkpoints: another head, the same weight."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from ..functional import crossd_conv2d
from ..operators.context import with_plain_sizes
from ..operators.head import scores
from .conv2d import CrossDConv2d

_LARGEST_ANGLE = math.pi / 4


class CrossDConv2dEarly(CrossDConv2d):
    """`CrossDConv2d` with the head of an early version of the published code, which knew no axis.

        m = rotation_params(x) (B, 3, H, W),  angle = tanh(sum_c mean_hw m) pi / 4,  shift = cos(angle) (1, 1, 1)

    All else is as in `CrossDConv2d`. Its weight was kept as complex numbers, the 3D Fourier transform of `weights_3d`.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode, device, dtype:
            as for `torch.nn.Conv2d`.
        dim, index, depth: as for `CrossDConv2d`.

    Shapes:
        as for `CrossDConv2d`.
    """

    def __init__(self, in_channels: int, *arguments: Any, **options: Any) -> None:
        super().__init__(in_channels, *arguments, **options)
        factory: dict[str, Any] = {"device": self.weights_3d.device, "dtype": self.weights_3d.dtype}
        self.rotation_params = nn.Sequential(nn.Conv2d(self.in_channels, 3, 1, **factory), nn.BatchNorm2d(3, **factory))

    def predict_rotation(self, input: Tensor) -> tuple[Tensor, Tensor]:
        """Raises TypeError: this head predicts no rotation, see `predict_shift`."""
        raise TypeError(f"{type(self).__name__} predicts no axis; predict_shift gives the shift of each sample")

    def predict_shift(self, input: Tensor) -> Tensor:
        """Shift (B, 3), in elements, that the head predicts for each sample of input (B, in_channels, H, W)."""
        with_plain_sizes(self._check_input, input)
        map = scores(input, self.rotation_params)
        map = map.to(torch.promote_types(map.dtype, torch.float32))
        angle = map.mean((2, 3)).sum(1, keepdim=True).tanh() * _LARGEST_ANGLE
        return angle.cos().expand(-1, 3)

    def forward(self, input: Tensor) -> Tensor:
        """The convolution, (B, out_channels, H', W')."""
        if self._is_identity or self.fixed_shift is not None:
            return super().forward(input)
        shift = self.predict_shift(input)
        padded, padding = self._padded(input)
        return crossd_conv2d(
            padded,
            self.weights_3d,
            shift,
            self.bias,
            self.stride,
            padding,
            self.dilation,
            self.groups,
            dim=self.dim,
            index=self.index,
        )

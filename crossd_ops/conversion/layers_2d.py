"""What timm's convolutions need beyond `CrossDConv2d`: TensorFlow's padding, and weight standardisation."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..layers.conv2d import CrossDConv2d

# timm's convolutions by name, as timm need not be installed: padded as TensorFlow does, and standardising their weight.
SAME_PADDING = ("Conv2dSame", "StdConv2dSame", "ScaledStdConv2dSame")
STANDARDIZED = ("StdConv2d", "StdConv2dSame", "ScaledStdConv2d", "ScaledStdConv2dSame")


def timm_forward(module: nn.Module) -> str:
    """Name of the class of timm whose forward `module` runs, "" where it is another's; timm need not be installed."""
    definer = next(kind for kind in type(module).__mro__ if "forward" in vars(kind))
    return definer.__name__ if definer.__module__.partition(".")[0] == "timm" else ""


class CrossDConv2dSame(CrossDConv2d):
    """`CrossDConv2d` padded with zeros as TensorFlow's "SAME", at any stride: ceil(size / stride) outputs on each axis.

        total = max((ceil(size / stride) - 1) stride + (K - 1) dilation + 1 - size, 0),   total // 2 of it in front

    The padding depends on the size of the input, and is one-sided where total is odd. The head sees the input without
    padding. Parameters and their names are those of `CrossDConv2d`.

    Args:
        in_channels, out_channels, kernel_size, stride, dilation, groups, bias, and all others by name: as for
            `CrossDConv2d`, without padding and padding_mode.

    Shapes:
        input (B, in_channels, H, W); output (B, out_channels, ceil(H / stride), ceil(W / stride)).

    Attributes:
        padding: "same", which `torch.nn.Conv2d` means too where the stride is 1, and refuses elsewhere.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        bias: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(
            in_channels, out_channels, kernel_size, stride, 0, dilation, groups, bias, padding_mode="zeros", **options
        )
        self.padding = "same"

    def _padded(self, input: Tensor) -> tuple[Tensor, tuple[int, int] | str]:
        amounts: list[int] = []
        sym_max: Any = torch.sym_max  # keeps a symbolic size symbolic, for torch.export
        for axis in (1, 0):  # F.pad begins with the last axis
            size, stride = input.shape[2 + axis], self.stride[axis]
            reach = (self.kernel_size[axis] - 1) * self.dilation[axis] + 1
            total = sym_max(((size + stride - 1) // stride - 1) * stride + reach - size, 0)
            amounts += [total // 2, total - total // 2]
        return F.pad(input, amounts), (0, 0)


class WeightStandardization(nn.Module):
    """Parametrisation of a weight: zero mean and unit variance for each output channel, times a gain.

        w[o] = gain[o] scale (v[o] - mean(v[o])) / sqrt(var(v[o]) + eps)

    (arXiv 1903.10520; with gain and scale arXiv 2101.08692.) A Fourier shift leaves the mean of a 3D weight alone, and
    its variance too where the sizes are odd: the 3D weight of every sample is standardised, whatever its shift.

    Args:
        eps: added to the variance.
        gain: parameter of out_channels elements, or None for 1.
        scale: a constant.

    Shapes:
        weight (O, ...), at least two elements for each output channel; the result has the same shape.
    """

    gain: nn.Parameter | None

    def __init__(self, eps: float, gain: nn.Parameter | None = None, scale: float = 1.0) -> None:
        super().__init__()
        self.eps, self.scale = eps, scale
        self.register_parameter("gain", gain)

    def forward(self, weight: Tensor) -> Tensor:
        """The standardised weight."""
        gain = None if self.gain is None else self.gain.flatten() * self.scale
        rows = weight.reshape(1, weight.shape[0], -1)
        return F.batch_norm(rows, None, None, gain, training=True, momentum=0.0, eps=self.eps).reshape(weight.shape)

    def extra_repr(self) -> str:
        """The constants."""
        return f"eps={self.eps}, scale={self.scale}, gain={self.gain is not None}"

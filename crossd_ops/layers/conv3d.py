"""The Cross-D layer for volumes: the rotation is predicted from the volume, the whole shifted weight convolves it."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..functional import crossd_conv3d, fourier_shift
from ..operators.checks import accumulate_dtype, axis_of, check_kind_of_rotation, check_tensor, positive_int
from ..operators.context import with_plain_sizes
from ..operators.head import predict_shift, scores
from ..operators.plan import plan_before_shift
from ..operators.rotation_head import pooled_rotation
from .common import CrossDLayer, channels_and_groups, check_kernel_and_padding, padded, per_axis
from .plain_tensor import plain_tensor
from .skipped_head import without_head


class CrossDConv3d(CrossDLayer):
    """3D convolution whose weight is, for each sample, a 3D weight that a head shifts: `CrossDConv2d` for volumes.

        rotation_params(x) -> m (B, 4, D, H, W);   v = sum_dhw softmax_dhw(m) m
        axis = v[:, :3] / (|v[:, :3]| + 1e-8),     angle = tanh(v[:, 3]) pi / 4
        y_b = conv3d(x_b, weights_3d shifted by rotation_shift(axis_b, angle_b)) + bias

    The published networks end with plain 3D convolutions; this layer carries the head of arXiv 2411.02441 over to
    volumes. Where every kernel size is 1 a shift is the identity: head and shift are skipped, as in `CrossDConv2d`.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode, device, dtype:
            as for `torch.nn.Conv3d`; every one is honoured. Kernel sizes up to 15.
        rotation: "linear", as the published code, or "exact"; see `rotation_shift`.
        dim: axis of `weights_3d` that lies along the depth of the volume, 0 to 2; the other two, in their order, lie
            along height and width. 0 is `torch.nn.Conv3d`'s layout.
        rotation_channels: hidden channels of the head.

    Shapes:
        input (B, in_channels, D, H, W), B may be 0; output (B, out_channels, D', H', W'), as for `torch.nn.Conv3d`.

    Attributes:
        weights_3d: (out_channels, in_channels / groups) and the three kernel sizes, that of the depth at `dim`.
        bias: (out_channels,) or None.
        rotation_params: the head; 1x1x1 convolutions and a batch normalisation under the published names.
        fixed_shift: (3,) or None, as of `CrossDConv2d`, see `fix_shift`.

    Raises:
        ValueError, TypeError: arguments that do not fit, with what was expected and what came.
    """

    bias: Tensor | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int, int],
        stride: int | tuple[int, int, int] = 1,
        padding: int | tuple[int, int, int] | str = 0,
        dilation: int | tuple[int, int, int] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        rotation: Literal["linear", "exact"] = "linear",
        dim: int = 0,
        rotation_channels: int = 16,
    ) -> None:
        super().__init__()
        channels = channels_and_groups(in_channels, out_channels, groups)
        self.in_channels, self.out_channels, self.groups = channels
        self.kernel_size = per_axis("kernel_size", kernel_size, 1, 3)
        self.stride = per_axis("stride", stride, 1, 3)
        self.dilation = per_axis("dilation", dilation, 1, 3)
        self.padding = padding if isinstance(padding, str) else per_axis("padding", padding, 0, 3)
        self.padding_mode, self.rotation = padding_mode, rotation
        check_kernel_and_padding(self.kernel_size, self.stride, self.padding, padding_mode)
        check_kind_of_rotation(rotation)
        self.dim = axis_of(dim)
        sizes = [*self.kernel_size[1:]]
        sizes.insert(self.dim, self.kernel_size[0])
        factory: Any = {"device": device, "dtype": dtype}
        self.weights_3d = nn.Parameter(
            torch.empty(self.out_channels, self.in_channels // self.groups, *sizes, **factory)
        )
        if bias:
            self.bias = nn.Parameter(torch.empty(self.out_channels, **factory))
        else:
            self.register_parameter("bias", None)
        hidden = positive_int("rotation_channels", rotation_channels)
        self.rotation_params = nn.Sequential(
            nn.Conv3d(self.in_channels, hidden, 1, **factory),
            nn.BatchNorm3d(hidden, **factory),
            nn.ReLU(inplace=True),
            nn.Conv3d(hidden, 4, 1, **factory),
        )
        self.register_buffer("fixed_shift", None, persistent=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws all parameters anew: the weight as `CrossDConv2d`, the bias as `torch.nn.Conv3d`, the head's layers."""
        nn.init.kaiming_normal_(self.weights_3d, mode="fan_out", nonlinearity="relu")
        if self.bias is not None:
            bound = 1 / math.sqrt(self.in_channels // self.groups * math.prod(self.kernel_size))
            nn.init.uniform_(self.bias, -bound, bound)
        for layer in self.rotation_params:
            if isinstance(layer, nn.Conv3d | nn.BatchNorm3d):
                layer.reset_parameters()

    def predict_rotation(self, input: Tensor) -> tuple[Tensor, Tensor]:
        """Axis (B, 3) and angle (B,), in radians, of each sample; float32 at least, also where the head is in half."""
        return pooled_rotation(scores(input, self.rotation_params).flatten(2, 3))

    def predict_shift(self, input: Tensor) -> Tensor:
        """Shift (B, 3), in elements, that the head predicts for each sample of input (B, in_channels, D, H, W)."""
        with_plain_sizes(self._check_input, input)
        return predict_shift(input, self.rotation_params, self.rotation)

    def fix_shift(self, shift: Tensor | None) -> None:
        """From now on every sample has this shift, (3,) in elements, and the head is skipped; None undoes it.

        As `CrossDConv2d.fix_shift`; the shift counts along the axes of `weights_3d`.
        """
        if shift is not None:
            check_tensor("shift", shift)
            if shift.shape != (3,):
                raise ValueError(f"shift: expected (3,), got {tuple(shift.shape)}")
            dtype = accumulate_dtype(self.weights_3d.dtype)
            shift = plain_tensor(shift).detach().to(self.weights_3d.device, dtype, copy=True)
        self.fixed_shift = shift

    def forward(self, input: Tensor) -> Tensor:
        """The convolution, (B, out_channels, D', H', W')."""
        with_plain_sizes(self._check_input, input)
        fixed = self.fixed_shift
        volume, padding = padded(input, self.kernel_size, self.dilation, self.padding, self.padding_mode)
        options: Any = (self.bias, self.stride, padding, self.dilation, self.groups)
        if set(self.kernel_size) == {1} or fixed is not None:
            kernel = without_head(self.weights_3d, self.rotation_params)
            if fixed is not None:
                kernel = fourier_shift(kernel, fixed[None]).squeeze(0)
            return F.conv3d(volume, kernel.movedim(2 + self.dim, 2), *options)
        weight = self.weights_3d.movedim(2 + self.dim, 2)
        # Before the head, which counts the batch.
        with_plain_sizes(plan_before_shift, volume, weight, *options, 0, None, whole=True)
        shift = predict_shift(input, self.rotation_params, self.rotation)
        order = [self.dim, *(axis for axis in range(3) if axis != self.dim)]
        shift = shift if self.dim == 0 else shift[:, order]
        return crossd_conv3d(volume, weight, shift, *options)

    def _check_input(self, input: Tensor) -> None:
        check_tensor("input", input)
        if input.dim() != 5 or input.shape[1] != self.in_channels:
            raise ValueError(f"input: expected (B, {self.in_channels}, D, H, W), got {tuple(input.shape)}")

    def extra_repr(self) -> str:
        """Arguments of the constructor; those that have their default only where `torch.nn.Conv3d` shows them too."""
        text = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"
        shown = {
            "padding": (self.padding, (0, 0, 0)),
            "dilation": (self.dilation, (1, 1, 1)),
            "groups": (self.groups, 1),
            "bias": (self.bias is not None, True),
            "padding_mode": (self.padding_mode, "zeros"),
            "rotation": (self.rotation, "linear"),
            "dim": (self.dim, 0),
        }
        return text + "".join(f", {name}={value}" for name, (value, default) in shown.items() if value != default)

"""Layers that predict a rotation for each sample and convolve with the weight it shifts (arXiv 2411.02441)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..functional import crossd_conv2d, fourier_shift_slice
from ..operators.checks import (
    MAX_KERNEL,
    accumulate_dtype,
    axis_of,
    check_kind_of_rotation,
    check_tensor,
    int_of,
    position_of,
    positive_int,
)
from ..operators.context import with_plain_sizes
from ..operators.head import predict_shift, scores
from ..operators.plan import plan_before_shift
from ..operators.rotation_head import pooled_rotation
from .common import CrossDLayer, channels_and_groups, check_kernel_and_padding, padded, per_axis
from .plain_tensor import plain_tensor
from .skipped_head import without_head
from .straight import straight


class CrossDConv2d(CrossDLayer):
    """2D convolution whose weight is, for each sample, a slice of a 3D weight that a head shifts.

        rotation_params(x) -> m (B, 4, H, W);   v = sum_hw softmax_hw(m) m
        axis = v[:, :3] / (|v[:, :3]| + 1e-8),  angle = tanh(v[:, 3]) pi / 4
        y_b = conv2d(x_b, slice of weights_3d shifted by rotation_shift(axis_b, angle_b)) + bias

    Where every kernel size is 1 a shift is the identity: head and shift are skipped. The head is kept for its names;
    its parameters get the gradients of 0 that they have in the published layer, its BatchNorm counts no batches.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode, device, dtype:
            as for `torch.nn.Conv2d`; every one is honoured.
        rotation: "linear", as the published code, or "exact"; see `rotation_shift`.
        dim, index: the slice, see `fourier_shift_slice`; default the published middle slice of the first axis.
        depth: size of the weight along `dim`; default the larger of the two kernel sizes.
        rotation_channels: hidden channels of the head.

    Shapes:
        input (B, in_channels, H, W), B may be 0; output (B, out_channels, H', W'), as for `torch.nn.Conv2d`.

    Attributes:
        weights_3d: (out_channels, in_channels / groups, Kd, Kh, Kw).
        bias: (out_channels,) or None. The published layer has none: a state dict of one, which has no entry for it,
            loads strictly and sets it to 0.
        rotation_params: the head.
        fixed_shift: (3,) or None, see `fix_shift`; no entry of the state dict. On the meta device it has no values:
            `to_empty` makes it NaN, and every result with it, until it is fixed again.

    Raises:
        ValueError, TypeError: arguments that do not fit, with what was expected and what came.
    """

    bias: Tensor | None
    kernel_size: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]
    padding: tuple[int, int] | str

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] | str = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        rotation: Literal["linear", "exact"] = "linear",
        dim: int = 0,
        index: int | None = None,
        depth: int | None = None,
        rotation_channels: int = 16,
    ) -> None:
        super().__init__()
        channels = channels_and_groups(in_channels, out_channels, groups)
        self.in_channels, self.out_channels, self.groups = channels
        self.kernel_size = per_axis("kernel_size", kernel_size, 1, 2)
        self.stride = per_axis("stride", stride, 1, 2)
        self.dilation = per_axis("dilation", dilation, 1, 2)
        self.padding = padding if isinstance(padding, str) else per_axis("padding", padding, 0, 2)
        self.padding_mode = padding_mode
        self.rotation = rotation
        check_kernel_and_padding(self.kernel_size, self.stride, self.padding, padding_mode)
        check_kind_of_rotation(rotation)
        self.depth = max(self.kernel_size) if depth is None else int_of(depth)
        if self.depth is None or not 1 <= self.depth <= MAX_KERNEL:
            raise ValueError(f"depth: expected an int from 1 to {MAX_KERNEL}, got {depth!r}")
        self.dim, self.index = axis_of(dim), position_of(index, self.depth)
        sizes = list(self.kernel_size)
        sizes.insert(self.dim, self.depth)
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
            nn.Conv2d(self.in_channels, hidden, 1, **factory),
            nn.BatchNorm2d(hidden, **factory),
            nn.ReLU(inplace=True),
            nn.Conv2d(hidden, 4, 1, **factory),
        )
        self._is_identity = set(sizes) == {1}
        self.register_buffer("fixed_shift", None, persistent=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws all parameters anew: the weight as published, the bias as `torch.nn.Conv2d`, the head as its layers."""
        nn.init.kaiming_normal_(self.weights_3d, mode="fan_out", nonlinearity="relu")
        if self.bias is not None:
            bound = 1 / math.sqrt(self.in_channels // self.groups * self.kernel_size[0] * self.kernel_size[1])
            nn.init.uniform_(self.bias, -bound, bound)
        for layer in self.rotation_params:
            if isinstance(layer, nn.Conv2d | nn.BatchNorm2d):
                layer.reset_parameters()

    def predict_rotation(self, input: Tensor) -> tuple[Tensor, Tensor]:
        """Axis (B, 3) and angle (B,), in radians, of each sample; float32 at least, also where the head is in half."""
        return pooled_rotation(scores(input, self.rotation_params))

    def predict_shift(self, input: Tensor) -> Tensor:
        """Shift (B, 3), in elements, that the head predicts for each sample of input (B, in_channels, H, W)."""
        with_plain_sizes(self._check_input, input)
        return predict_shift(input, self.rotation_params, self.rotation)

    def fix_shift(self, shift: Tensor | None) -> None:
        """From now on every sample has this shift, (3,) in elements, and the head is skipped; None undoes it.

        The layer then is one plain convolution whose weight is a slice of the shifted `weights_3d`, which still
        learns; the head's parameters get gradients of 0.
        """
        if shift is not None:
            check_tensor("shift", shift)
            if shift.shape != (3,) or not shift.is_floating_point():
                raise ValueError(f"shift: expected (3,) of a floating type, got {tuple(shift.shape)}, {shift.dtype}")
            dtype = accumulate_dtype(self.weights_3d.dtype)
            shift = plain_tensor(shift).detach().to(self.weights_3d.device, dtype, copy=True)
        self.fixed_shift = shift

    def forward(self, input: Tensor) -> Tensor:
        """The convolution, (B, out_channels, H', W')."""
        output = straight(self, input)
        return self._general(input) if output is None else output

    def _general(self, input: Tensor) -> Tensor:
        """The same of any input, in any surroundings, of any head."""
        with_plain_sizes(self._check_input, input)
        image, padding = self._padded(input)
        fixed_shift = self.fixed_shift
        if self._is_identity or fixed_shift is not None:
            kernel = without_head(self.weights_3d, self.rotation_params)
            # Never by an index: its gradient fills another weight with zeros, and copies into it.
            if self._is_identity or fixed_shift is None:
                kernel = kernel.squeeze(2 + self.dim)
            else:
                kernel = fourier_shift_slice(kernel, fixed_shift[None], dim=self.dim, index=self.index).squeeze(0)
            return F.conv2d(image, kernel, self.bias, self.stride, padding, self.dilation, self.groups)
        numbers: Any = self.bias, self.stride, padding, self.dilation, self.groups
        # Before the head, which counts the batch.
        with_plain_sizes(plan_before_shift, image, self.weights_3d, *numbers, self.dim, self.index, whole=False)
        shift = predict_shift(input, self.rotation_params, self.rotation)
        return crossd_conv2d(image, self.weights_3d, shift, *numbers, dim=self.dim, index=self.index)

    def _check_input(self, input: Tensor) -> None:
        check_tensor("input", input)
        if input.dim() != 4 or input.shape[1] != self.in_channels:
            raise ValueError(f"input: expected (B, {self.in_channels}, H, W), got {tuple(input.shape)}")

    def _padded(self, input: Tensor) -> tuple[Tensor, Any]:
        """The input padded by what is not zeros, and the padding left to the convolution."""
        return padded(input, self.kernel_size, self.dilation, self.padding, self.padding_mode)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        def convert(tensor: Tensor) -> Tensor:
            try:
                return fn(tensor)
            except RuntimeError:
                if tensor.dim() != 5:
                    raise
                # A model's to(memory_format=torch.channels_last), which is for 4D tensors, asks it of 5D ones too, and
                # fails. The 3D weight stays contiguous: what the convolution reads are slices made from it.
                return fn(tensor.flatten(2, 3)).reshape(tensor.shape).contiguous()

        return super()._apply(convert, recurse)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *arguments: Any) -> None:
        weight = state_dict.get(prefix + "weights_3d")
        if self.bias is not None and weight is not None and prefix + "bias" not in state_dict:
            state_dict[prefix + "bias"] = torch.zeros_like(self.bias, device=weight.device)
        super()._load_from_state_dict(state_dict, prefix, *arguments)

    def extra_repr(self) -> str:
        """Arguments of the constructor; those that have their default only where `torch.nn.Conv2d` shows them too."""
        text = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"
        shown = {
            "padding": (self.padding, (0, 0)),
            "dilation": (self.dilation, (1, 1)),
            "groups": (self.groups, 1),
            "bias": (self.bias is not None, True),
            "padding_mode": (self.padding_mode, "zeros"),
            "rotation": (self.rotation, "linear"),
            "dim": (self.dim, 0),
            "depth": (self.depth, max(self.kernel_size)),
            "index": (self.index, self.depth // 2),
        }
        return text + "".join(f", {name}={value}" for name, (value, default) in shown.items() if value != default)

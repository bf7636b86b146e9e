"""What a call of sample_conv2d or sample_conv3d does: checks, types, and the way that serves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import backends, export
from ..context import transformed, with_plain_sizes
from ..convolution import NotPlain, place_of
from ..plan import Geometry, sample_plan_of
from ..torch_convolution import grouped_convolution, library_convolution
from .derivatives import convolution

_any_autocast: Callable[[], bool] = torch._C._is_any_autocast_enabled


def sample_convolution(input: Tensor, weight: Tensor, bias: Tensor | None, *numbers: Any, axes: int) -> Tensor:
    """y_b = conv(x_b, weight_b) + bias, where nothing stands between arguments and operators.

    numbers: stride, padding, dilation, groups. As of the layer, what the operators do not take is looked at afterwards.
    """
    stride, padding, dilation, groups = numbers
    try:
        if _any_autocast() or input.dim() != 2 + axes:
            raise NotPlain
        return convolution(input, weight, bias, place_of(stride, padding, dilation, groups, axes))
    except NotPlain:
        pass
    except Exception:
        if backends.failed(weight, sample_plan_of, input, weight, bias, *numbers, axes=axes):
            raise
    return checked_sample_convolution(input, weight, bias, *numbers, axes=axes)


def checked_sample_convolution(input: Tensor, weight: Tensor, bias: Tensor | None, *numbers: Any, axes: int) -> Tensor:
    """The same on any backend, of arguments that may be wrong, need a conversion, or carry other derivatives."""
    geometry, extra_padding, dtype = with_plain_sizes(sample_plan_of, input, weight, bias, *numbers, axes=axes)
    input, weight = input.to(dtype), weight.to(dtype)
    if bias is not None:
        bias = bias.to(dtype)
    if extra_padding:
        input = F.pad(input, extra_padding)
    if export.wants_plain_operations():
        return export.convolve(input, weight, bias, geometry)
    if backends.select(weight.device.type) == backends.COMPILED and not transformed():
        place = *geometry.stride, *geometry.padding, *geometry.dilation, geometry.groups
        return convolution(input, weight, bias, place)
    return _by_torch(input, weight, bias, geometry)


def _by_torch(input: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
    if geometry.samples == 0:
        # No sample has kernels. Any give the sizes of the result; the weight takes part, or its gradient were missing.
        kernels = weight.new_zeros(weight.shape[1:])
        return library_convolution(input, kernels, bias, geometry) + weight.sum()
    return grouped_convolution(input, weight, bias, geometry)

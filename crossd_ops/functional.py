"""The operators as functions. Every one differentiates in weight and shift to any order, on every backend."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from . import _backend, _checks
from ._autograd import shift_forward, shift_reference


def rotation_shift(axis: Tensor, angle: Tensor, *, rotation: str = "linear") -> Tensor:
    """The shift of a rotation: s = R^T 1, for which sum_d (R f)_d = s . f (the phase of arXiv 2411.02441).

    "linear": s = 1 - t (k x 1), of R = I + t [k]x, what the published code computes.
    "exact":  s = 1 - sin t (k x 1) + (1 - cos t) k x (k x 1), of Rodrigues' rotation.

    Neither rotates the weight: a phase linear in the frequency translates it. At t = 0 the shift is (1, 1, 1).

    Args:
        axis: k, (B, 3), used as given; a rotation needs a unit axis.
        angle: t in radians, (B,) or (B, 1).
        rotation: "linear" or "exact".

    Returns:
        (B, 3), in elements of the kernel along (d, h, w); float32, or float64 where axis or angle is.

    Raises:
        TypeError, ValueError: an argument is not a tensor, or not of the type or shape above.
    """
    _checks.check_rotation(axis, angle, rotation)
    dtype = torch.promote_types(torch.promote_types(axis.dtype, angle.dtype), torch.float32)
    axis, angle = axis.to(dtype), angle.to(dtype).reshape(-1, 1)
    cross_one = axis.roll(-1, -1) - axis.roll(1, -1)
    if rotation == "linear":
        return 1 - angle * cross_one
    cross_twice = axis.roll(-1, -1) * cross_one.roll(1, -1) - axis.roll(1, -1) * cross_one.roll(-1, -1)
    # 1 - cos t as 2 sin^2(t/2): no cancellation at the small angles that heads predict.
    return 1 - angle.sin() * cross_one + 2 * (angle / 2).sin().square() * cross_twice


def fourier_shift(weight: Tensor, shift: Tensor, *, dtype: torch.dtype | None = None) -> Tensor:
    """Translates a 3D weight by each sample's fractional shift, circularly.

    Re IFFT3(FFT3(weight) exp(-2 pi i shift . f)), arXiv 2411.02441; the operation of `scipy.ndimage.fourier_shift`.

    Args:
        weight: (O, C, Kd, Kh, Kw), each kernel size from 1 to 15; any strides; float64, float32, bfloat16, float16.
        shift: (B, 3), in elements along (d, h, w); any of these types, used in float32 (float64 for a float64 weight).
        dtype: of the result; default the weight's, under autocast the autocast type (never for a float64 weight).

    Returns:
        (B, O, C, Kd, Kh, Kw). A shift that is NaN or infinite makes the result of that sample alone NaN.

    Raises:
        TypeError, ValueError: before any work, with what was expected and what came.
    """
    _checks.check_weight_and_shift(weight, shift, dtype)
    return _shift(weight, shift, 0, None, dtype)


def fourier_shift_slice(
    weight: Tensor, shift: Tensor, *, dim: int = 0, index: int | None = None, dtype: torch.dtype | None = None
) -> Tensor:
    """One slice of `fourier_shift`, computed without the rest: the 2D weight of each sample (arXiv 2411.02441).

    Args:
        weight, shift, dtype: as for `fourier_shift`.
        dim: spatial axis of the weight along which to slice, 0 (published) to 2, or -3 to -1.
        index: position of the slice along it; default K // 2, the middle (published); negative counts from the end.

    Returns:
        (B, O, C) and the two kernel sizes without `dim`.

    Raises:
        TypeError, ValueError: as for `fourier_shift`; also an axis or an index out of range.
    """
    _checks.check_weight_and_shift(weight, shift, dtype)
    dim, index = _checks.check_slice(weight, dim, index)
    return _shift(weight, shift, dim, index, dtype)


def crossd_conv2d(
    input: Tensor,
    weight: Tensor,
    shift: Tensor,
    bias: Tensor | None = None,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] | str = 0,
    dilation: int | tuple[int, int] = 1,
    groups: int = 1,
    *,
    dim: int = 0,
    index: int | None = None,
) -> Tensor:
    """Convolves each sample with its own slice of the shifted weight: y_b = conv2d(x_b, w_b) (arXiv 2411.02441).

    Args:
        input: (B, C * groups, H, W), of the weight's type; contiguous, channels-last or any strides; B may be 0.
        weight: (O, C, Kd, Kh, Kw), O a multiple of `groups`.
        shift: (B, 3), in elements, see `rotation_shift`.
        bias: (O,) or None.
        stride, padding, dilation, groups: as for `torch.nn.functional.conv2d`; padding also "same" or "valid".
        dim, index: of the slice, see `fourier_shift_slice`.

    Returns:
        (B, O, H', W').

    Raises:
        TypeError, ValueError: as for `fourier_shift_slice`; also sizes that do not fit each other.
    """
    _checks.check_weight_and_shift(weight, shift, None)
    _checks.check_convolution(input, weight, shift, bias, groups)
    dim, index = _checks.check_slice(weight, dim, index)
    samples, out_channels = input.shape[0], weight.shape[0]
    if samples == 0:
        # No sample has a weight. Any slice gives the sizes of the result and a gradient of zeros.
        return F.conv2d(input, weight.select(2 + dim, index), bias, stride, padding, dilation, groups)
    kernels = _shift(weight, shift, dim, index, None).flatten(0, 1)
    # One convolution for all samples: each sample is a block of groups.
    stacked = input.reshape(1, samples * input.shape[1], *input.shape[2:])
    output = F.conv2d(stacked, kernels, None, stride, padding, dilation, samples * groups)
    output = output.reshape(samples, out_channels, *output.shape[2:])
    return output if bias is None else output + bias.to(output.dtype).reshape(-1, 1, 1)


def _shift(weight: Tensor, shift: Tensor, dim: int, index: int | None, dtype: torch.dtype | None) -> Tensor:
    """fourier_shift (no index) or its slice, of checked arguments, on the backend of the weight's device."""
    device_type = weight.device.type
    if dtype is None:
        dtype = weight.dtype
        if torch.is_autocast_enabled(device_type) and dtype is not torch.float64:
            dtype = torch.get_autocast_dtype(device_type)
    backend = _backend.select(device_type)
    if backend == _backend.REFERENCE:
        return shift_reference(weight, shift, dim, index, dtype)
    compute_dtype = _checks.accumulate_dtype(weight.dtype)
    if shift.dtype is not compute_dtype:
        shift = shift.to(compute_dtype)
    return shift_forward(weight, shift, dim, index, dtype, backend)

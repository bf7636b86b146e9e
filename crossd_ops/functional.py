"""The operators as functions. Every one differentiates in weight and shift to any order, on every backend."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.compiler import is_compiling

from . import _backend, _checks, _export
from ._autograd import shift_forward, shift_reference
from ._backend import is_direct
from ._convolution import grouped_convolution, library_convolution
from ._crossd_convolution import NotPlain, Place, crossd_convolution, place_of, two_steps
from ._fx import one_node
from ._plan import autocast_dtype, plan_of
from ._transforms import transformed, with_plain_sizes

_is_tracing: Callable[[], bool] = torch._C._is_tracing


@one_node
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
    with_plain_sizes(_checks.check_rotation, axis, angle, rotation)
    dtype = torch.promote_types(torch.promote_types(axis.dtype, angle.dtype), torch.float32)
    axis, angle = axis.to(dtype), angle.to(dtype).reshape(-1, 1)
    cross_one = axis.roll(-1, -1) - axis.roll(1, -1)
    if rotation == "linear":
        return 1 - angle * cross_one
    cross_twice = axis.roll(-1, -1) * cross_one.roll(1, -1) - axis.roll(1, -1) * cross_one.roll(-1, -1)
    # 1 - cos t as 2 sin^2(t/2): no cancellation at the small angles that heads predict.
    return 1 - angle.sin() * cross_one + 2 * (angle / 2).sin().square() * cross_twice


@one_node
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
    return _shift(weight, shift, 0, None, dtype, whole=True)


@one_node
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
    return _shift(weight, shift, dim, index, dtype, whole=False)


@one_node
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

    Between the passes autograd keeps input, weight and shift alone: the kernels are built anew in the backward pass.

    Args:
        input: (B, C * groups, H, W), of the weight's type, under autocast of any; any strides; B may be 0.
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
    if _is_plain():
        try:
            place = place_of(stride, padding, dilation, groups, 2)
            if index is not None or type(dim) is not int or dim:
                place = *place, dim, _position(weight, dim, index)
            return _plain_convolution(input, weight, shift, bias, place, 2)
        except NotPlain:
            pass
        except Exception:
            numbers = stride, padding, dilation, groups, dim, index
            if _is_no_fault_of(weight, plan_of, input, weight, shift, bias, *numbers, whole=False):
                raise
    return _checked_convolution(input, weight, shift, bias, stride, padding, dilation, groups, dim, index, False)


@one_node
def crossd_conv3d(
    input: Tensor,
    weight: Tensor,
    shift: Tensor,
    bias: Tensor | None = None,
    stride: int | tuple[int, int, int] = 1,
    padding: int | tuple[int, int, int] | str = 0,
    dilation: int | tuple[int, int, int] = 1,
    groups: int = 1,
) -> Tensor:
    """Convolves each volume with its own shifted weight, all of it: y_b = conv3d(x_b, W_b).

    Args:
        input: (B, C * groups, D, H, W), otherwise as for `crossd_conv2d`.
        weight, shift, bias: as for `crossd_conv2d`.
        stride, padding, dilation, groups: as for `torch.nn.functional.conv3d`; padding also "same" or "valid".

    Returns:
        (B, O, D', H', W').

    Raises:
        TypeError, ValueError: as for `crossd_conv2d`.
    """
    if _is_plain():
        try:
            return _plain_convolution(input, weight, shift, bias, place_of(stride, padding, dilation, groups, 3), 3)
        except NotPlain:
            pass
        except Exception:
            numbers = stride, padding, dilation, groups, 0, None
            if _is_no_fault_of(weight, plan_of, input, weight, shift, bias, *numbers, whole=True):
                raise
    return _checked_convolution(input, weight, shift, bias, stride, padding, dilation, groups, 0, None, True)


def _is_plain() -> bool:
    """Whether nothing stands between arguments and compiled operators, which make checks of their own before any work.

    What an operator does not take, its caller looks at again, and names where it is an error: looking at everything
    first takes Python as long as the operators themselves on a small problem.
    """
    return is_direct() and not (is_compiling() or transformed() or _is_tracing())


def _is_no_fault_of(weight: Tensor, check: Callable[..., Any], *arguments: Any, **options: Any) -> bool:
    """Whether an operator failed although `check` has nothing to say about its arguments, and `weight` is served here.

    Full memory, or a hook of the user's: another try would do the work twice, and hide that something is wrong.
    """
    try:
        check(*arguments, **options)
    except Exception:
        return False
    return _backend.select(weight.device.type) == _backend.COMPILED


def _position(weight: Tensor, dim: Any, index: Any) -> int:
    """Of the slice along `dim`, as operators take it; or NotPlain."""
    if type(dim) is not int or not 0 <= dim <= 2:
        raise NotPlain
    if index is None:
        return weight.shape[2 + dim] // 2
    if type(index) is not int or index < 0:
        raise NotPlain
    return index


def _plain_convolution(
    input: Tensor, weight: Tensor, shift: Tensor, bias: Tensor | None, place: Place, axes: int
) -> Tensor:
    """The per-sample convolution where `_is_plain`; or NotPlain, or what the operator raises."""
    if input.dim() != 2 + axes:
        raise NotPlain
    dtype = autocast_dtype(weight)
    if dtype is not None:
        input = input.to(dtype)
        bias = None if bias is None else bias.to(dtype)
    elif input.dtype is not weight.dtype:
        raise NotPlain
    return crossd_convolution(input, weight, shift, bias, place)


def _checked_convolution(input: Tensor, weight: Tensor, shift: Tensor, bias: Tensor | None, *rest: Any) -> Tensor:
    """The convolution on any backend, of arguments that may be wrong, need a conversion, or carry other derivatives."""
    *numbers, whole = rest
    plan = with_plain_sizes(plan_of, input, weight, shift, bias, *numbers, whole=whole)
    geometry, dtype = plan.geometry, plan.dtype
    if input.dtype is not dtype:
        input = input.to(dtype)
    if bias is not None and bias.dtype is not dtype:
        bias = bias.to(dtype)
    if plan.extra_padding:
        input = F.pad(input, plan.extra_padding)
    if geometry.samples == 0:
        # No sample has kernels. Any give the sizes of the result; the shift takes part, or its gradient were missing.
        kernels = weight if plan.position is None else weight.select(2 + plan.dim, plan.position)
        return library_convolution(input, kernels.to(dtype), bias, geometry) + shift.sum().to(dtype)
    if _export.wants_plain_operations():
        kernels = _export.shift(weight, shift, plan.dim, plan.position, dtype)
        return _export.convolve(input, kernels, bias, geometry)
    backend = _backend.select(weight.device.type)
    if backend == _backend.REFERENCE:
        kernels = shift_reference(weight, shift, plan.dim, plan.position, dtype)
        return grouped_convolution(input, kernels, bias, geometry)
    shift = shift.to(_checks.accumulate_dtype(weight.dtype))
    if backend == _backend.COMPILED and not transformed():
        place = *geometry.stride, *geometry.padding, *geometry.dilation, geometry.groups
        place += () if plan.position is None else (plan.dim, plan.position)
        return crossd_convolution(input, weight, shift, bias, place)
    return two_steps(input, weight, shift, bias, geometry, plan.dim, plan.position, backend)


def _shift(
    weight: Tensor, shift: Tensor, dim: int, index: int | None, dtype: torch.dtype | None, *, whole: bool
) -> Tensor:
    """fourier_shift or its slice."""
    if _is_plain():
        try:
            position = None if whole else _position(weight, dim, index)
            result_dtype = dtype or autocast_dtype(weight) or weight.dtype
            if shift.dtype not in _checks.DTYPES:
                raise NotPlain
            compute_shift = shift.to(_checks.accumulate_dtype(weight.dtype))
            return shift_forward(weight, compute_shift, dim, position, result_dtype, _backend.COMPILED)
        except NotPlain:
            pass
        except Exception:
            if _is_no_fault_of(weight, _checks_of_shift, weight, shift, dim, index, dtype, whole):
                raise
    return _checked_shift(weight, shift, dim, index, dtype, whole)


def _checked_shift(
    weight: Tensor, shift: Tensor, dim: int, index: int | None, dtype: torch.dtype | None, whole: bool
) -> Tensor:
    """The same on any backend, of arguments that may be wrong or need a conversion."""
    dim, index = with_plain_sizes(_checks_of_shift, weight, shift, dim, index, dtype, whole)
    if dtype is None:
        dtype = autocast_dtype(weight) or weight.dtype
    if _export.wants_plain_operations():
        return _export.shift(weight, shift, dim, index, dtype)
    backend = _backend.select(weight.device.type)
    if backend == _backend.REFERENCE:
        return shift_reference(weight, shift, dim, index, dtype)
    return shift_forward(weight, shift.to(_checks.accumulate_dtype(weight.dtype)), dim, index, dtype, backend)


def _checks_of_shift(
    weight: Tensor, shift: Tensor, dim: int, index: int | None, dtype: torch.dtype | None, whole: bool
) -> tuple[int, int | None]:
    """`dim` and `index` as operators take them, of arguments that fit each other."""
    _checks.check_weight_and_shift(weight, shift, dtype)
    return (0, None) if whole else _checks.check_slice(weight, dim, index)

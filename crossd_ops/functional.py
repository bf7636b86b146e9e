"""The operators as functions. Every one differentiates in weight and shift to any order, on every backend."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.compiler import is_compiling
from torch.fx import Proxy
from torch.overrides import has_torch_function

from .library import loaded
from .operators import backends, checks, export
from .operators.context import autocast_dtype, with_plain_sizes
from .operators.convolution import NotPlain, checked_convolution, convolution, position_of_slice
from .operators.rotation_head import shift_of_rotation
from .operators.sample_convolution.call import checked_sample_convolution, sample_convolution
from .operators.shift import shift_forward, shift_reference

_Function = TypeVar("_Function", bound=Callable[..., Any])
_is_tracing: Callable[[], bool] = torch._C._is_tracing
_is_transformed: Callable[[], bool] = torch._C._are_functorch_transforms_active


def one_node(function: _Function) -> _Function:
    """`function`, which is one node of a graph of torch.fx where it gets a Proxy, as the functions of torch are."""

    @functools.wraps(function)
    def traced(*arguments: Any, **options: Any) -> Any:
        # The quick question, in C++, before the exact one: other things than a Proxy have a __torch_function__ too.
        if has_torch_function(arguments) or (options and has_torch_function(tuple(options.values()))):
            tracer = tracer_of(*arguments, *options.values())
            if tracer is not None:
                return tracer.create_proxy("call_function", traced, arguments, options)
        return function(*arguments, **options)

    return cast(_Function, traced)


def tracer_of(*values: Any) -> Any:
    """The tracer whose Proxy is one of the values; None where none is."""
    return next((value.tracer for value in values if isinstance(value, Proxy)), None)


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
    with_plain_sizes(checks.check_rotation, axis, angle, rotation)
    dtype = torch.promote_types(torch.promote_types(axis.dtype, angle.dtype), torch.float32)
    return shift_of_rotation(axis.to(dtype), angle.to(dtype).reshape(-1, 1), rotation)


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
    On a GPU float32 is rounded to TF32 only where torch's own convolutions may be, `torch.backends.cudnn.allow_tf32`
    (by default on); `torch.backends.cuda.matmul.allow_tf32` alone rounds nothing here. A compiled function does what
    the last call before it did.

    Args:
        input: (B, C * groups, H, W), of the weight's type, under autocast of any; any strides; B may be 0.
        weight: (O, C, Kd, Kh, Kw), O a multiple of `groups`.
        shift: (B, 3), in elements, see `rotation_shift`.
        bias: (O,) or None.
        stride, padding, dilation, groups: as for `torch.nn.functional.conv2d`; padding also "same" or "valid".
        dim, index: of the slice, see `fourier_shift_slice`.

    Returns:
        (B, O, H', W') in the memory format of `input`, contiguous or channels-last.

    Raises:
        TypeError, ValueError: as for `fourier_shift_slice`; also sizes that do not fit each other.
    """
    convolve = convolution if is_plain() else checked_convolution
    return convolve(input, weight, shift, bias, stride, padding, dilation, groups, dim, index, whole=False)


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
        (B, O, D', H', W') in the memory format of `input`, contiguous or channels-last.

    Raises:
        TypeError, ValueError: as for `crossd_conv2d`.
    """
    convolve = convolution if is_plain() else checked_convolution
    return convolve(input, weight, shift, bias, stride, padding, dilation, groups, 0, None, whole=True)


@one_node
def sample_conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] | str = 0,
    dilation: int | tuple[int, int] = 1,
    groups: int = 1,
) -> Tensor:
    """Convolves each sample with kernels of its own: y_b = conv2d(x_b, w_b), as of dynamic filters (arXiv 1605.09673).

    By the methods of `crossd_conv2d`, in each direction, and on a GPU rounded as it is.

    Args:
        input: (B, C * groups, H, W), of the weight's type, under autocast of any; any strides; B may be 0.
        weight: (B, O, C, Kh, Kw), O a multiple of `groups`; any strides; float64, float32, bfloat16, float16.
        bias: (O,), the same for all samples, or None.
        stride, padding, dilation, groups: as for `torch.nn.functional.conv2d`; padding also "same" or "valid".

    Returns:
        (B, O, H', W') in the memory format of `input`, contiguous or channels-last.

    Raises:
        TypeError, ValueError: before any work, with what was expected and what came.
    """
    convolve = sample_convolution if is_plain() else checked_sample_convolution
    return convolve(input, weight, bias, stride, padding, dilation, groups, axes=2)


@one_node
def sample_conv3d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: int | tuple[int, int, int] = 1,
    padding: int | tuple[int, int, int] | str = 0,
    dilation: int | tuple[int, int, int] = 1,
    groups: int = 1,
) -> Tensor:
    """Convolves each volume with kernels of its own: y_b = conv3d(x_b, w_b).

    Args:
        input: (B, C * groups, D, H, W), otherwise as for `sample_conv2d`.
        weight: (B, O, C, Kd, Kh, Kw), otherwise as for `sample_conv2d`.
        bias: (O,), the same for all samples, or None.
        stride, padding, dilation, groups: as for `torch.nn.functional.conv3d`; padding also "same" or "valid".

    Returns:
        (B, O, D', H', W') in the memory format of `input`, contiguous or channels-last.

    Raises:
        TypeError, ValueError: as for `sample_conv2d`.
    """
    convolve = sample_convolution if is_plain() else checked_sample_convolution
    return convolve(input, weight, bias, stride, padding, dilation, groups, axes=3)


def is_plain() -> bool:
    """Whether nothing stands between arguments and compiled operators: no other backend, no transform, no tracer."""
    return (
        backends.forced in (None, backends.COMPILED)
        and loaded.runs_wherever_built
        and not (_is_transformed() or forward_ad._current_level >= 0 or is_compiling() or _is_tracing())
    )


def _shift(
    weight: Tensor, shift: Tensor, dim: int, index: int | None, dtype: torch.dtype | None, *, whole: bool
) -> Tensor:
    """fourier_shift or its slice."""
    if is_plain():
        try:
            position = None if whole else position_of_slice(weight, dim, index)
            result_dtype = dtype or autocast_dtype(weight) or weight.dtype
            if shift.dtype not in checks.DTYPES:
                raise NotPlain
            compute_shift = shift.to(checks.accumulate_dtype(weight.dtype))
            return shift_forward(weight, compute_shift, dim, position, result_dtype, backends.COMPILED)
        except NotPlain:
            pass
        except Exception:
            if backends.failed(weight, _checks_of_shift, weight, shift, dim, index, dtype, whole):
                raise
    return _checked_shift(weight, shift, dim, index, dtype, whole)


def _checked_shift(
    weight: Tensor, shift: Tensor, dim: int, index: int | None, dtype: torch.dtype | None, whole: bool
) -> Tensor:
    """The same on any backend, of arguments that may be wrong or need a conversion."""
    dim, index = with_plain_sizes(_checks_of_shift, weight, shift, dim, index, dtype, whole)
    if dtype is None:
        dtype = autocast_dtype(weight) or weight.dtype
    if export.wants_plain_operations():
        return export.shift(weight, shift, dim, index, dtype)
    backend = backends.select(weight.device.type)
    if backend == backends.REFERENCE:
        return shift_reference(weight, shift, dim, index, dtype)
    return shift_forward(weight, shift.to(checks.accumulate_dtype(weight.dtype)), dim, index, dtype, backend)


def _checks_of_shift(
    weight: Tensor, shift: Tensor, dim: int, index: int | None, dtype: torch.dtype | None, whole: bool
) -> tuple[int, int | None]:
    """`dim` and `index` as operators take them, of arguments that fit each other."""
    checks.check_weight_and_shift(weight, shift, dtype)
    return (0, None) if whole else checks.check_slice(weight.shape, dim, index)

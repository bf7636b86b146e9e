"""The whole layer, shift and convolution, as one step of autograd around one operator in each direction.

It keeps input, weight and shift alone. The kernels of each sample, B times as large as a plain convolution's, are built
anew in the backward pass, which costs one read of the weight and spares their memory between the two passes
(csrc/convolution/op.h).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..library import loaded
from ..tuning import tf32
from ..tuning.first_call import tried_before
from . import backends, export
from .checks import accumulate_dtype
from .context import apply_of, autocast_dtype, transformed, with_plain_sizes
from .plan import Geometry, plan_of, result_sizes
from .shift import shift_forward, shift_reference
from .torch_convolution import empty_in_format, grouped_convolution, library_convolution

# What a call says beside its tensors, as the operators take it: stride, padding and dilation, each once or along each
# axis, and groups; of images dim and index of the slice may follow. One tuple, as short as can be: each argument of its
# own, and each number, takes time at every call.
Place = tuple[int, ...]

_operators: Any = torch.ops.crossd_ops
# The overloads, not the packets, which would resolve the overload anew at every call; none where no library was loaded.
_forward: Any = None if loaded.load_error else _operators.convolution.default
_backward: Any = None if loaded.load_error else _operators.convolution_backward.default
# What the overload calls, which spares a call of Python; torch.compile traces nothing but overloads.
eager_forward: Any = tried_before(getattr(_forward, "_op", _forward), backward=False)
_eager_backward: Any = tried_before(_backward, backward=True)
_any_autocast: Callable[[], bool] = torch._C._is_any_autocast_enabled


class NotPlain(Exception):
    """Arguments that the operators do not take as they are, for those who know what else they could mean."""


def convolution(
    input: Tensor,
    weight: Tensor,
    shift: Tensor,
    bias: Tensor | None,
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: Any,
    dim: Any,
    index: Any,
    *,
    whole: bool,
) -> Tensor:
    """y_b = conv(x_b, shifted weight of b) + bias, where nothing stands between arguments and operators.

    `whole`: of a volume; else of an image, with the slice at `index` along `dim`. The operators make checks of their
    own before any work, so what they do not take is looked at here only afterwards: looking at everything first takes
    Python as long as the operators themselves on a small problem.
    """
    numbers = stride, padding, dilation, groups, dim, index
    try:
        place = place_of(stride, padding, dilation, groups, 3 if whole else 2)
        if index is not None or type(dim) is not int or dim:
            place = *place, dim, position_of_slice(weight, dim, index)
        if input.dim() != (5 if whole else 4):
            raise NotPlain
        dtype = autocast_dtype(weight) if _any_autocast() else None
        if dtype is not None:
            input = input.to(dtype)
            bias = bias_beside(bias, dtype)
        elif input.dtype is not weight.dtype:
            raise NotPlain
        return _by_operators(input, weight, shift, bias, place)
    except NotPlain:
        pass
    except Exception:
        if backends.failed(weight, plan_of, input, weight, shift, bias, *numbers, whole=whole):
            raise
    return checked_convolution(input, weight, shift, bias, *numbers, whole=whole)


def checked_convolution(
    input: Tensor, weight: Tensor, shift: Tensor, bias: Tensor | None, *numbers: Any, whole: bool
) -> Tensor:
    """The same on any backend, of arguments that may be wrong, need a conversion, or carry other derivatives."""
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
    if export.wants_plain_operations():
        kernels = export.shift(weight, shift, plan.dim, plan.position, dtype)
        return export.convolve(input, kernels, bias, geometry)
    backend = backends.select(weight.device.type)
    if backend == backends.REFERENCE:
        kernels = shift_reference(weight, shift, plan.dim, plan.position, dtype)
        return grouped_convolution(input, kernels, bias, geometry)
    shift = shift.to(accumulate_dtype(weight.dtype))
    if backend == backends.COMPILED and not transformed():
        place = *geometry.stride, *geometry.padding, *geometry.dilation, geometry.groups
        place += () if plan.position is None else (plan.dim, plan.position)
        return _by_operators(input, weight, shift, bias, place)
    return two_steps(input, weight, shift, bias, geometry, plan.dim, plan.position, backend)


def place_of(stride: Any, padding: Any, dilation: Any, groups: Any, axes: int) -> Place:
    """The place of a volume, or of an image and the middle slice along axis 0; or NotPlain."""
    if type(groups) is not int:
        raise NotPlain
    if type(stride) is type(padding) is type(dilation) is int:
        return stride, padding, dilation, groups
    place: Place = ()
    for value in (stride, padding, dilation):
        if type(value) is int:
            value = (value,) * axes
        elif type(value) is not tuple or len(value) != axes or {*map(type, value)} != {int}:
            raise NotPlain
        place += value
    return *place, groups


def position_of_slice(weight: Tensor, dim: Any, index: Any) -> int:
    """Of the slice along `dim`, as operators take it; or NotPlain."""
    if type(dim) is not int or not 0 <= dim <= 2:
        raise NotPlain
    if index is None:
        return weight.shape[2 + dim] // 2
    if type(index) is not int or index < 0:
        raise NotPlain
    return index


def bias_beside(bias: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """As the operators take it, of this type or, beside a half type, of float32: itself, or a copy."""
    if bias is None or bias.dtype is dtype or (bias.dtype is torch.float32 and dtype.itemsize == 2):
        return bias
    return bias.to(dtype)


def _by_operators(input: Tensor, weight: Tensor, shift: Tensor, bias: Tensor | None, place: Place) -> Tensor:
    """By the compiled operators; input of the type of the result, bias too or of float32, weight and shift any.

    Raises what the operator does, for arguments that do not fit: its checks come before any work. Not for torch.func
    and forward mode.
    """
    compiling = torch.compiler.is_compiling()
    if torch.is_grad_enabled() and (
        input.requires_grad or weight.requires_grad or shift.requires_grad or (bias is not None and bias.requires_grad)
    ):
        apply = _Convolution.apply if compiling else _apply
    else:
        apply = _forward if compiling else eager_forward
    try:
        output: Tensor = apply(input, weight, shift, bias, place)
    except RuntimeError as error:
        raise backends.with_type(error) from error.__cause__
    return output


def two_steps(
    input: Tensor,
    weight: Tensor,
    shift: Tensor,
    bias: Tensor | None,
    geometry: Geometry,
    dim: int,
    index: int | None,
    backend: str,
) -> Tensor:
    """The same as the kernels of all samples, then their convolution, each of which knows every derivative."""
    kernels = shift_forward(weight, shift, dim, index, input.dtype, backend)
    return grouped_convolution(input, kernels, bias, geometry)


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, input: Tensor, weight: Tensor, shift: Tensor, bias: Tensor | None, place: Place) -> Tensor:
        ctx.save_for_backward(input, weight, shift)
        ctx.place, ctx.bias_dtype = place, None if bias is None else bias.dtype
        forward = _forward if torch.compiler.is_compiling() else eager_forward
        output: Tensor = forward(input, weight, shift, bias, place)
        return output

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        needs = ctx.needs_input_grad[:3]
        found = gradients(grad, ctx.saved_tensors, ctx.place, needs)
        # (B, O, ...) -> (O,)
        axes = [0, *range(2, grad.dim())]
        of_bias = grad.sum(axes, dtype=ctx.bias_dtype) if ctx.needs_input_grad[3] else None
        return *found, of_bias, None


_apply = apply_of(_Convolution)


def gradients(grad: Tensor, tensors: Sequence[Tensor], place: Place, needs: Sequence[bool]) -> Sequence[Tensor | None]:
    """Gradients of input, weight and shift; None for one that is not needed."""
    if not any(needs):
        return None, None, None
    compiling = torch.compiler.is_compiling()
    if compiling or not torch.is_grad_enabled():
        try:
            found = (_backward if compiling else _eager_backward)(grad, *tensors, place, *needs)
        except RuntimeError as error:
            raise backends.with_type(error) from error.__cause__
        return [gradient if need else None for gradient, need in zip(found, needs, strict=True)]
    # These gradients will be differentiated (create_graph): their graph is that of the two steps' gradients.
    input, weight, shift = tensors
    samples, channels, *sizes = input.shape
    stride, padding, dilation, groups, dim, index = parts_of(place, weight.shape[2:], len(sizes))
    numbers = stride, padding, dilation, groups, samples
    geometry = Geometry(*numbers, tuple(grad.shape[2:]), (1, samples * channels, *sizes))
    compute_shift = shift.to(accumulate_dtype(weight.dtype))
    output = two_steps(input, weight, compute_shift, None, geometry, dim, index, backends.COMPILED)
    sought = [tensor for tensor, need in zip(tensors, needs, strict=True) if need]
    found = iter(torch.autograd.grad(output, sought, grad, create_graph=True))
    return [next(found) if need else None for need in needs]


def parts_of(
    place: Sequence[int], kernel: Sequence[int], axes: int
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], int, int, int | None]:
    """Stride, padding and dilation along each axis, groups, dim and index; no index: the whole weight, of volumes.

    Of a weight with a kernel of these three sizes, and a convolution of so many axes.
    """
    each = axes if len(place) > 3 * axes else 1
    stride, padding, dilation = (tuple(place[each * part : each * (part + 1)]) * (axes // each) for part in range(3))
    position = place[3 * each + 1 :] or (0, kernel[0] // 2)
    dim, index = position if axes == 2 else (0, None)
    return stride, padding, dilation, place[3 * each], dim, index


def _convolution_shape(
    input: Tensor, weight: Tensor, shift: Tensor, bias: Tensor | None, place: Sequence[int]
) -> Tensor:
    loaded.check_same_device(input, weight, shift, bias)
    tf32.follow_torch(input)
    kernel = list(weight.shape[2:])
    stride, padding, dilation, _, dim, index = parts_of(place, kernel, input.dim() - 2)
    if index is not None:
        del kernel[dim]
    result = result_sizes(input.shape[2:], kernel, stride, padding, dilation)
    return empty_in_format((input.shape[0], weight.shape[0], *result), input)


def _convolution_backward_shape(
    grad: Tensor, input: Tensor, weight: Tensor, shift: Tensor, *rest: Any
) -> tuple[Tensor, Tensor, Tensor]:
    tf32.follow_torch(input)
    of_input, of_weight, of_shift = (
        like.new_empty(like.shape if need else (0,))
        for like, need in zip((input, weight, shift), rest[-3:], strict=True)
    )
    if rest[-3]:
        of_input = empty_in_format(input.shape, input)
    return of_input, of_weight, of_shift


loaded.register_fake("convolution", _convolution_shape)
loaded.register_fake("convolution_backward", _convolution_backward_shape)

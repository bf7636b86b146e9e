"""The whole layer, shift and convolution, as one step of autograd around one operator in each direction.

It keeps input, weight and shift alone. The kernels of each sample, B times as large as a plain convolution's, are built
anew in the backward pass, which costs one read of the weight and spares their memory between the two passes
(csrc/convolution/op.h).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from . import _backend, _library
from ._autograd import shift_forward
from ._checks import accumulate_dtype
from ._convolution import Geometry, grouped_convolution
from ._transforms import apply_of

# What a call says beside its tensors, as the operators take it: stride, padding and dilation, each once or along each
# axis, and groups; of images dim and index of the slice may follow. One tuple, as short as can be: each argument of its
# own, and each number, takes time at every call.
Place = tuple[int, ...]

_operators: Any = torch.ops.crossd_ops
# The overloads, not the packets, which would resolve the overload anew at every call; none where no library was loaded.
_forward: Any = None if _library.load_error else _operators.convolution.default
_backward: Any = None if _library.load_error else _operators.convolution_backward.default
# What the overload calls, which spares a call of Python; torch.compile traces nothing but overloads.
_eager_forward: Any = functools.partial(_backend.run, getattr(_forward, "_op", _forward))
_eager_backward: Any = functools.partial(_backend.run, _backward)


class NotPlain(Exception):
    """Arguments that the operators do not take as they are, for those who know what else they could mean."""


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


def crossd_convolution(input: Tensor, weight: Tensor, shift: Tensor, bias: Tensor | None, place: Place) -> Tensor:
    """y_b = conv(x_b, shifted weight of b) + bias, by the compiled operators.

    Input and bias have the type of the result, weight and shift any. Raises what the operator does, for arguments that
    do not fit: its checks come before any work. Not for torch.func and forward mode.
    """
    compiling = torch.compiler.is_compiling()
    if torch.is_grad_enabled() and (
        input.requires_grad or weight.requires_grad or shift.requires_grad or (bias is not None and bias.requires_grad)
    ):
        apply = _CrossDConvolution.apply if compiling else _apply
    else:
        apply = _forward if compiling else _eager_forward
    output: Tensor = apply(input, weight, shift, bias, place)
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


class _CrossDConvolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, input: Tensor, weight: Tensor, shift: Tensor, bias: Tensor | None, place: Place) -> Tensor:
        ctx.save_for_backward(input, weight, shift)
        ctx.place = place
        forward = _forward if torch.compiler.is_compiling() else _eager_forward
        output: Tensor = forward(input, weight, shift, bias, place)
        return output

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        needs = ctx.needs_input_grad[:3]
        found = _gradients(grad, ctx.saved_tensors, ctx.place, needs)
        # (B, O, ...) -> (O,)
        of_bias = grad.sum([0, *range(2, grad.dim())]) if ctx.needs_input_grad[3] else None
        return *found, of_bias, None


_apply = apply_of(_CrossDConvolution)


def _gradients(grad: Tensor, tensors: Sequence[Tensor], place: Place, needs: Sequence[bool]) -> Sequence[Tensor | None]:
    """Gradients of input, weight and shift; None for one that is not needed."""
    if not any(needs):
        return None, None, None
    compiling = torch.compiler.is_compiling()
    if compiling or not torch.is_grad_enabled():
        backward = _backward if compiling else _eager_backward
        found = backward(grad, *tensors, place, *needs)
        return [gradient if need else None for gradient, need in zip(found, needs, strict=True)]
    # These gradients will be differentiated (create_graph): their graph is that of the two steps' gradients.
    input, weight, shift = tensors
    samples, channels, *sizes = input.shape
    stride, padding, dilation, groups, dim, index = parts_of(place, weight.shape[2:], len(sizes))
    numbers = stride, padding, dilation, groups, samples
    geometry = Geometry(*numbers, tuple(grad.shape[2:]), (1, samples * channels, *sizes))
    compute_shift = shift.to(accumulate_dtype(weight.dtype))
    output = two_steps(input, weight, compute_shift, None, geometry, dim, index, _backend.COMPILED)
    sought = [tensor for tensor, need in zip(tensors, needs, strict=True) if need]
    gradients = iter(torch.autograd.grad(output, sought, grad, create_graph=True))
    return [next(gradients) if need else None for need in needs]


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
    _library.check_same_device(input, weight, shift, bias)
    kernel = list(weight.shape[2:])
    stride, padding, dilation, _, dim, index = parts_of(place, kernel, input.dim() - 2)
    if index is not None:
        del kernel[dim]
    numbers = zip(input.shape[2:], kernel, stride, padding, dilation, strict=True)
    result = [(size + 2 * pad - rate * (side - 1) - 1) // step + 1 for size, side, step, pad, rate in numbers]
    return input.new_empty((input.shape[0], weight.shape[0], *result))


def _convolution_backward_shape(
    grad: Tensor, input: Tensor, weight: Tensor, shift: Tensor, *rest: Any
) -> tuple[Tensor, Tensor, Tensor]:
    of_input, of_weight, of_shift = (
        like.new_empty(like.shape if need else (0,))
        for like, need in zip((input, weight, shift), rest[-3:], strict=True)
    )
    return of_input, of_weight, of_shift


_library.register_fake("convolution", _convolution_shape)
_library.register_fake("convolution_backward", _convolution_backward_shape)

"""Derivatives of the convolution with given kernels, of every order, by its own two operators.

The convolution is bilinear in input x and kernels w, so with an output gradient g all of it hangs on one trilinear form

    < g, conv(x, w) >,    forward A(x, w),    backward B(g, w) = of x, C(g, x) = of w

and the derivatives of B and C are A, B and C again. With hx and hw, what comes back for B and C:

    of g: A(hx, w) + A(x, hw),    of x: B(g, hw),    of w: C(g, hx)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ...library import loaded
from ...tuning import tf32
from ...tuning.first_call import tried_before
from .. import backends
from ..context import apply_of
from ..plan import result_sizes
from ..torch_convolution import empty_in_format

Place = tuple[int, ...]  # stride, padding and dilation along each axis, and groups

_operators: Any = torch.ops.crossd_ops
# The overloads, not the packets, which would resolve the overload anew at every call; none where no library was loaded.
_forward: Any = None if loaded.load_error else _operators.sample_convolution.default
_backward: Any = None if loaded.load_error else _operators.sample_convolution_backward.default
_eager_forward: Any = tried_before(_forward, backward=False, kernels_are_given=True)
_eager_backward: Any = tried_before(_backward, backward=True, kernels_are_given=True)


def _run_forward(*arguments: Any) -> Tensor:
    output: Tensor = backends.run(_forward if torch.compiler.is_compiling() else _eager_forward, *arguments)
    return output


def _run_backward(*arguments: Any) -> tuple[Tensor, Tensor]:
    found: tuple[Tensor, Tensor] = backends.run(
        _backward if torch.compiler.is_compiling() else _eager_backward, *arguments
    )
    return found


def convolution(input: Tensor, weight: Tensor, bias: Tensor | None, place: Place) -> Tensor:
    """A(x, w) + bias; of checked arguments of one type. Not for torch.func and forward mode."""
    wants_grad = input.requires_grad or weight.requires_grad or (bias is not None and bias.requires_grad)
    apply: Any = _run_forward
    if torch.is_grad_enabled() and wants_grad:
        apply = _Convolution.apply if torch.compiler.is_compiling() else _apply
    output: Tensor = apply(input, weight, bias, place)
    return output


def gradients(
    grad: Tensor, input: Tensor, weight: Tensor, place: Place, need_input: bool, need_weight: bool
) -> tuple[Tensor | None, Tensor | None]:
    """B(g, w) and C(g, x), differentiable; None for one that is not needed."""
    if not (need_input or need_weight):
        return None, None
    wants_grad = grad.requires_grad or input.requires_grad or weight.requires_grad
    apply: Any = _run_backward
    if torch.compiler.is_compiling():
        apply = _ConvolutionBackward.apply
    elif torch.is_grad_enabled() and wants_grad:
        apply = _apply_backward
    found = apply(grad, input, weight, place, need_input, need_weight)
    return found[0] if need_input else None, found[1] if need_weight else None


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, input: Tensor, weight: Tensor, bias: Tensor | None, place: Place) -> Tensor:
        ctx.save_for_backward(input, weight)
        ctx.place = place
        return _run_forward(input, weight, bias, place)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        input, weight = ctx.saved_tensors
        need_input, need_weight, need_bias, _ = ctx.needs_input_grad
        found = gradients(grad, input, weight, ctx.place, need_input, need_weight)
        of_bias = grad.sum([0, *range(2, grad.dim())]) if need_bias else None
        return *found, of_bias, None


class _ConvolutionBackward(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, grad: Tensor, input: Tensor, weight: Tensor, place: Place, need_input: bool, need_weight: bool
    ) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(grad, input, weight)
        ctx.place = place
        return _run_backward(grad, input, weight, place, need_input, need_weight)

    @staticmethod
    def backward(ctx: Any, h_input: Tensor | None, h_weight: Tensor | None) -> tuple[Tensor | None, ...]:
        # Nothing comes back for a gradient that was not needed: nobody has it.
        grad, input, weight = ctx.saved_tensors
        need_grad, need_input, need_weight = ctx.needs_input_grad[:3]
        of_grad: Tensor | None = None
        of_input: Tensor | None = None
        of_weight: Tensor | None = None
        if h_input is not None:
            if need_grad:
                of_grad = convolution(h_input, weight, None, ctx.place)
            of_weight = gradients(grad, h_input, weight, ctx.place, False, need_weight)[1]
        if h_weight is not None:
            if need_grad:
                second = convolution(input, h_weight, None, ctx.place)
                of_grad = second if of_grad is None else of_grad + second
            of_input = gradients(grad, input, h_weight, ctx.place, need_input, False)[0]
        return of_grad, of_input, of_weight, None, None, None


_apply, _apply_backward = apply_of(_Convolution), apply_of(_ConvolutionBackward)


def _convolution_shape(input: Tensor, weight: Tensor, bias: Tensor | None, place: Sequence[int]) -> Tensor:
    loaded.check_same_device(input, weight, bias)
    tf32.follow_torch(input)
    axes = input.dim() - 2
    each = axes if len(place) > 3 * axes else 1
    numbers = [tuple(place[each * part : each * (part + 1)]) * (axes // each) for part in range(3)]
    result = result_sizes(input.shape[2:], weight.shape[3:], *numbers)
    return empty_in_format((input.shape[0], weight.shape[1], *result), input)


def _convolution_backward_shape(
    grad: Tensor, input: Tensor, weight: Tensor, place: Sequence[int], need_input: bool, need_weight: bool
) -> tuple[Tensor, Tensor]:
    tf32.follow_torch(input)
    of_input = empty_in_format(input.shape, input) if need_input else input.new_empty((0,))
    return of_input, weight.new_empty(weight.shape if need_weight else (0,))


loaded.register_fake("sample_convolution", _convolution_shape)
loaded.register_fake("sample_convolution_backward", _convolution_backward_shape)

"""The whole layer under torch.compile: both passes as operators, which the compiler does not look into.

Inductor makes a constant of a convolution's number of groups, here a multiple of the batch size, and would compile anew
for each; and what is best for a shape, which takes a loop over samples or blocks of channels, is chosen when the shape
is known.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from . import _export
from ._autograd import shift_forward
from ._convolution import Geometry
from ._crossd_convolution import forward, grad_of_bias, gradients, two_steps
from ._plan import Plan, planned


def compiled_convolution(
    input: Tensor, weight: Tensor, shift: Tensor, bias: Tensor | None, plan: Plan, backend: str
) -> Tensor:
    """`crossd_convolution` while torch.compile or torch.export traces."""
    if not torch.compiler.is_exporting():
        geometry = plan.geometry
        place = (plan.dim, plan.position, *geometry[:4], geometry.result)
        function: Any = _CompiledConvolution
        output: Tensor = function.apply(input, weight, shift, bias, *place, backend)
        return output
    # An exported program has to run without Python: no operator of below.
    if plan.position is not None:
        return two_steps(input, weight, shift, bias, plan, backend)
    kernels = shift_forward(weight, shift, plan.dim, plan.position, plan.dtype, backend)
    return _export.convolve(input, kernels, bias, plan.geometry)


class _CompiledConvolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        input, weight, shift, _, *ctx.place = inputs
        ctx.save_for_backward(input, weight, shift)
        output: Tensor = _forward(*inputs)
        return output

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        needs = ctx.needs_input_grad[:3]
        found = _backward(grad, *ctx.saved_tensors, *ctx.place, *needs)
        of_tensors = [gradient if need else None for gradient, need in zip(found, needs, strict=True)]
        return *of_tensors, grad_of_bias(grad) if ctx.needs_input_grad[3] else None, *(None,) * 8


# The numbers of the geometry one by one, `result` last: operators take no tuples of them.
_PLACE = (
    "int dim, int? index, SymInt[] stride, SymInt[] padding, SymInt[] dilation, SymInt groups, SymInt[] result, "
    "str backend"
)


def _plan(input: Tensor, weight: Tensor, shift: Tensor, place: Sequence[Any]) -> Plan:
    dim, index, stride, padding, dilation, groups, result, _ = place
    samples, channels, *sizes = input.shape
    each = (tuple(stride), tuple(padding), tuple(dilation))
    geometry = Geometry(*each, groups, samples, tuple(result), (1, samples * channels, *sizes))
    return planned(weight, shift, dim, index, geometry, input.dtype, [])


@torch.library.custom_op(
    "crossd_ops::convolution",
    mutates_args=(),
    schema=f"(Tensor input, Tensor weight, Tensor shift, Tensor? bias, {_PLACE}) -> Tensor",
)
def _forward(input: Tensor, weight: Tensor, shift: Tensor, bias: Tensor | None, *place: Any) -> Tensor:
    return forward(input, weight, shift, bias, _plan(input, weight, shift, place), place[-1]).contiguous()


@_forward.register_fake
def _forward_shape(input: Tensor, weight: Tensor, shift: Tensor, bias: Tensor | None, *place: Any) -> Tensor:
    return input.new_empty((input.shape[0], weight.shape[0], *place[-2]))


@torch.library.custom_op(
    "crossd_ops::convolution_backward",
    mutates_args=(),
    schema=f"(Tensor grad, Tensor input, Tensor weight, Tensor shift, {_PLACE}, "
    "bool need_input, bool need_weight, bool need_shift) -> (Tensor, Tensor, Tensor)",
)
def _backward(grad: Tensor, input: Tensor, weight: Tensor, shift: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    place, needs = rest[:-3], rest[-3:]
    found = gradients(grad, input, weight, shift, _plan(input, weight, shift, place), needs, place[-1])
    of_input, of_weight, of_shift = (
        like.new_empty(0) if gradient is None else gradient.to(like.dtype).contiguous()
        for gradient, like in zip(found, (input, weight, shift), strict=True)
    )
    return of_input, of_weight, of_shift


@_backward.register_fake
def _backward_shape(
    grad: Tensor, input: Tensor, weight: Tensor, shift: Tensor, *rest: Any
) -> tuple[Tensor, Tensor, Tensor]:
    of_input, of_weight, of_shift = (
        like.new_empty(like.shape if need else (0,))
        for like, need in zip((input, weight, shift), rest[-3:], strict=True)
    )
    return of_input, of_weight, of_shift
